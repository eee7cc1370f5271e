"""What is compiled ahead of time: a kernel, its argument types, its constants and its tile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Constant = int | float | bool | str | None | Any
"""A constexpr's value; triton's own types are among them."""


@dataclass(frozen=True)
class Tile:
    """What a block computes in one pass of its inner loop: ``[m, k]`` of activations by ``[n, k]`` of weights."""

    m: int
    n: int
    k: int

    def __str__(self) -> str:
        return f"{self.m}x{self.n}x{self.k}"


@dataclass(frozen=True)
class Variant:
    """One kernel in one configuration.

    Attributes:
        name: the kernel.
        config: the configuration, short, as in the tables.
        fn: the triton function.
        signature: argument name to triton type ("*bf16", "i32", "constexpr"), in the function's order.
        constants: the constexpr arguments' values.
        divisible: arguments known to be multiples of 16.
        tile: None for kernels that are no matmul.
        matrix: the inner loop must use tensor cores.
        dtype: of the activations: "bf16", "fp16" or "i8".
        warps: of a block.
        stages: of the software pipeline.
        options: further compiler options.
        plain: one plane, one scale a row, no low-rank term, K in one part: what other libraries compute too.
    """

    name: str
    config: str
    fn: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Constant]
    divisible: tuple[str, ...]
    tile: Tile | None
    matrix: bool
    dtype: str
    warps: int
    stages: int
    options: Mapping[str, Any] = field(default_factory=dict)
    plain: bool = False


def shipped(target: str) -> Iterator[Variant]:
    """Everything that ships for ``target``, once, as its launcher would specialise it for FLUX.1's shapes."""
    from ..triton_backend import catalogue

    seen = set()
    for entry in catalogue.shipped(target):
        words = entry.name.split()
        if (key := (entry.name, entry.num_warps, entry.num_stages)) in seen:
            continue  # rows of the table may repeat a configuration
        seen.add(key)
        tile = Tile(*entry.tile) if entry.tile is not None else None
        ones = dict.fromkeys(entry.ones, 1)  # the launcher makes an argument of 1 a constant
        yield Variant(
            name=words[0],
            config=" ".join([*words[1:], f"w{entry.num_warps}", f"s{entry.num_stages}"]),
            fn=entry.fn,
            signature={**entry.signature, **dict.fromkeys(ones, "constexpr")},
            constants={**entry.constants, **ones},
            divisible=tuple(entry.divisible),
            tile=tile,
            matrix=tile is not None,
            dtype=entry.act or "",
            warps=entry.num_warps,
            stages=entry.num_stages,
            options=entry.options,
            plain=tile is not None and not set(words[4:]),  # the words behind kernel, kind, type and tile are features
        )
