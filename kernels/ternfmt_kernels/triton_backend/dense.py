"""Kernels around the packed product: dequantised tiles, and the inner half of a low-rank term."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def dequantise(
    codes0,
    codes1,
    codes2,
    codes3,
    scale0,
    scale1,
    scale2,
    scale3,
    out,
    n,
    k,
    width,
    groups,
    group_size,
    PLANES: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """Packed rows -> out ``[N, K]`` as S-4.6 says: planes summed in float32, rounded once to out's dtype.

    A thread decodes its own column; the four that share a byte find it in the same cache line. What
    limits the kernel is storing: 8 to 16 times the bytes it loads.
    """
    rows = (tl.program_id(0) * BN + tl.arange(0, BN)).to(tl.int64)
    columns = tl.program_id(1) * BK + tl.arange(0, BK)
    mask = (rows < n)[:, None] & (columns < k)[None, :]
    total = tl.zeros((BN, BK), tl.float32)
    for p in tl.static_range(PLANES):
        codes = (codes0, codes1, codes2, codes3)[p]
        scale = (scale0, scale1, scale2, scale3)[p]
        byte = tl.load(codes + rows[:, None] * width + (columns >> 2)[None, :], mask=mask, other=0)
        # The wanted code to the top of the byte, then down again with its sign.
        code = (byte.to(tl.int32) << (30 - 2 * (columns & 3))[None, :]) >> 30
        s = tl.load(scale + rows[:, None] * groups + (columns // group_size)[None, :], mask=mask, other=0)
        total += s.to(tl.float32) * code.to(tl.float32)
    tl.store(out + rows[:, None] * k + columns[None, :], total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def project(
    x,
    down,
    out,
    m,
    k,
    rank,
    stride_m,
    stride_k,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BR: tl.constexpr,
    BK: tl.constexpr,
):
    """x ``[M, K]`` of any strides, down ``[R, K]`` -> out ``[M, R]`` float32 = x @ down^T."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    r = tl.program_id(1) * BR + tl.arange(0, BR)
    x_rows = x + tl.minimum(rows, m - 1).to(tl.int64)[:, None] * stride_m
    down_rows = down + tl.minimum(r, rank - 1).to(tl.int64)[None, :] * k
    total = tl.zeros((BM, BR), tl.float32)
    for k0 in range(0, k, BK):
        columns = k0 + tl.arange(0, BK)
        a = tl.load(x_rows + columns.to(tl.int64)[None, :] * stride_k, mask=(columns < k)[None, :], other=0)
        b = tl.load(down_rows + columns[:, None], mask=(columns < k)[:, None], other=0)
        if a.dtype == b.dtype and a.dtype != tl.float32:
            total = tl.dot(a, b, total)
        else:
            total = tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision=PRECISION)
    tl.store(
        out + rows.to(tl.int64)[:, None] * rank + r[None, :], total, mask=(rows < m)[:, None] & (r < rank)[None, :]
    )
