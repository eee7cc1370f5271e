"""Cases of levels W1 and W2: logical models, and the one canonical file of each."""

from __future__ import annotations

import random
from collections.abc import Mapping

from ternfmt_conformance.files.raw import ITEM_BYTES, Tensor, tensor

from .canonical import canonical_file
from .collect import Collector, slug
from .expect import description, sha256
from .logical import Logical, Ternary, random_ternary

BIAS = Tensor("F32", [2], bytes.fromhex("0000c03f000000c0"))
PLAIN = Ternary((2, 5), [([1, 0, -1, 1, -1, 1, -1, 1, 0, 1], [1.0, 0.5])])
PRODUCER = {"producer": {"name": "conformance", "version": "1"}}


def bits(dtype: str, shape: list[int], seed: int) -> Tensor:
    """A dense tensor of random bits (of BOOL, of 0 and 1)."""
    zeros = tensor(dtype, shape)
    data = random.Random(seed).getrandbits(8 * len(zeros.data)).to_bytes(len(zeros.data), "little")
    return Tensor(dtype, shape, bytes(byte & 1 for byte in data) if dtype == "BOOL" else data)


def aligned() -> Logical:
    """A model whose header needs no padding."""
    for length in range(64):
        model = Logical({"w": PLAIN}, PRODUCER, {"format": "pt", "note": "x" * length})
        text = canonical_file(model)
        header = text[8 : 8 + int.from_bytes(text[:8], "little")]
        if header.endswith(b"}"):
            return model
    raise AssertionError("no length fits")


def models() -> Mapping[str, tuple[str, Logical]]:
    """Title -> the rule that decides most, and the model."""
    return {
        "one ternary and one dense tensor": ("S-11.2", Logical({"w": PLAIN, "b": BIAS}, PRODUCER)),
        "no tensors": ("S-11.2", Logical({}, PRODUCER)),
        "dense tensors only": ("S-11.4", Logical({"b": BIAS, "a": bits("BF16", [3], 0)}, PRODUCER)),
        "header that needs no padding": ("S-11.2", aligned()),
        "every dense dtype": (
            "S-11.3",
            Logical({f"d.{dtype}": bits(dtype, [3, 2], i) for i, dtype in enumerate(ITEM_BYTES)}, PRODUCER),
        ),
        "names whose order depends on how they are compared": (
            "S-11.3",
            Logical(
                dict.fromkeys(("b", "B", "a", "a.b", "a-b", "aB", "~", "!", "a10", "a9", '"', "\\"), BIAS), PRODUCER
            ),
        ),
        "zero-size tensors and scalars": (
            "S-11.3",
            Logical(
                {"z": tensor("F32", [0, 3]), "y": tensor("F32", [3, 0]), "s": bits("F32", [], 1), "b": BIAS}, PRODUCER
            ),
        ),
        "strings with every kind of escape": (
            "S-11.1",
            Logical(
                {"w": PLAIN},
                {
                    **PRODUCER,
                    "note": '\x00\x01\b\t\n\f\r\x1f "\\/\x7f\x80\u00e9\u2028\ud7ff\ue000\uffff\U00010000\U0010ffff',
                },
                {"format": "pt", "\u00e9\n": "\U0001f600\x7f"},
            ),
        ),
        "keys in the order of their code points": (
            "S-11.1",
            Logical(
                {"w": PLAIN},
                {**PRODUCER, "\uffff": 1, "\U00010000": 2, "Z": 3, "a": 4, "": 5, "10": 6, "9": 7},
                {"format": "pt", "\uffff": "1", "\U00010000": "2", "a": "3", "B": "4"},
            ),
        ),
        "ancillary values of every type": (
            "S-11.1",
            Logical(
                {"w": PLAIN},
                {
                    **PRODUCER,
                    "x": [None, True, False, 0, -1, 2**53 - 1, -(2**53) + 1, "", [], {}, [[{"b": 1, "a": [2]}]]],
                },
            ),
        ),
        "all features": ("S-11.4", Logical({"w": random_ternary(11, (4, 35), 2, 16, 2)}, PRODUCER)),
        "features in different tensors": (
            "S-11.4",
            Logical(
                {
                    "c": random_ternary(12, (3, 20), planes=3, dtype="BF16"),
                    "b": random_ternary(13, (3, 20), rank=1, factor_dtype="BF16"),
                    "a": random_ternary(14, (2, 40), group_size=32, dtype="F32"),
                },
                PRODUCER,
            ),
        ),
        **{
            f"scales {dtype}, factors {factors}": (
                "S-4.1",
                Logical(
                    {"w": random_ternary(20, (3, 9), planes=2, rank=2, dtype=dtype, factor_dtype=factors)}, PRODUCER
                ),
            )
            for dtype, factors in (("F32", "F16"), ("F16", "BF16"), ("BF16", "F32"))
        },
        **{f"K = {k}": ("S-3.5", Logical({"w": random_ternary(30 + k, (3, k))}, PRODUCER)) for k in (1, 2, 3, 4, 5)},
        "N = 1": ("S-3.3", Logical({"w": random_ternary(40, (1, 6))}, PRODUCER)),
        "rank 4": ("S-3.4", Logical({"w": random_ternary(41, (3, 2, 3, 3))}, PRODUCER)),
        "rows of zeros": ("S-4.4", Logical({"w": Ternary((2, 5), [([0] * 5 + [1] * 5, [0.0, 0.25])])}, PRODUCER)),
        "codes under a scale of 0": (
            "S-4.4",
            Logical({"w": Ternary((2, 5), [([1, 0, -1, 1, -1] * 2, [0.0, 0.25])])}, PRODUCER),
        ),
        "one group": ("S-5.2", Logical({"w": random_ternary(42, (2, 16), group_size=16)}, PRODUCER)),
        "four planes": ("S-5.3", Logical({"w": random_ternary(43, (2, 6), planes=4)}, PRODUCER)),
        "longest name": ("S-6.2", Logical({"n" * 249: PLAIN}, PRODUCER)),
    }


def faults() -> Mapping[str, tuple[str, str, Logical]]:
    """Title -> rule, class and a model that no file can hold."""
    code = Ternary((1, 4), [([1, 0, 1, 0], [1.0])])
    return {
        "negative scale": ("S-4.2", "SCALE", Logical({"w": Ternary((1, 4), [([1, 0, 1, 0], [-1.0])])})),
        "scale of -0.0": ("S-4.2", "SCALE", Logical({"w": Ternary((1, 4), [([1, 0, 1, 0], [-0.0])])})),
        "NaN scale": ("S-4.2", "SCALE", Logical({"w": Ternary((1, 4), [([1, 0, 1, 0], [float("nan")])])})),
        "name of a plane taken": ("S-6.1", "NAME", Logical({"w": code, "w_plane2": BIAS})),
        "name of the scale taken": ("S-6.1", "NAME", Logical({"w": code, "w_scale": BIAS})),
    }


def add_writing(corpus: Collector) -> None:
    """All cases of levels W1 and W2, and the canonical files for readers."""
    for title, (rule, model) in models().items():
        name = slug(title)
        logical = corpus.file(f"logical/{name}.json", model.to_json())
        data = canonical_file(model)
        path = corpus.file(f"valid/canonical/{name}.safetensors", data)
        used = model.required
        corpus.case(f"canonical/{name}", f"canonical: {title}", "R2", ["S-8.2", "S-8.1", rule], "validate", {"ok": True},
                    features=used, digests=True, path=path)  # fmt: skip
        corpus.case(f"describe/canonical-{name}", f"describe: canonical: {title}", "R2", [rule, "S-3.4"], "describe",
                    {"tensors": description(data)}, features=used, path=path)  # fmt: skip
        corpus.case(f"encode/{name}", f"encode: {title}", "W1", _w1_rules(model), "encode", {"ok": True},
                    features=used, logical=logical)  # fmt: skip
        corpus.case(f"encode/{name}", f"encode canonically: {title}", "W2", _w2_rules(rule, model), "encode",
                    {"sha256": sha256(data)}, features=used, logical=logical)  # fmt: skip
    for title, (rule, kind, model) in faults().items():
        logical = corpus.file(f"logical/fault-{slug(title)}.json", model.to_json())
        corpus.case(f"{kind.lower()}/{slug(title)}", f"encode: {title}", "W1", [rule], "encode", {"class": kind},
                    logical=logical)  # fmt: skip
    for value in (2, -2, -128):
        text = Logical({"w": Ternary((1, 4), [([1, 0, 1, 0], [1.0])])}).to_json()
        changed = text.replace(b'"01000100"', f'"0100{value & 0xFF:02x}00"'.encode())
        logical = corpus.file(f"logical/fault-code-{value & 0xFF}.json", changed)
        corpus.case(f"code/code-{value & 0xFF}", f"encode: code of {value}", "W1", ["S-3.2"], "encode",
                    {"class": "CODE"}, logical=logical)  # fmt: skip


def _w1_rules(model: Logical) -> list[str]:
    rules = ["S-3.1", "S-3.4", "S-3.5", "S-4.1"] if any(isinstance(t, Ternary) for t in model.tensors.values()) else []
    by_feature = {"group-scale": "S-5.2", "planes": "S-5.3", "low-rank": "S-5.4"}
    return [*rules, *(by_feature[feature] for feature in model.required), "S-2.5", "S-5.1"]


def _w2_rules(rule: str, model: Logical) -> list[str]:
    rules = [rule] if rule.startswith("S-11.") else []
    return [*rules, "S-11.1", "S-11.2", "S-11.3", "S-11.4", "S-11.5", "S-2.1", "S-8.2", "S-8.3", "S-13.4"]
