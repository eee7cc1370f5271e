"""Quantise a dense weight: scales by a rule, then the nearest codes for the stored scales."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from .. import native
from ..limits import GROUP_MULTIPLE, PLANES_MAX
from ..pack import packed_columns
from ..tensor import Plane, TernaryTensor
from . import histogram
from .assign import assign_codes
from .groups import Groups
from .methods import METHODS, Method, exact
from .scales import check_scale_dtype, store_scales
from .spectrum import Spectrum
from .weights import Array, Float64, check_finite, check_weight, magnitude_bits

BLOCK_WEIGHTS = 1 << 19
"""Weights a thread works on at a time (at least one row): their temporaries stay in cache."""

NATIVE_BLOCKS = 4
"""Times as many where native code does the work: it has no temporaries, and fewer calls."""


def quantize(
    weight: Array,
    method: str = "exact",
    *,
    planes: int = 2,
    group_size: int | None = None,
    scale_dtype: npt.DTypeLike | None = None,
    name: str = "weight",
    threads: int | None = None,
) -> TernaryTensor:
    """Quantise a dense weight; the same bytes for any number of threads.

    Beyond the result it takes memory for the unrounded scales (8 bytes each) and a block a thread.

    Args:
        weight: float32, float16 or bfloat16, rank >= 2; the first dimension is N, the others K.
        method: ``"absmean"``, ``"exact"`` or ``"planes"``.
        planes: planes that add up, 2 to 4; used by ``"planes"`` only.
        group_size: columns that share a scale, a multiple of 16; None for one scale a row.
        scale_dtype: float32, float16 or bfloat16; None is float16. Where a non-zero scale lies
            outside [2^-14, 65504], the whole tensor gets float32 in place of float16.
        name: the tensor's name, for errors.
        threads: None for one a CPU.

    Raises:
        WeightError: a weight is NaN or Inf.
        ValueError: an argument is not as stated.
    """
    n, k = check_weight(weight, name)
    n_planes = _plane_count(method, planes)
    if group_size is not None and (group_size < 1 or group_size % GROUP_MULTIPLE):
        raise ValueError(f"group_size: expected a multiple of {GROUP_MULTIPLE}, got {group_size}")
    asked_dtype = check_scale_dtype(scale_dtype)
    workers = (os.cpu_count() or 1) if threads is None else threads
    if workers < 1:
        raise ValueError(f"threads: expected at least 1, got {threads}")
    groups = Groups(k, group_size)
    is_native = METHODS[method] is exact and native.selected() != native.NUMPY
    step = max(1, BLOCK_WEIGHTS * (NATIVE_BLOCKS if is_native else 1) // k)
    scales = np.empty((n_planes, n, groups.count))
    codes = [np.empty((n, packed_columns(k)), dtype=np.uint8) for _ in range(n_planes)]

    def choose(rows: slice) -> None:
        block = weight[rows].reshape(-1, k)
        found = native.exact_scales(block, groups.size) if is_native else None
        if found is None:
            check_finite(block, name, rows.start)
            found = _choose_scales(block, METHODS[method], n_planes, groups)
        scales[:, rows] = found

    def assign(rows: slice) -> None:
        block = weight[rows].reshape(-1, k)
        block_scales = stored[:, rows].astype(np.float64)
        for p, packed in enumerate(assign_codes(block, block_scales, groups)):
            codes[p][rows] = packed

    _for_each_block(choose, n, step, workers)
    stored = store_scales(scales, asked_dtype)
    _for_each_block(assign, n, step, workers)
    scale_shape = (n,) if group_size is None else (n, groups.count)
    return TernaryTensor(
        weight.shape,
        tuple(Plane(codes[p], stored[p].reshape(scale_shape)) for p in range(n_planes)),
        group_size,
    )


def _plane_count(method: str, planes: int) -> int:
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    if method != "planes":
        return 1
    if not 2 <= planes <= PLANES_MAX:
        raise ValueError(f"planes: expected 2 to {PLANES_MAX}, got {planes}")
    return planes


def _choose_scales(block: Array, method: Method, planes: int, groups: Groups) -> Float64:
    """Unrounded scales of rows ``[R, K]``: float64 ``[P, R, groups.count]``."""
    bits = magnitude_bits(block)
    scales = np.empty((planes, len(block), groups.count))
    for run in groups.runs:
        part = bits[:, run.columns].reshape(-1, run.size)
        found = histogram.exact_scales(part, block.dtype) if method is exact else None
        if found is None:
            found = method(Spectrum.of(part, block.dtype), planes)
        scales[:, :, run.groups] = found.T.reshape(planes, -1, run.count)
    return scales


def _for_each_block(work: Callable[[slice], None], n: int, step: int, workers: int) -> None:
    """Call ``work`` for blocks of ``step`` rows; of several errors, raise the one nearest the first row."""
    blocks = (slice(start, min(start + step, n)) for start in range(0, n, step))
    if workers == 1:
        for rows in blocks:
            work(rows)
        return
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(work, blocks):
            pass
