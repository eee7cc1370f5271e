"""A corpus of a few files, with every kind of case."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from ternfmt_conformance.corpus import CASES, MANIFEST, Corpus, load_corpus, make_manifest
from ternfmt_conformance.files.raw import features, plain, poke

CODES = np.array([[1, 0, -1, 1, -1], [1, -1, 1, 0, 1]], dtype=np.int8)
SCALE = np.array([1.0, 0.5], dtype="<f2")
BIAS = struct.pack("<2f", 1.5, -2.0)
WEIGHTS = CODES * SCALE[:, None].astype("<f4")
X = np.arange(-7, 8, dtype="<f4").reshape(3, 5)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def case(name: str, op: str, expect: dict[str, Any], level: str, *rules: str, **rest: Any) -> dict[str, Any]:
    """A line of cases.jsonl."""
    fixed = {"id": name, "title": f"about {name}", "level": level, "severity": "MUST", "rules": list(rules), "op": op}
    return {**fixed, "expect": expect, **rest}


LOGICAL = {
    "tensors": {
        "w": {
            "shape": ["2", "5"],
            "group_size": None,
            "planes": [{"codes": CODES.tobytes().hex(), "scale": SCALE.tobytes().hex()}],
            "scale_dtype": "F16",
            "low_rank": {"rank": "1", "dtype": "F16", "down": "00" * 10, "up": "003c003c"},
        },
        "b": {"dtype": "F32", "shape": ["2"], "data": BIAS.hex()},
    },
    "ancillary": {"producer": {"name": "conformance", "version": "1"}},
    "metadata": {"format": "pt", "note": "n"},
}

DESCRIPTION = [
    {"name": "b", "ternary": False, "shape": ["2"], "dtype": "F32", "data_sha256": sha256(BIAS)},
    {
        "name": "w",
        "ternary": True,
        "shape": ["2", "5"],
        "dtype": "F16",
        "planes": 1,
        "group_size": None,
        "low_rank": None,
        "codes_sha256": [sha256(CODES.tobytes())],
        "scale_sha256": [sha256(SCALE.tobytes())],
    },
]

PLAIN = "valid/plain.safetensors"
REJECT = {"size": "33554441", "writes": [{"offset": "0", "hex": "0100000200000000"}]}
SPACES = {
    "size": "10000008",
    "writes": [{"offset": "0", "hex": struct.pack("<Q", 10_000_000).hex()},
               {"offset": "8", "hex": b"{}".hex()}, {"offset": "10", "hex": "20", "repeat": "9999998"}],
}  # fmt: skip


def cases() -> list[dict[str, Any]]:
    return [
        case("r0/plain", "validate", {"ok": True}, "R0", "S-1.14", "S-1.2", path=PLAIN),
        case("r0/empty", "validate", {"class": "PREFIX"}, "R0", "S-1.1", path="invalid/empty.safetensors"),
        case("r0/json", "validate", {"class": "JSON"}, "R0", "S-1.4", path="invalid/json.safetensors"),
        case("r0/long", "validate", {"class": "HEADER_LEN"}, "R0", "S-1.2", path="a", recipe={"a": REJECT}),
        case("r0/soft", "validate", {"ok": True}, "R0", "S-1.14", path=PLAIN, severity="SHOULD"),
        case("r1/version", "validate", {"class": "VERSION"}, "R1", "S-13.1", path="invalid/version.safetensors"),
        case("r2/features", "validate", {"ok": True}, "R2", "S-5.5", path="valid/features.safetensors",
             features=["group-scale", "planes", "low-rank"]),
        case("r2/code", "validate", {"class": "CODE"}, "R2", "S-3.2", path="invalid/code.safetensors"),
        case("r2/describe", "describe", {"tensors": DESCRIPTION}, "R2", "S-3.4", path=PLAIN),
        case("r2/describe-code", "describe", {"class": "CODE"}, "R2", "S-3.2", path="invalid/code.safetensors"),
        case("r2/unpack", "unpack", {"sha256": sha256(CODES[1:].tobytes())}, "R2", "S-3.4", path=PLAIN, tensor="w",
             plane=1, rows=["1", "2"]),
        case("r2/unpack-nothing", "unpack", {"sha256": sha256(b"")}, "R2", "S-3.4", path=PLAIN, tensor="w", plane=1,
             rows=["1", "1"]),
        case("r2/dequantize", "dequantize", {"sha256": sha256(WEIGHTS.tobytes())}, "R2", "S-4.6", path=PLAIN,
             tensor="w", dtype="F32"),
        case("r3/folder", "validate", {"class": "INDEX"}, "R3", "S-7.7", path="invalid/two"),
        case("r3/links", "validate", {"class": "PATH"}, "R3", "S-7.4", path="m.safetensors.index.json",
             strict_links=True, recipe={"m.safetensors.index.json": {"copy": "valid/index.json"},
                                        "m.safetensors": {"link": "elsewhere/blob"},
                                        "elsewhere/blob": {"copy": PLAIN}}),
        case("r4/exact", "matmul", {"y": "y.f64", "exact": True}, "R4", "S-12.3", path=PLAIN, tensor="w", x="x.f32",
             m="3", dtype="F32"),
        case("r4/bounded", "matmul", {"y": "y.f64", "a": "a.f64", "terms": "9"}, "R4", "S-12.2", path=PLAIN,
             tensor="w", x="x.f32", m="3", dtype="F32"),
        case("w1/encode", "encode", {"ok": True}, "W1", "S-3.4", logical="logical.json"),
        case("w1/refuse", "encode", {"class": "CODE"}, "W1", "S-3.2", logical="bad-logical.json"),
        case("w2/encode", "encode", {"sha256": CANONICAL}, "W2", "S-11.1", logical="logical.json"),
        case("s/spaces", "validate", {"class": "STRIPPED"}, "S", "S-9.1", path="a", recipe={"a": SPACES},
             budget={"seconds": 10, "memory_bytes": str(1 << 30)}),
    ]  # fmt: skip


CANONICAL = "96008b08a8a32da974754acfd3f0bfb1f35254e929095eaa8c8f304f4c846f32"


def write(folder: Path, lines: list[dict[str, Any]] | None = None) -> Corpus:
    """Write the corpus; ``lines`` are its cases."""
    for name in ("valid", "invalid/two"):
        (folder / name).mkdir(parents=True)
    files = {
        PLAIN: plain().build(),
        "valid/features.safetensors": features().build(),
        "valid/index.json": json.dumps({"weight_map": dict.fromkeys(["b", "w", "w_scale"], "m.safetensors")}).encode(),
        "invalid/empty.safetensors": b"",
        "invalid/json.safetensors": struct.pack("<Q", 2) + b"{]",
        "invalid/version.safetensors": plain().build().replace(rb"\"1.0\"", rb"\"2.0\""),
        "invalid/code.safetensors": _with_forbidden_code(),
        "invalid/two/a.safetensors": plain().build(),
        "invalid/two/b.safetensors": plain().build(),
        "logical.json": json.dumps(LOGICAL).encode(),
        "bad-logical.json": json.dumps(LOGICAL).replace(CODES.tobytes().hex(), "02" * 10).encode(),
        "x.f32": X.tobytes(),
        "y.f64": (X.astype("<f8") @ WEIGHTS.T).astype("<f8").tobytes(),
        "a.f64": (np.abs(X.astype("<f8")) @ np.abs(WEIGHTS.T)).astype("<f8").tobytes(),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / CASES).write_text("".join(json.dumps(line) + "\n" for line in (cases() if lines is None else lines)))
    (folder / MANIFEST).write_text(json.dumps(make_manifest(folder, "0.1")))
    return load_corpus(folder)


def _with_forbidden_code() -> bytes:
    raw = plain()
    poke("w", 0, b"\x02")(raw)
    return raw.build()
