"""Backend ``torch``: the contract in PyTorch operations, on any device.

Works through tiles of rows, so that the whole weight is never expanded. With float32 activations it
follows ``torch.set_float32_matmul_precision``: below "highest", activations are rounded to TF32 or
BF16 first, and SPEC's bound holds for the rounded ones (S-12.4). Codes are exact in either type.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ternfmt.pack import CODES_PER_BYTE

from .contract import Backend, Call, no_autocast

TILE_BYTES = 1 << 22
"""Float32 codes expanded at a time, one row at least: small beside any layer, large enough for a fast matmul."""


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise x ``[M, K]`` to q int8 ``[M, K]`` and scale ``[M]`` float32: x is about ``scale * q``.

    scale = max|x| / 127, q = x * (127 / max|x|) rounded half to even, in float32. A row below 2^-100
    counts as zeros and has scale 0.
    """
    x = x.float()
    if not x.numel():
        return x.to(torch.int8), x.new_zeros(len(x))
    amax = x.abs().amax(1)
    small = amax < 2.0**-100
    # A tensor, because torch divides by and into plain numbers by way of a rounded reciprocal.
    most = torch.full_like(amax, 127.0)
    q = (x * (most / torch.where(small, 1.0, amax))[:, None]).round().clamp(-127, 127)
    return q.to(torch.int8), torch.where(small, 0.0, amax / most)


def _product(call: Call, x: Tensor, codes: Sequence[Tensor], scales: Sequence[Tensor], out: Tensor) -> None:
    x = x.float()
    with no_autocast(x.device):
        (_transposed if call.transposed else _forward)(call, x, codes, scales, out)


def _forward(call: Call, x: Tensor, codes: Sequence[Tensor], scales: Sequence[Tensor], out: Tensor) -> None:
    """From x ``[M, K]`` to out ``[M, N]``: for each tile of rows n, the sum over planes and groups."""
    for rows in _tiles(call):
        total = x.new_zeros((call.m, rows.stop - rows.start))
        for plane_codes, plane_scale in zip(codes, scales, strict=True):
            tile = _unpack(plane_codes[rows], call.k)
            scale = plane_scale[rows].float().view(len(tile), -1)
            for g, columns in enumerate(_groups(call)):
                total.addcmul_(F.linear(x[:, columns], tile[:, columns]), scale[:, g])
        out[:, rows] = total


def _transposed(call: Call, x: Tensor, codes: Sequence[Tensor], scales: Sequence[Tensor], out: Tensor) -> None:
    """From x ``[M, N]`` to out ``[M, K]``: the sum over tiles of rows n, planes and groups."""
    total = x.new_zeros((call.m, call.k))
    for rows in _tiles(call):
        for plane_codes, plane_scale in zip(codes, scales, strict=True):
            tile = _unpack(plane_codes[rows], call.k)
            scale = plane_scale[rows].float().view(len(tile), -1)
            for g, columns in enumerate(_groups(call)):
                total[:, columns].addmm_(x[:, rows] * scale[:, g], tile[:, columns])
    out.copy_(total)


def _tiles(call: Call) -> Iterator[slice]:
    """Slices of rows whose float32 codes take TILE_BYTES."""
    step = max(1, TILE_BYTES // (4 * call.k))
    for start in range(0, call.n, step):
        yield slice(start, min(start + step, call.n))


def _groups(call: Call) -> Iterator[slice]:
    """Slices of the columns that share a scale."""
    step = call.group_size or call.k
    for start in range(0, call.k, step):
        yield slice(start, min(start + step, call.k))


def _unpack(codes: Tensor, k: int) -> Tensor:
    """``[rows, ceil(k/4)]`` uint8 -> ``[rows, k]`` float32 in {-1, 0, +1}."""
    signed = codes.view(torch.int8)
    lanes = torch.empty((*codes.shape, CODES_PER_BYTE), dtype=torch.float32, device=codes.device)
    for i in range(CODES_PER_BYTE):
        # Shift lane i to the top two bits, then back with its sign.
        lanes[..., i] = signed << (6 - 2 * i) >> 6
    return lanes.flatten(1)[:, :k]


TORCH = Backend(name="torch", unavailable=lambda: None, refuses=lambda call: None, product=_product)
