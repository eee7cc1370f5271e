"""The packed product: many rows of x or few, 16-bit activations (W2A16) or int8 ones (W2A8).

Twin: `ternfmt_kernels.reference`. y is computed transposed, ``[BN, BM]``: the weight is the left
operand, which tensor cores take from registers (Hopper's too), so a tile of packed codes goes from
memory to registers, is decoded there element by element, and never moves between threads.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .decode import decode


@triton.jit
def finish(
    total,
    rows_m,
    rows_n,
    bias,
    up,
    down_x,
    out,
    m,
    n,
    rank,
    HAS_BIAS: tl.constexpr,
    RANK_BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add bias and low-rank term to ``total`` [BM, BN] float32, round once, store.

    up ``[N, R]`` times down_x ``[M, R]``, the float32 result of `project`.
    """
    inside_m = tl.minimum(rows_m, m - 1).to(tl.int64)
    inside_n = tl.minimum(rows_n, n - 1).to(tl.int64)
    if RANK_BLOCK:
        for r0 in range(0, rank, RANK_BLOCK):
            r = r0 + tl.arange(0, RANK_BLOCK)
            u = tl.load(up + inside_n[None, :] * rank + r[:, None], mask=(r < rank)[:, None], other=0)
            d = tl.load(down_x + inside_m[:, None] * rank + r[None, :], mask=(r < rank)[None, :], other=0)
            total = tl.dot(d, u.to(tl.float32), total, input_precision=PRECISION)
    if HAS_BIAS:
        total += tl.load(bias + inside_n).to(tl.float32)[None, :]
    at = out + rows_m.to(tl.int64)[:, None] * n + rows_n[None, :]
    tl.store(at, total.to(out.dtype.element_ty), mask=(rows_m < m)[:, None] & (rows_n < n)[None, :])


@triton.jit
def gemm(
    x,
    x_scale,
    codes0,
    codes1,
    codes2,
    codes3,
    scale0,
    scale1,
    scale2,
    scale3,
    bias,
    up,
    down_x,
    out,
    m,
    n,
    width,
    words,
    groups,
    rank,
    PLANES: tl.constexpr,
    GROUP: tl.constexpr,
    EVEN: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    RANK_BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BW: tl.constexpr,
    SPLIT: tl.constexpr,
    BAND: tl.constexpr,
    ASM: tl.constexpr,
):
    """out ``[M, N]``, or with SPLIT > 1 partial sums ``[SPLIT, M, N]`` in float32 for `reduce`.

    Args:
        x: lane planes ``[M, LANES, words]`` (see `activations`), padded with zeros: float16 or
            bfloat16, or int8 with ``x_scale`` [M] float32.
        codes0: ``[N, width]`` words of uint16 (8 lanes) or bytes (4 lanes); so the other planes.
        scale0: ``[N]``, or ``[N, groups]``.
        width: words or bytes in a row.
        GROUP: words or bytes that share a scale, 0 for the whole row.
        EVEN: no chunk reaches past the end of a row or group.
        BW: words or bytes in a chunk.
        BAND: tiles of N that are walked together, so that they share tiles of x in the cache.
    """
    dtype: tl.constexpr = x.dtype.element_ty
    INT8: tl.constexpr = dtype == tl.int8
    LANES: tl.constexpr = codes0.dtype.element_ty.primitive_bitwidth // 2
    pid = tl.program_id(0)
    split = tl.program_id(1)
    tiles_n = tl.cdiv(n, BN)
    per_band = BAND * tl.cdiv(m, BM)
    first = pid // per_band * BAND
    height = min(tiles_n - first, BAND)
    rows_n = (first + pid % per_band % height) * BN + tl.arange(0, BN)
    rows_m = (pid % per_band // height) * BM + tl.arange(0, BM)
    # Rows past the end repeat the last one: their results are not stored, and loads need no mask.
    inside_n = tl.minimum(rows_n, n - 1)
    inside_m = tl.minimum(rows_m, m - 1)
    w = tl.arange(0, BW)
    x_rows = x + inside_m.to(tl.int64)[None, :] * (LANES * words) + w[:, None]
    code_rows = inside_n.to(tl.int64)[:, None] * width + w[None, :]

    # A row is cut into chunks of BW words, anew in each group; a split takes a run of chunks.
    span = width if GROUP == 0 else GROUP
    per_group = tl.cdiv(span, BW)
    chunks = per_group if GROUP == 0 else per_group * groups
    per_split = tl.cdiv(chunks, SPLIT)
    begin = split * per_split
    end = min(begin + per_split, chunks)

    total = tl.zeros((BN, BM), tl.float32)
    for p in tl.static_range(PLANES):
        codes_at = (codes0, codes1, codes2, codes3)[p] + code_rows
        scale_at = (scale0, scale1, scale2, scale3)[p] + inside_n.to(tl.int64) * groups
        if INT8:
            part = tl.zeros((BN, BM), tl.int32)
        else:
            part = tl.zeros((BN, BM), tl.float32)
        # One tile of codes serves LANES products: lane j of all its words meets plane j of x.
        for i in range(begin, end):
            if GROUP == 0:
                w0 = i * BW
                stop = width
            else:
                w0 = i // per_group * GROUP + i % per_group * BW
                stop = min((i // per_group + 1) * GROUP, width)
            if EVEN:
                tile = tl.load(codes_at + w0)
            else:
                tile = tl.load(codes_at + w0, mask=(w0 + w < stop)[None, :], other=0)
            lanes = decode(tile, dtype, ASM)
            for j in tl.static_range(LANES):
                if EVEN:
                    x_j = tl.load(x_rows + j * words + w0)
                else:
                    x_j = tl.load(x_rows + j * words + w0, mask=(w0 + w < stop)[:, None], other=0)
                if INT8:
                    part = tl.dot(lanes[j], x_j, part, out_dtype=tl.int32)
                else:
                    part = tl.dot(lanes[j], x_j, part)
            if GROUP:
                total += part.to(tl.float32) * tl.load(scale_at + i // per_group).to(tl.float32)[:, None]
                part = tl.zeros_like(part)
        if GROUP == 0:
            total += part.to(tl.float32) * tl.load(scale_at).to(tl.float32)[:, None]

    UNIT: tl.constexpr = 1.0 / 64 if INT8 else 0.5  # what `decode` multiplied by
    y = tl.trans(total) * UNIT
    if INT8:
        y *= tl.load(x_scale + inside_m)[:, None]
    if SPLIT == 1:
        finish(y, rows_m, rows_n, bias, up, down_x, out, m, n, rank, HAS_BIAS, RANK_BLOCK, PRECISION)
    else:
        row = split.to(tl.int64) * m + rows_m
        mask = (rows_m < m)[:, None] & (rows_n < n)[None, :]
        tl.store(out + row[:, None] * n + rows_n[None, :], y, mask=mask)


@triton.jit
def reduce(
    partial,
    bias,
    up,
    down_x,
    out,
    m,
    n,
    rank,
    HAS_BIAS: tl.constexpr,
    RANK_BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """Partial sums ``[SPLIT, M, N]`` -> out ``[M, N]``, added in ascending order: the same bits every time."""
    rows_m = tl.program_id(1) * BM + tl.arange(0, BM)
    rows_n = tl.program_id(0) * BN + tl.arange(0, BN)
    mask = (rows_m < m)[:, None] & (rows_n < n)[None, :]
    total = tl.zeros((BM, BN), tl.float32)
    for s in tl.static_range(SPLIT):
        row = s * m + rows_m.to(tl.int64)
        total += tl.load(partial + row[:, None] * n + rows_n[None, :], mask=mask, other=0)
    finish(total, rows_m, rows_n, bias, up, down_x, out, m, n, rank, HAS_BIAS, RANK_BLOCK, PRECISION)
