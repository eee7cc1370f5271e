"""Which tile sizes `gemm` runs with: a table by architecture, kind of activations and rows of x.

The table is chosen on paper (registers, shared memory and spills of every entry are read from the
compiled code, see kernels/bench); no entry has been timed on a device. `tuning` measures
the entries of an architecture on the device at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["w2a16", "w2a8"]
"""16-bit activations, or int8 ones."""

BUCKETS = (16, 64, 256, None)
"""Rows of x up to which a configuration is meant; None is any number."""

RANK_BLOCK = 16
"""Columns of the low-rank factors added at a time in the epilogue: the fewest a tensor core takes."""

PAD = 64
"""Words that a lane plane of x is padded to a multiple of: the largest chunk of any configuration."""

SPLITS_MAX = 8
"""Partial sums at most: their traffic grows with the number, and 8 fill the largest device."""


@dataclass(frozen=True)
class Config:
    """Tile sizes of one launch.

    Attributes:
        bm: rows of x in a tile.
        bn: rows of the weight in a tile.
        bw: words (8 codes; for int8 activations bytes, 4 codes) in a chunk of a row.
        warps: warps a program.
        stages: tiles of codes and activations in flight, one less being held.
        split: parts that K is cut into.
        band: tiles of N that are walked together.
    """

    bm: int
    bn: int
    bw: int
    warps: int
    stages: int
    split: int = 1
    band: int = 8


@dataclass(frozen=True)
class Arch:
    """What a table row must fit.

    Attributes:
        shared: bytes of shared memory a program may have.
        programs: programs that keep the device busy; decides how far K is split.
        asm: decode by PTX.
        precision: how float32 dots (low-rank terms) are computed to float32 accuracy.
    """

    shared: int
    programs: int
    asm: bool
    precision: Literal["ieee", "tf32x3"]


_NVIDIA = Arch(shared=101_376, programs=256, asm=True, precision="tf32x3")
_AMD = Arch(shared=65_536, programs=256, asm=False, precision="ieee")

ARCHS: dict[str, Arch] = {
    "sm_80": replace(_NVIDIA, shared=166_912),
    "sm_86": _NVIDIA,
    "sm_89": _NVIDIA,
    "sm_90": replace(_NVIDIA, shared=232_448),
    "sm_100": replace(_NVIDIA, shared=232_448),
    "sm_120": _NVIDIA,
    "gfx90a": _AMD,
    "gfx942": _AMD,
    "gfx1100": _AMD,
    "other": replace(_AMD, shared=49_152),  # NVIDIA before Ampere, Intel: plain code, small tiles
    "interpreter": replace(_AMD, programs=4),
}
"""Sources: CUDA programming guide, "Technical specifications per compute capability"; AMD: LDS of a work group."""

_SMALL = Config(16, 64, 16, 4, 3)
_MEDIUM = Config(64, 64, 16, 4, 3)

TABLE: dict[tuple[str, Kind], tuple[Config, Config, Config, Config]] = {
    ("sm_80", "w2a16"): (Config(16, 128, 32, 4, 3), Config(64, 64, 16, 4, 3), Config(64, 128, 16, 4, 3), Config(128, 128, 16, 4, 3)),
    ("sm_80", "w2a8"): (Config(16, 128, 64, 4, 3), Config(64, 64, 32, 4, 3), Config(64, 128, 32, 4, 3), Config(128, 128, 32, 4, 3)),
    ("sm_90", "w2a16"): (Config(16, 128, 32, 4, 3), Config(64, 64, 16, 4, 4), Config(64, 128, 16, 4, 4), Config(128, 128, 16, 4, 4)),
    ("sm_90", "w2a8"): (Config(16, 128, 64, 4, 3), Config(64, 64, 64, 4, 3), Config(64, 128, 64, 4, 3), Config(128, 128, 64, 4, 3)),
    ("sm_100", "w2a16"): (Config(16, 128, 32, 4, 3), Config(32, 128, 32, 4, 3), Config(32, 128, 32, 4, 3), Config(32, 128, 32, 4, 3)),
    ("sm_100", "w2a8"): (Config(16, 128, 64, 4, 3), Config(64, 64, 32, 4, 3), Config(64, 128, 32, 4, 3), Config(128, 128, 32, 4, 3)),
    ("gfx942", "w2a16"): (_SMALL, _MEDIUM, Config(64, 128, 16, 4, 2), Config(128, 128, 16, 4, 2)),
    ("gfx942", "w2a8"): (Config(16, 64, 32, 4, 2), Config(64, 64, 32, 4, 2), Config(64, 128, 32, 4, 2), Config(128, 128, 32, 4, 2)),
    ("gfx1100", "w2a16"): (_SMALL, Config(64, 64, 16, 8, 2), Config(64, 64, 16, 8, 2), Config(64, 64, 16, 8, 2)),
    ("gfx1100", "w2a8"): (Config(16, 64, 16, 4, 2), Config(64, 64, 16, 4, 2), Config(64, 64, 16, 4, 2), Config(64, 128, 16, 8, 2)),
    ("other", "w2a16"): (_SMALL, Config(32, 64, 16, 4, 2), Config(64, 64, 16, 4, 2), Config(64, 64, 16, 4, 2)),
    ("other", "w2a8"): (Config(16, 64, 32, 4, 2), Config(32, 64, 32, 4, 2), Config(64, 64, 32, 4, 2), Config(64, 64, 32, 4, 2)),
    ("interpreter", "w2a16"): (Config(16, 64, 32, 4, 1), Config(32, 64, 32, 4, 1), Config(64, 64, 16, 4, 1), Config(64, 64, 16, 4, 1)),
    ("interpreter", "w2a8"): (Config(16, 64, 64, 4, 1), Config(32, 64, 64, 4, 1), Config(64, 64, 32, 4, 1), Config(64, 64, 32, 4, 1)),
}  # fmt: skip
"""For each bucket of BUCKETS, its configuration before `split`."""

ALIASES = {"sm_86": "sm_80", "sm_89": "sm_80", "sm_120": "sm_80", "gfx90a": "gfx942"}
"""Architectures that share another's rows of the table."""


def rows(arch: str, kind: Kind) -> tuple[Config, Config, Config, Config]:
    """The table's configurations for an architecture, one a bucket."""
    return TABLE[ALIASES.get(arch, arch), kind]


def bucket(m: int) -> int:
    """Index in BUCKETS of M rows of x."""
    return next(i for i, most in enumerate(BUCKETS) if most is None or m <= most)


def shipped(arch: str, kind: Kind, m: int, n: int, k: int) -> Config:
    """The table's configuration for a product; K is split where the tiles are too few for the device."""
    return split(arch, kind, rows(arch, kind)[bucket(m)], m, n, k)


def split(arch: str, kind: Kind, config: Config, m: int, n: int, k: int) -> Config:
    """``config`` with the fewest parts of K, a power of two, that keep the device busy."""
    tiles = -(-m // config.bm) * -(-n // config.bn)
    chunks = -(-k // (config.bw * (8 if kind == "w2a16" else 4)))
    parts = 1
    while parts < SPLITS_MAX and tiles * parts * 2 <= ARCHS[arch].programs and chunks >= 4 * parts:
        parts *= 2
    return replace(config, split=parts)


def widened(config: Config, *, heavy: bool) -> Config:
    """``config`` for a product whose programs need more registers than one accumulator.

    Args:
        config: the table's.
        heavy: several planes, groups or a low-rank term: a second tile in registers.
    """
    if heavy and config.bm * config.bn > 64 * 64:
        return replace(config, warps=max(config.warps, 8))
    return config


def padded_words(k: int, lanes: int) -> int:
    """Words in a lane plane of x with K columns (see `activations`)."""
    words = -(-k // lanes)
    return words + -words % PAD


def workspace_bytes(arch: str, kind: Kind, m: int, n: int, k: int, *, rank: int = 0) -> int:
    """Device memory that a product allocates beside its output, with the shipped configuration."""
    lanes = 4 if kind == "w2a8" or -(-k // 4) % 2 else 8
    activations = m * lanes * padded_words(k, lanes) * (1 if kind == "w2a8" else 2)
    parts = shipped(arch, kind, m, n, k).split
    partial = 4 * parts * m * n if parts > 1 else 0
    return activations + 4 * m * ((kind == "w2a8") + rank) + partial


def shared_bytes(kind: Kind, config: Config) -> int:
    """Shared memory of the tiles in flight; the result, staged through the same memory, may need more."""
    lanes, size = (8, 2) if kind == "w2a16" else (4, 1)
    tile = size * config.bw * (config.bn + lanes * config.bm)
    return max(tile * max(config.stages - 1, 1), 2 * config.bm * config.bn)


def candidates(arch: str, kind: Kind, m: int, n: int, k: int) -> Iterator[Config]:
    """Configurations worth timing: this architecture's and smaller ones that fit its shared memory."""
    seen = set()
    for base in rows(arch, kind):
        for stages in range(2, base.stages + 2):
            for bm in {base.bm, max(16, base.bm // 2)}:
                tried = replace(base, stages=stages, bm=bm)
                if bm <= 2 * max(m, 8) and shared_bytes(kind, tried) <= ARCHS[arch].shared:
                    for parts in (1, split(arch, kind, tried, m, n, k).split):
                        config = replace(tried, split=parts)
                        if config not in seen:
                            seen.add(config)
                            yield config
