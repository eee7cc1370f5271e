"""Ask an implementation, and say its answer so that it can be compared."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ternfmt.container import DTYPES

from ..driver import LoopDriver, OneShotDriver
from ..foreign import clean
from ..outcome import Fault, Outcome
from .subject import Probe, Subject

Driver = LoopDriver | OneShotDriver
SKIPPED = Outcome.SKIPPED.value


@dataclass(frozen=True)
class Question:
    """One request, but for what depends on where files lie.

    Attributes:
        op: the operation of PROTOCOL.md.
        arguments: its other keys, but ``path``, ``x`` and ``out``.
        x: activations, raw, or None.
        dtype: of what is written to ``out``, or None.
    """

    op: str
    arguments: Mapping[str, Any]
    x: bytes | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Said:
    """An answer.

    Attributes:
        outcome: ``ok``, an error class, ``skipped``, or what became of the implementation: ``crash``, ``timeout``, ...
        value: what came with ``ok``, in a form that can be compared.
        detail: for people.
    """

    outcome: str
    value: Any = None
    detail: str = ""

    @property
    def failed(self) -> bool:
        """No answer that the protocol allows."""
        return self.outcome.islower() and self.outcome not in ("ok", SKIPPED)

    def agrees(self, other: Said) -> bool:
        """Whether both say the same; if either skips, there is nothing to compare."""
        if SKIPPED in (self.outcome, other.outcome):
            return True
        return not self.failed and (self.outcome, self.value) == (other.outcome, other.value)

    def __str__(self) -> str:
        shown = "" if self.value is None else f"  {json.dumps(self.value)[:500]}"
        return f"{self.outcome}{shown}" + (f"  {self.detail[:500]}" if self.detail else "")


def first_question(subject: Subject) -> Question:
    """Is it valid?"""
    return Question("validate", {"read_as": subject.read_as, "digests": subject.digests, "strict_links": False})


def probe_question(probe: Probe, description: Any) -> Question | None:
    """What a probe asks of a model that was described so; None if the model holds no ternary tensor."""
    ternary = [tensor for tensor in description if tensor["ternary"]]
    if not ternary:
        return None
    tensor = ternary[probe.tensor % len(ternary)]
    n = int(tensor["shape"][0])
    k = int(np.prod([int(size) for size in tensor["shape"][1:]]))
    name: dict[str, Any] = {"tensor": tensor["name"]}
    if probe.op == "unpack":
        rows = sorted(row % (n + 1) for row in probe.rows)
        return Question("unpack", {**name, "plane": 1 + probe.plane % tensor["planes"], "rows": list(map(str, rows))})
    if probe.op == "dequantize":
        return Question("dequantize", {**name, "dtype": probe.dtype}, dtype=probe.dtype)
    if tensor["low_rank"] is not None:
        return None
    x = np.resize(np.array(probe.x, np.float32), (probe.m, k)).astype(DTYPES[probe.dtype])
    return Question("matmul", {**name, "m": str(probe.m), "dtype": probe.dtype}, x.tobytes(), "F32")


def make_request(question: Question, path: Path, scratch: Path) -> tuple[dict[str, Any], Path]:
    """The request but for its id, and the file that it asks for."""
    out = scratch / "out"
    out.unlink(missing_ok=True)
    request = {"op": question.op, "path": str(path), **question.arguments}
    if question.x is not None:
        (scratch / "x").write_bytes(question.x)
        request["x"] = str(scratch / "x")
    if question.op not in ("validate", "describe"):
        request["out"] = str(out)
    return request, out


def ask(driver: Driver, question: Question, path: Path, scratch: Path, timeout: float) -> Said:
    """Ask. Whatever the implementation does ends up in the answer."""
    request, out = make_request(question, path, scratch)
    try:
        answer = said(driver.ask(request, timeout, fresh=False).value, question, out)
    except Fault as fault:
        answer = Said(fault.outcome.value, detail=fault.detail)
    folder = path if path.is_dir() else path.parent
    return replace(answer, detail=answer.detail.replace(f"{folder}{os.sep}", "").replace(str(folder), "."))


def said(answer: Mapping[str, Any], question: Question, out: Path) -> Said:
    """An answer of the protocol."""
    if answer.get("skipped") is True:
        return Said(SKIPPED)
    if answer.get("errored") is True:
        return Said(Outcome.CRASH.value, detail=clean(str(answer.get("detail", ""))))
    error = answer.get("error")
    if answer.get("ok") is False and isinstance(error, dict) and str(error.get("class", "")).isupper():
        return Said(str(error["class"]), detail=clean(str(error.get("detail", ""))))
    if answer.get("ok") is not True:
        return Said(Outcome.GARBAGE.value, detail=clean(json.dumps(answer)[:500]))
    if question.op == "validate":
        return Said("ok")
    if question.op == "describe":
        return Said("ok", answer.get("tensors"))
    if not out.is_file():
        return Said(Outcome.GARBAGE.value, detail="wrote no file")
    return Said("ok", hashlib.sha256(_comparable(out.read_bytes(), question)).hexdigest())


def _comparable(data: bytes, question: Question) -> bytes:
    """The bytes, with one NaN for all; of a product also with one zero."""
    if question.dtype is None or len(data) % DTYPES[question.dtype].itemsize:
        return data
    values = np.frombuffer(data, DTYPES[question.dtype]).copy()
    values[np.isnan(values)] = np.nan
    if question.op == "matmul":
        values[values == 0] = 0
    return values.tobytes()
