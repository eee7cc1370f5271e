"""Activations as `gemm` wants them: lane planes, in 16 bits or quantised to int8.

Column ``k = LANES * w + j`` of row m goes to ``out[m, j, w]``, and zeros fill ``w`` up to `padded_words`, so
that lane j of a run of packed words meets a contiguous, aligned piece of x. LANES is 8 where codes are
read as 16-bit words, else 4. Twins: `arrange_reference`, `ternfmt_kernels.reference.quantise_rows`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .configs import padded_words


def arrange_reference(x: Tensor, lanes: int) -> Tensor:
    """x ``[M, K]`` -> ``[M, lanes, ceil(K / lanes)]``, the last padded, see `configs.PAD`."""
    m, k = x.shape
    words = padded_words(k, lanes)
    return F.pad(x, (0, words * lanes - k)).view(m, words, lanes).mT.contiguous()


@triton.jit
def arrange(x, out, k, stride_m, stride_k, words, LANES: tl.constexpr, BW: tl.constexpr):
    """x ``[M, K]`` of any strides -> out ``[M, LANES, words]``; a program a row and BW words."""
    row = tl.program_id(0).to(tl.int64)
    w = tl.program_id(1) * BW + tl.arange(0, BW)
    j = tl.arange(0, LANES)
    column = w[:, None] * LANES + j[None, :]
    value = tl.load(x + row * stride_m + column.to(tl.int64) * stride_k, mask=column < k, other=0)
    at = out + row * LANES * words + j[:, None] * words + w[None, :]
    tl.store(at, tl.trans(value), mask=(w < words)[None, :])


@triton.jit
def quantise(x, out, scale, k, stride_m, stride_k, words, BW: tl.constexpr):
    """x ``[M, K]`` of any strides -> int8 out ``[M, 4, words]`` and scale ``[M]`` float32; a program a row.

    scale = max|x| / 127, q = round half to even(x * (127 / max|x|)); a row below
    2^-100 counts as zeros and has scale 0.
    """
    row = tl.program_id(0).to(tl.int64)
    j = tl.arange(0, 4)
    # First the largest magnitude of the row, then, from the cache, the row again.
    peak = tl.zeros((BW, 4), tl.float32)
    for w0 in range(0, words, BW):
        column = (w0 + tl.arange(0, BW))[:, None] * 4 + j[None, :]
        value = tl.load(x + row * stride_m + column.to(tl.int64) * stride_k, mask=column < k, other=0)
        peak = tl.maximum(peak, tl.abs(value.to(tl.float32)))
    amax = tl.max(tl.max(peak, 1), 0)
    small = amax < 2.0**-100  # 127 / amax must not overflow; such rows round to zeros
    tl.store(scale + row, tl.where(small, 0.0, tl.div_rn(amax, 127.0)))
    inverse = tl.div_rn(127.0, tl.where(small, 1.0, amax))
    for w0 in range(0, words, BW):
        w = w0 + tl.arange(0, BW)
        column = w[:, None] * 4 + j[None, :]
        value = tl.load(x + row * stride_m + column.to(tl.int64) * stride_k, mask=column < k, other=0)
        # 1.5 * 2^23 leaves no bits for a fraction: adding it rounds to the nearest integer, half to even.
        nearest = value.to(tl.float32) * inverse + 12582912.0 - 12582912.0
        q = tl.minimum(tl.maximum(nearest, -127.0), 127.0).to(tl.int8)
        at = out + row * 4 * words + j[:, None] * words + w[None, :]
        tl.store(at, tl.trans(q), mask=(w < words)[None, :])


def empty_planes(x: Tensor, lanes: int, dtype: torch.dtype) -> Tensor:
    """The workspace for x ``[M, K]``."""
    return x.new_empty((len(x), lanes, padded_words(x.shape[1], lanes)), dtype=dtype)
