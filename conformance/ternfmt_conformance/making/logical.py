"""Models as values: what goes into a file, and into logical.json."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, prod
from typing import Any

from ternfmt_conformance.files.decode import plane_name
from ternfmt_conformance.files.raw import ITEM_BYTES, RawFile, Tensor

Numbers = Sequence[float]
BITS = {-1: 0b11, 0: 0b00, 1: 0b01}


@dataclass(frozen=True)
class Ternary:
    """A ternary tensor.

    Attributes:
        shape: logical shape.
        planes: of each its codes, row-major, and its scales.
        dtype: of the scales.
        group_size: columns that share a scale, or None.
        low_rank: down ``[R, K]`` and up ``[N, R]``, row-major, or None.
        factor_dtype: of both.
    """

    shape: tuple[int, ...]
    planes: Sequence[tuple[Sequence[int], Numbers]]
    dtype: str = "F16"
    group_size: int | None = None
    low_rank: tuple[Numbers, Numbers] | None = None
    factor_dtype: str = "F16"

    @property
    def n(self) -> int:
        return self.shape[0]

    @property
    def k(self) -> int:
        return prod(self.shape[1:])

    @property
    def groups(self) -> int:
        """Scales of a row."""
        return 1 if self.group_size is None else ceil(self.k / self.group_size)

    @property
    def rank(self) -> int:
        return 0 if self.low_rank is None else len(self.low_rank[1]) // self.n

    @property
    def features(self) -> list[str]:
        used = [(self.group_size, "group-scale"), (self.low_rank, "low-rank"), (len(self.planes) > 1, "planes")]
        return [feature for is_used, feature in used if is_used]

    def entry(self) -> dict[str, Any]:
        """What the metadata document says of it."""
        optional = {
            "group_size": self.group_size,
            "planes": len(self.planes) if len(self.planes) > 1 else None,
            "low_rank": self.rank or None,
        }
        return {
            "shape": list(self.shape),
            "encoding": "int2",
            **{key: value for key, value in optional.items() if value is not None},
        }

    def parts(self, name: str) -> dict[str, Tensor]:
        """The tensors it is stored as."""
        parts: dict[str, Tensor] = {}
        scale_shape = [self.n] if self.group_size is None else [self.n, self.groups]
        for p, (codes, scale) in enumerate(self.planes, start=1):
            plane = plane_name(name, p)
            parts[plane] = Tensor("U8", [self.n, ceil(self.k / 4)], pack(codes, self.k))
            parts[f"{plane}_scale"] = Tensor(self.dtype, scale_shape, to_bytes(self.dtype, scale))
        if self.low_rank is not None:
            down, up = (to_bytes(self.factor_dtype, factor) for factor in self.low_rank)
            parts[f"{name}_lowrank_down"] = Tensor(self.factor_dtype, [self.rank, self.k], down)
            parts[f"{name}_lowrank_up"] = Tensor(self.factor_dtype, [self.n, self.rank], up)
        return parts

    def to_json(self) -> dict[str, Any]:
        """Its value in logical.json."""
        low_rank = None
        if self.low_rank is not None:
            down, up = (to_bytes(self.factor_dtype, factor).hex() for factor in self.low_rank)
            low_rank = {"rank": str(self.rank), "dtype": self.factor_dtype, "down": down, "up": up}
        return {
            "shape": list(map(str, self.shape)),
            "group_size": self.group_size,
            "planes": [
                {"codes": bytes(code & 0xFF for code in codes).hex(), "scale": to_bytes(self.dtype, scale).hex()}
                for codes, scale in self.planes
            ],
            "scale_dtype": self.dtype,
            "low_rank": low_rank,
        }


@dataclass(frozen=True)
class Logical:
    """A model: its tensors, its ancillary keys and its further metadata."""

    tensors: Mapping[str, Ternary | Tensor]
    ancillary: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=lambda: {"format": "pt"})

    @property
    def required(self) -> list[str]:
        """The features in use."""
        return sorted({f for tensor in self.tensors.values() if isinstance(tensor, Ternary) for f in tensor.features})

    def parts(self) -> dict[str, Tensor]:
        """Every stored tensor."""
        parts: dict[str, Tensor] = {}
        for name, tensor in self.tensors.items():
            parts |= tensor.parts(name) if isinstance(tensor, Ternary) else {name: tensor}
        return parts

    def document(self) -> dict[str, Any]:
        """The metadata document, without digests."""
        entries = {name: tensor.entry() for name, tensor in self.tensors.items() if isinstance(tensor, Ternary)}
        return {**self.ancillary, "version": "1.0", "required": self.required, "tensors": entries}

    def raw(self) -> RawFile:
        """A file of it that is not canonical."""
        parts = sorted(self.parts().items(), key=lambda item: -ITEM_BYTES[item[1].dtype])
        return RawFile(dict(parts), self.document(), dict(self.metadata))

    def to_json(self) -> bytes:
        """logical.json."""
        value = {
            "tensors": {
                name: tensor.to_json()
                if isinstance(tensor, Ternary)
                else {"dtype": tensor.dtype, "shape": list(map(str, tensor.shape)), "data": tensor.data.hex()}
                for name, tensor in self.tensors.items()
            },
            "ancillary": self.ancillary,
            "metadata": self.metadata,
        }
        return (json.dumps(value, indent=1) + "\n").encode("ascii")


def pack(codes: Sequence[int], k: int) -> bytes:
    """Codes, row-major, as stored (SPEC section 3)."""
    packed = bytearray()
    for start in range(0, len(codes), k):
        row = codes[start : start + k]
        for column in range(0, k, 4):
            packed.append(sum(BITS[code] << 2 * lane for lane, code in enumerate(row[column : column + 4])))
    return bytes(packed)


def to_bytes(dtype: str, numbers: Numbers) -> bytes:
    """Numbers as stored. For BF16 they must be exact in it."""
    if dtype == "F16":
        return struct.pack(f"<{len(numbers)}e", *numbers)
    data = struct.pack(f"<{len(numbers)}f", *numbers)
    if dtype == "F32":
        return data
    assert dtype == "BF16"
    assert not any(data[0::4] + data[1::4]), "a number that BF16 does not have"
    return b"".join(data[i + 2 : i + 4] for i in range(0, len(data), 4))


def random_codes(rng: random.Random, count: int) -> list[int]:
    """Codes, of which a third are 0."""
    return [rng.randrange(3) - 1 for _ in range(count)]


def random_numbers(rng: random.Random, count: int, low: float, high: float) -> list[float]:
    """Numbers that every float dtype has: three significant bits."""
    numbers = []
    for _ in range(count):
        exponent = rng.randrange(round(low), round(high))
        numbers.append((1 + rng.randrange(4) / 4) * 2.0**exponent)
    return numbers


def random_ternary(
    seed: int,
    shape: tuple[int, ...],
    planes: int = 1,
    group_size: int | None = None,
    rank: int = 0,
    dtype: str = "F16",
    factor_dtype: str = "F16",
) -> Ternary:
    """A tensor that depends on the seed alone."""
    rng = random.Random(seed)
    n, k = shape[0], prod(shape[1:])
    groups = 1 if group_size is None else ceil(k / group_size)
    parts = [(random_codes(rng, n * k), random_numbers(rng, n * groups, -6, 2)) for _ in range(planes)]
    low_rank = None
    if rank:
        signs = [rng.choice((-1, 1)) for _ in range(rank * k)]
        down = [sign * number for sign, number in zip(signs, random_numbers(rng, rank * k, -4, 1), strict=True)]
        low_rank = (down, random_numbers(rng, n * rank, -4, 1))
    return Ternary(shape, parts, dtype, group_size, low_rank, factor_dtype)
