"""Ternary tensors from a random generator, for tests that need no shrinking."""

from __future__ import annotations

from typing import Any

import numpy as np

from ternfmt import LowRank, Plane, TernaryTensor
from ternfmt.pack import pack


def random_tensor(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    planes: int = 1,
    group_size: int | None = None,
    rank: int | None = None,
    dtype: Any = np.float16,
) -> TernaryTensor:
    n, k = shape[0], int(np.prod(shape[1:]))
    scale_shape = (n,) if group_size is None else (n, -(-k // group_size))
    parts = tuple(
        Plane(
            pack(rng.integers(-1, 2, (n, k)).astype(np.int8)),
            (np.exp2(rng.uniform(-20, 4, scale_shape)) * (rng.random(scale_shape) < 0.9)).astype(dtype),
        )
        for _ in range(planes)
    )
    if rank is None:
        return TernaryTensor(shape, parts, group_size)
    down, up = rng.standard_normal((rank, k)), rng.standard_normal((n, rank))
    return TernaryTensor(shape, parts, group_size, LowRank(down.astype(dtype), up.astype(dtype)))
