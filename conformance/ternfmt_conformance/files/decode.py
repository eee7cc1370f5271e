"""SPEC Appendix A, transliterated: plain loops over bytes, without ternfmt."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from math import ceil, prod
from typing import Any

import numpy as np
import numpy.typing as npt


class Forbidden(Exception):
    """The code 10."""


def bfloat16(raw: bytes) -> float:
    return float(struct.unpack("<f", b"\0\0" + raw)[0])


FLOATS: dict[str, tuple[int, Callable[[bytes], float]]] = {
    "F32": (4, lambda raw: float(struct.unpack("<f", raw)[0])),
    "F16": (2, lambda raw: float(struct.unpack("<e", raw)[0])),
    "BF16": (2, bfloat16),
}


class Decoder:
    """Decodes a valid file, or the valid shards of a model.

    Attributes:
        header: what the headers say of each stored tensor, by name.
        entries: what the documents say of each ternary tensor, by name.
    """

    def __init__(self, *files: bytes) -> None:
        self.header: dict[str, dict[str, Any]] = {}
        self.entries: dict[str, dict[str, Any]] = {}
        self._sections: dict[str, bytes] = {}
        for file in files:
            (length,) = struct.unpack("<Q", file[:8])
            header = json.loads(file[8 : 8 + length])
            self.entries |= json.loads(header.pop("__metadata__")["ternfmt"])["tensors"]
            self.header |= header
            self._sections |= dict.fromkeys(header, file[8 + length :])

    def data(self, name: str) -> bytes:
        """A stored tensor's bytes."""
        begin, end = self.header[name]["data_offsets"]
        return self._sections[name][begin:end]

    def number(self, name: str, index: int) -> np.float32:
        """A number of a stored tensor."""
        size, decode = FLOATS[self.header[name]["dtype"]]
        return np.float32(decode(self.data(name)[index * size : (index + 1) * size]))

    def size(self, name: str) -> tuple[int, int]:
        """N and K of a ternary tensor."""
        shape = self.entries[name]["shape"]
        return shape[0], prod(shape[1:])

    def code(self, plane: str, k: int, n: int, column: int) -> int:
        """A code of a plane, by the name of its stored tensor."""
        byte = self.data(plane)[n * ceil(k / 4) + column // 4]
        code = (byte >> (2 * (column % 4))) & 3
        if code == 2:
            raise Forbidden
        return -1 if code == 3 else code

    def codes(self, name: str, p: int) -> npt.NDArray[np.int8]:
        """All codes of plane ``p``, counted from 1: ``[N, K]``."""
        rows, k = self.size(name)
        plane = plane_name(name, p)
        values = [[self.code(plane, k, n, column) for column in range(k)] for n in range(rows)]
        return np.array(values, dtype=np.int8).reshape(rows, k)

    def weight(self, name: str, n: int, column: int) -> np.float32:
        """One value of a ternary tensor."""
        entry = self.entries[name]
        _, k = self.size(name)
        g = entry.get("group_size", k)
        groups = ceil(k / g)
        total = np.float32(0)
        for p in range(1, entry.get("planes", 1) + 1):
            plane = plane_name(name, p)
            scale = self.number(plane + "_scale", n * groups + column // g)
            term = scale * np.float32(self.code(plane, k, n, column))
            total = term if p == 1 else total + term
        if "low_rank" in entry:
            total = total + self.low_rank(name, n, column, entry["low_rank"], k)
        return total

    def low_rank(self, name: str, n: int, column: int, rank: int, k: int) -> np.float32:
        """One value of ``up * down``."""
        total = np.float32(0)
        for r in range(rank):
            up = self.number(name + "_lowrank_up", n * rank + r)
            term = up * self.number(name + "_lowrank_down", r * k + column)
            total = term if r == 0 else total + term
        return total

    def weights(self, name: str) -> npt.NDArray[np.float32]:
        """All values of a ternary tensor in its logical shape."""
        rows, k = self.size(name)
        with np.errstate(over="ignore", invalid="ignore"):  # past the largest number is infinity, in IEEE 754
            values = [self.weight(name, n, column) for n in range(rows) for column in range(k)]
        return np.array(values, dtype=np.float32).reshape(self.entries[name]["shape"])


def plane_name(name: str, p: int) -> str:
    """Name of the codes of plane ``p``, counted from 1."""
    return name if p == 1 else f"{name}_plane{p}"
