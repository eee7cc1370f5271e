"""The right answers, from SPEC's own pseudo-code."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from ternfmt_conformance.files.decode import Decoder, plane_name


def sha256(data: bytes) -> str:
    """SHA-256 in lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def description(*files: bytes) -> list[dict[str, Any]]:
    """What `describe` answers for a file, or for the shards of a model: the tensors that they hold whole."""
    decoder = Decoder(*files)
    described: dict[str, dict[str, Any]] = {}
    parts: set[str] = set()
    for name, entry in decoder.entries.items():
        planes = [plane_name(name, p) for p in range(1, entry.get("planes", 1) + 1)]
        names = planes + [f"{plane}_scale" for plane in planes]
        if "low_rank" in entry:
            names += [f"{name}_lowrank_down", f"{name}_lowrank_up"]
        parts.update(names)
        if all(part in decoder.header for part in names):
            described[name] = {
                "name": name,
                "ternary": True,
                "shape": list(map(str, entry["shape"])),
                "dtype": decoder.header[f"{name}_scale"]["dtype"],
                "planes": len(planes),
                "group_size": entry.get("group_size"),
                "low_rank": entry.get("low_rank"),
                "codes_sha256": [sha256(decoder.codes(name, p).tobytes()) for p in range(1, len(planes) + 1)],
                "scale_sha256": [sha256(decoder.data(f"{plane}_scale")) for plane in planes],
            }
    for name, info in decoder.header.items():
        if name not in parts:
            described[name] = {
                "name": name,
                "ternary": False,
                "shape": list(map(str, info["shape"])),
                "dtype": info["dtype"],
                "data_sha256": sha256(decoder.data(name)),
            }
    return [described[name] for name in sorted(described)]


def dequantized(decoder: Decoder, name: str, dtype: str) -> bytes:
    """What `dequantize` writes. NaN has many bit patterns, so there must be none."""
    weights = decoder.weights(name)
    assert not np.isnan(weights).any(), f"{name}: NaN cannot be compared bit for bit"
    if dtype == "F32":
        return weights.astype("<f4").tobytes()
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return weights.astype("<f2").tobytes()
    return to_bfloat16(weights).astype("<u2").tobytes()


def to_bfloat16(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Rounded to nearest, ties to even: the upper half of the bits, plus one where the lower half is large."""
    bits = weights.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> np.uint64(16) & np.uint64(1))) >> np.uint64(16)).astype(np.uint16)
