"""What every backend computes and takes (SPEC section 12).

For activations x ``[M, K]``, planes p of codes t and scales s, and groups g of columns::

    y[m, n] = sum over p, g of s[p, n, g] * (sum over k in group g of t[p, n, k] * x[m, k])

and, for gradients, the transposed product of x ``[M, N]``, g(k) being the group of column k::

    z[m, k] = sum over p, n of (x[m, n] * s[p, n, g(k)]) * t[p, n, k]

Sums are accumulated in float32 or wider and the result is rounded once, to ``out_dtype``. The scale
is applied after (transposed: before) the sum. Nothing in pad lanes reaches a result.

==========  =======================  ==========================================================
argument    dtype                    shape
==========  =======================  ==========================================================
x           F32, F16, BF16           ``[..., K]`` (transposed: ``[..., N]``), any strides
codes       U8, one tensor a plane   ``[N, ceil(K/4)]``, contiguous, first code in the low bits
scales      F32, F16 or BF16, ditto  ``[N]``, or ``[N, ceil(K/group_size)]``, contiguous
result      ``out_dtype``            ``[..., N]`` (transposed: ``[..., K]``)
==========  =======================  ==========================================================

`linear` adds what a layer adds, in the same launch where a backend can (`Extras`)::

    y[m, n] + (sum over r of up[n, r] * (sum over k of down[r, k] * x[m, k])) + bias[n]

rounded once, to x's dtype; on request (W2A8) x is quantised to int8 first, row by row (S-12.4).

==========  =======================  ==========================================================
bias        F32, F16 or BF16         ``[N]``
down, up    F32, F16 or BF16         ``[R, K]`` and ``[N, R]``
==========  =======================  ==========================================================

Codes are taken as valid (no forbidden code): whoever loads a file checks it once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ternfmt.limits import GROUP_MULTIPLE, PLANES_MAX
from ternfmt.pack import packed_columns

FLOAT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What activations, scales and results may be."""

UNIT_ROUNDOFF = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
"""Largest relative error of one rounding to nearest."""


@dataclass(frozen=True)
class Call:
    """What a backend may look at to accept or refuse a product.

    Attributes:
        transposed: the gradient's product, whose x has N columns and whose result has K.
        m: rows of x, the leading dimensions flattened.
    """

    transposed: bool
    device: torch.device
    x_dtype: torch.dtype
    out_dtype: torch.dtype
    scale_dtype: torch.dtype
    m: int
    n: int
    k: int
    planes: int
    group_size: int | None
    int8: bool = False
    """x is to be quantised to int8: only `linear` asks for it."""


@dataclass(frozen=True)
class Extras:
    """What `linear` adds to the product.

    Attributes:
        bias: ``[N]``, or None.
        low_rank: down ``[R, K]`` and up ``[N, R]``, or None.
        int8: multiply x quantised to int8, a scale a row (`reference.quantise_rows`); the low-rank
            term still takes x itself.
    """

    bias: Tensor | None = None
    low_rank: tuple[Tensor, Tensor] | None = None
    int8: bool = False

    @property
    def rank(self) -> int:
        """R, 0 without a low-rank term."""
        return 0 if self.low_rank is None else len(self.low_rank[0])


class KernelError(RuntimeError):
    """What an environment variable asks for, a backend or an instruction set, cannot be had for the call."""


class Product(Protocol):
    """Computes a call whose arguments `check` accepted."""

    def __call__(self, call: Call, x: Tensor, codes: Sequence[Tensor], scales: Sequence[Tensor], out: Tensor) -> None:
        """Fill ``out``: x ``[M, K]`` -> ``[M, N]`` or, transposed, x ``[M, N]`` -> ``[M, K]``.

        ``out`` is contiguous, uninitialised, of ``call.out_dtype``; x has any strides.
        """


class Linear(Protocol):
    """Computes a product and adds the extras, of a call whose arguments `check` and `check_extras` accepted."""

    def __call__(
        self, call: Call, x: Tensor, codes: Sequence[Tensor], scales: Sequence[Tensor], extras: Extras, out: Tensor
    ) -> None:
        """Fill ``out``: x ``[M, K]`` -> ``[M, N]``, as `Product` does; never transposed."""


@dataclass(frozen=True)
class Backend:
    """One way to compute the product.

    Attributes:
        name: what TERNFMT_KERNEL calls it.
        unavailable: why it cannot run on this machine at all, or None; raises `KernelError` where a setting of its
            own cannot be honoured.
        refuses: why it cannot serve this call, or None; asked only where it is available.
        product: the computation, for both directions.
        linear: product and extras at once; None: `ops` adds them to the product.
    """

    name: str
    unavailable: Callable[[], str | None]
    refuses: Callable[[Call], str | None]
    product: Product
    linear: Linear | None = None


def check(
    x: Tensor,
    codes: Sequence[Tensor],
    scales: Sequence[Tensor],
    k: int,
    group_size: int | None,
    out_dtype: torch.dtype,
    *,
    transposed: bool = False,
    int8: bool = False,
) -> Call:
    """Check the arguments against the table above.

    Raises:
        ValueError: a dtype, shape, device or layout is not as stated; names expected and actual.
    """
    if not 1 <= len(codes) <= PLANES_MAX or len(scales) != len(codes):
        raise ValueError(
            f"planes: expected 1 to {PLANES_MAX} codes and as many scales, got {len(codes)} and {len(scales)}"
        )
    if k < 1:
        raise ValueError(f"k: expected at least 1 column, got {k}")
    if group_size is not None and (group_size < 1 or group_size % GROUP_MULTIPLE):
        raise ValueError(f"group_size: expected a multiple of {GROUP_MULTIPLE}, got {group_size}")
    _expect_dtype("x", x.dtype, FLOAT_DTYPES)
    _expect_dtype("out_dtype", out_dtype, FLOAT_DTYPES)
    _expect_dtype("scales", scales[0].dtype, FLOAT_DTYPES)
    if codes[0].ndim != 2:
        raise ValueError(f"codes: expected [N, ceil(K/4)], got {list(codes[0].shape)}")
    n = codes[0].shape[0]
    scale_shape = (n,) if group_size is None else (n, -(-k // group_size))
    for i in range(len(codes)):
        _expect(f"codes[{i}]", codes[i], torch.uint8, (n, packed_columns(k)), x.device)
        _expect(f"scales[{i}]", scales[i], scales[0].dtype, scale_shape, x.device)
    columns = n if transposed else k
    if x.ndim < 1 or x.shape[-1] != columns:
        raise ValueError(f"x: expected [..., {columns}], got {list(x.shape)}")
    return Call(
        transposed=transposed,
        device=x.device,
        x_dtype=x.dtype,
        out_dtype=out_dtype,
        scale_dtype=scales[0].dtype,
        m=math.prod(x.shape[:-1]),
        n=n,
        k=k,
        planes=len(codes),
        group_size=group_size,
        int8=int8,
    )


def check_extras(call: Call, extras: Extras) -> None:
    """Check the extras against the table above.

    Raises:
        ValueError: a dtype, shape or device is not as stated; names expected and actual.
    """
    parts: list[tuple[str, Tensor, tuple[int, ...]]] = []
    if extras.bias is not None:
        parts.append(("bias", extras.bias, (call.n,)))
    if extras.low_rank is not None:
        down, up = extras.low_rank
        if down.ndim != 2:
            raise ValueError(f"down: expected [R, {call.k}], got {list(down.shape)}")
        parts += [("down", down, (len(down), call.k)), ("up", up, (call.n, len(down)))]
    for what, tensor, shape in parts:
        _expect_dtype(what, tensor.dtype, FLOAT_DTYPES)
        if tensor.shape != shape:
            raise ValueError(f"{what}: expected {list(shape)}, got {list(tensor.shape)}")
        if tensor.device != call.device:
            raise ValueError(f"{what}: expected x's device {call.device}, got {tensor.device}")


def error_bound(
    y: Tensor,
    magnitude: Tensor,
    out_dtype: torch.dtype,
    *,
    columns: int,
    planes: int = 1,
    groups: int = 1,
    rank: int = 0,
) -> Tensor:
    """The largest error S-12.2 allows, for float32 accumulation: float64, in y's shape.

    It holds while no result overflows or is subnormal.

    Args:
        y: the exact result, float64.
        magnitude: A of S-12.2: y with every term replaced by its absolute value, float64.
        out_dtype: the result's dtype.
        columns: terms of the innermost sum: K, or for the transposed product N.
        planes: P.
        groups: G, the groups of a row.
        rank: R of the low-rank term, 0 without.
    """
    terms = columns + planes * groups + rank + 3
    gamma = terms * UNIT_ROUNDOFF[torch.float32] / (1 - terms * UNIT_ROUNDOFF[torch.float32])
    return gamma * magnitude + UNIT_ROUNDOFF[out_dtype] * (y.abs() + gamma * magnitude)


def no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Keeps float32 products in float32, whatever the caller's autocast state."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _expect_dtype(what: str, dtype: torch.dtype, expected: Sequence[torch.dtype]) -> None:
    if dtype not in expected:
        raise ValueError(f"{what}: expected {' or '.join(map(str, expected))}, got {dtype}")


def _expect(what: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device) -> None:
    _expect_dtype(what, tensor.dtype, (dtype,))
    if tensor.shape != shape:
        raise ValueError(f"{what}: expected {list(shape)}, got {list(tensor.shape)}")
    if tensor.device != device:
        raise ValueError(f"{what}: expected x's device {device}, got {tensor.device}")
    if not tensor.is_contiguous():
        raise ValueError(f"{what}: expected a contiguous tensor, got strides {tensor.stride()}")
