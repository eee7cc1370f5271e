"""From a case to a request, and from an answer to an outcome."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ternfmt.errors import FormatError

from .corpus import Case, file_digest
from .logical import differences, read_logical
from .outcome import Outcome
from .product import product_fault

_WRITING = ("unpack", "dequantize", "matmul", "encode")


@dataclass(frozen=True)
class Verdict:
    """An outcome, what the testee said in short, and details for people."""

    outcome: Outcome
    got: str
    detail: str = ""


def make_request(case: Case, path: Path | None, corpus_root: Path, out: Path) -> dict[str, Any]:
    """The request of PROTOCOL.md, but for its id.

    Args:
        case: the case.
        path: what it is about, if it reads a model.
        corpus_root: where its other files lie.
        out: where the testee is to write.
    """
    request: dict[str, Any] = {"op": case.op, **case.arguments}
    for key in ("x", "logical"):
        if key in request:
            request[key] = str(corpus_root / request[key])
    if path is not None:
        request["path"] = str(path)
    if case.op == "validate":
        request = {**request, **{key: request.get(key, default) for key, default in VALIDATE_DEFAULTS.items()}}
    if case.op in _WRITING:
        request["out"] = str(out)
    return request


VALIDATE_DEFAULTS = {"read_as": "auto", "digests": False, "strict_links": False}
"""What a case of op validate need not say."""


def expected_answer(case: Case, features: Collection[str]) -> Mapping[str, Any]:
    """``expect``, or FEATURE where the testee lacks a feature that the case needs (SPEC S-5.1)."""
    lacking = [feature for feature in case.features if feature not in features]
    return {"class": "FEATURE"} if lacking else case.expect


def describe_expected(expect: Mapping[str, Any]) -> str:
    """The right answer in a few words."""
    if "class" in expect:
        return str(expect["class"])
    if "sha256" in expect:
        return f"ok, SHA-256 {expect['sha256']}"
    if "y" in expect:
        return f"ok, {'exactly' if 'exact' in expect else 'within the bound of'} {expect['y']}"
    if "tensors" in expect:
        return f"ok, {len(expect['tensors'])} tensors"
    return "ok"


def judge(case: Case, answer: Mapping[str, Any], expect: Mapping[str, Any], corpus_root: Path, out: Path) -> Verdict:
    """Compare an answer with the right one."""
    if answer.get("skipped") is True:
        return Verdict(Outcome.SKIPPED, "skipped", str(answer.get("reason", "")))
    if answer.get("errored") is True:
        return Verdict(Outcome.CRASH, "errored", str(answer.get("detail", "")))
    if answer.get("ok") is True:
        if "class" in expect:
            return Verdict(Outcome.WRONGLY_ACCEPTED, "ok")
        fault = _value_fault(case, answer, expect, corpus_root, out)
        return Verdict(Outcome.EXACT, "ok") if fault is None else Verdict(Outcome.WRONG_VALUE, "ok", fault)
    error = answer.get("error")
    if answer.get("ok") is not False or not isinstance(error, dict) or not isinstance(error.get("class"), str):
        return Verdict(Outcome.GARBAGE, "garbage", f"not an answer of PROTOCOL.md: {json.dumps(answer)[:500]}")
    kind, detail = error["class"], str(error.get("detail", ""))
    if "class" not in expect:
        return Verdict(Outcome.WRONGLY_REJECTED, kind, detail)
    return Verdict(Outcome.EXACT if kind == expect["class"] else Outcome.WRONG_CLASS, kind, detail)


def _value_fault(
    case: Case, answer: Mapping[str, Any], expect: Mapping[str, Any], corpus_root: Path, out: Path
) -> str | None:
    """What is wrong with the values of an accepted case, or None."""
    if case.op == "validate":
        return None
    if case.op == "describe":
        return _description_fault(answer.get("tensors"), expect["tensors"])
    if not out.is_file():
        return "wrote no file"
    if "sha256" in expect:
        digest = file_digest(out)
        return None if digest == expect["sha256"] else f"{out.stat().st_size} bytes, SHA-256 {digest}"
    if case.op == "matmul":
        return product_fault(out.read_bytes(), expect, corpus_root)
    try:
        return "; ".join(differences(out, read_logical(corpus_root / case.arguments["logical"]))) or None
    except FormatError as error:
        return f"the file is not valid: {error}"


def _description_fault(got: Any, expected: list[dict[str, Any]]) -> str | None:
    if not isinstance(got, list):
        return "the answer has no array `tensors`"
    for position, tensor in enumerate(expected):
        if position >= len(got) or _text(got[position]) != _text(tensor):
            actual = _text(got[position]) if position < len(got) else "nothing"
            return f"tensor {position}: got {actual}, expected {_text(tensor)}"
    return None if len(got) == len(expected) else f"{len(got)} tensors, expected {len(expected)}"


def _text(value: Any) -> str:
    """JSON values compared as text: 1 is neither true nor 1.0."""
    return json.dumps(value, sort_keys=True)
