"""SPEC Appendix A, transliterated: plain loops over a file's bytes, without ternfmt or numpy arrays."""

from __future__ import annotations

import json
import struct
from math import ceil, prod
from typing import Any

import numpy as np


class Forbidden(Exception):
    """The code 10."""


def bfloat16(raw: bytes) -> float:
    return float(struct.unpack("<f", b"\0\0" + raw)[0])


FLOATS = {
    "F32": (4, lambda raw: struct.unpack("<f", raw)[0]),
    "F16": (2, lambda raw: struct.unpack("<e", raw)[0]),
    "BF16": (2, bfloat16),
}


class Decoder:
    """Decodes one valid file."""

    def __init__(self, file: bytes) -> None:
        (length,) = struct.unpack("<Q", file[:8])
        self.header = json.loads(file[8 : 8 + length])
        self.section = file[8 + length :]
        self.document = json.loads(self.header["__metadata__"]["ternfmt"])

    def data(self, name: str) -> bytes:
        begin, end = self.header[name]["data_offsets"]
        return self.section[begin:end]

    def number(self, name: str, index: int) -> np.float32:
        size, decode = FLOATS[self.header[name]["dtype"]]
        return np.float32(decode(self.data(name)[index * size : (index + 1) * size]))

    def weight(self, name: str, n: int, column: int) -> np.float32:
        entry: dict[str, Any] = self.document["tensors"][name]
        k = prod(entry["shape"][1:])
        width = ceil(k / 4)
        g = entry.get("group_size", k)
        groups = ceil(k / g)
        total = np.float32(0)
        for p in range(1, entry.get("planes", 1) + 1):
            plane = name if p == 1 else f"{name}_plane{p}"
            byte = self.data(plane)[n * width + column // 4]
            code = (byte >> (2 * (column % 4))) & 3
            if code == 2:
                raise Forbidden
            if code == 3:
                code = -1
            scale = self.number(plane + "_scale", n * groups + column // g)
            term = scale * np.float32(code)
            total = term if p == 1 else total + term
        if "low_rank" in entry:
            total = total + self.low_rank(name, n, column, entry["low_rank"], k)
        return total

    def low_rank(self, name: str, n: int, column: int, rank: int, k: int) -> np.float32:
        total = np.float32(0)
        for r in range(rank):
            up = self.number(name + "_lowrank_up", n * rank + r)
            term = up * self.number(name + "_lowrank_down", r * k + column)
            total = term if r == 0 else total + term
        return total

    def weights(self, name: str) -> np.ndarray:
        shape = self.document["tensors"][name]["shape"]
        rows, columns = range(shape[0]), range(prod(shape[1:]))
        values = [self.weight(name, n, column) for n in rows for column in columns]
        return np.array(values, dtype=np.float32).reshape(shape)
