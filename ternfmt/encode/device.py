"""`quantize` on a torch device, for ``--device cuda``: the same bytes.

On the device run methods ``exact`` and ``absmean`` for 16-bit weights with one scale a row, which is what large
checkpoints hold. Everything else is left to `ternfmt.encode.quantize.quantize` on the host: ``planes``, groups, 32-bit
weights, and blocks for which the arguments below do not hold.

Why the bytes are the same: integers (bit patterns, counts, comparisons) are exact on every device. Sums of magnitudes
are exact in binary64, whatever their order: for ``exact`` as `histogram` shows, for ``absmean`` where a block's
magnitudes are near enough to each other, which is looked at. What remains are single binary64 products and quotients
of tensors, which IEEE 754 fixes, and which no compiler sees together to fuse them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..pack import CODES_PER_BYTE
from ..tensor import Plane, TernaryTensor
from .histogram import COLUMNS_MAX, MARGIN
from .levels import levels
from .quantize import quantize
from .run.stream import Quantizer
from .scales import check_scale_dtype, store_scales
from .torch_device import torch_device
from .weights import Array, Float64, check_weight, floor_bits

BINS_PER_COLUMN = 4
"""Bins of a histogram for each column, at most: F16 has up to 1024 magnitudes an octave. Bounds device memory."""

_TORCH_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_SIGNIFICANT_BITS = {"float16": 11, "bfloat16": 8}
_INFINITY_BITS = {"float16": 0x7C00, "bfloat16": 0x7F80}
_BINARY64_BITS = 53


def quantizer(name: str) -> Quantizer:
    """`quantize` on the torch device of this name: ``cuda``, ``cuda:1``, ``cpu``.

    It takes up to about 200 bytes of device memory for each weight it is given at once (`stream.BLOCK_WEIGHTS`).

    Raises:
        ValueError: there is no such device here.
    """
    device = torch_device(name)

    def quantize_there(
        weight: Array,
        method: str = "exact",
        *,
        planes: int = 2,
        group_size: int | None = None,
        scale_dtype: npt.DTypeLike | None = None,
        name: str = "weight",
        threads: int | None = None,
    ) -> TernaryTensor:
        n, k = check_weight(weight, name)
        if method in _RULES and group_size is None and weight.dtype.name in _TORCH_DTYPES and k <= COLUMNS_MAX:
            rows = weight.reshape(n, k)
            raw = torch.from_numpy(np.require(rows, requirements=("C", "W")).view(np.int16)).to(device)
            bits = raw & 0x7FFF
            # A tensor with NaN or Inf goes to the host, too: there its place is found.
            if int(bits.max()) < _INFINITY_BITS[weight.dtype.name]:
                scales = _RULES[method](bits, weight.dtype)
                if scales is not None:
                    stored = store_scales(scales, check_scale_dtype(scale_dtype))
                    return TernaryTensor(weight.shape, (Plane(_assign(raw, bits, stored, weight.dtype), stored),))
        return quantize(
            weight, method, planes=planes, group_size=group_size, scale_dtype=scale_dtype, name=name, threads=threads
        )

    return quantize_there


def _exact(bits: Tensor, dtype: np.dtype[Any]) -> Float64 | None:
    """`histogram.exact_scales` of bit patterns, int16 ``[R, K]``; None with too many bins."""
    rows, columns = bits.shape
    largest = bits.amax(dim=1)
    half_mean = _magnitudes(bits, dtype).mean(dim=1, dtype=torch.float64) * (0.5 * MARGIN)
    smallest = torch.from_numpy(floor_bits(half_mean.cpu().numpy(), dtype).view(np.int16)).to(bits.device)
    last = int((largest - smallest).max()) + 1
    if last > BINS_PER_COLUMN * columns:
        return None
    below = (largest[:, None] - bits).clamp(max=last).to(torch.int64)
    below += torch.arange(0, rows * (last + 1), last + 1, device=bits.device)[:, None]
    counts = torch.bincount(below.reshape(-1), minlength=rows * (last + 1)).reshape(rows, -1)[:, :last]
    values = (largest[:, None] - torch.arange(last, dtype=torch.int16, device=bits.device)).clamp(min=0)
    sums = torch.cumsum(counts * _magnitudes(values, dtype).to(torch.float64), dim=1)
    sizes = torch.cumsum(counts, dim=1).to(torch.float64)
    gain = sums * sums
    gain /= sizes
    best = gain.argmax(dim=1, keepdim=True)  # the first of equal ones
    scales: Float64 = (sums.gather(1, best) / sizes.gather(1, best))[:, 0].cpu().numpy()
    return scales


def _absmean(bits: Tensor, dtype: np.dtype[Any]) -> Float64 | None:
    """Mean magnitudes of bit patterns, int16 ``[R, K]``; None where a sum might have to be rounded."""
    columns = bits.shape[1]
    magnitudes = _magnitudes(bits, dtype).to(torch.float64)
    largest = magnitudes.amax(dim=1)
    least = torch.where(bits > 0, magnitudes, torch.inf).amin(dim=1).clamp(max=largest)
    # Magnitudes are multiples of the last place of the least, and that is at least this part of it.
    places = 2.0 ** (_BINARY64_BITS - _SIGNIFICANT_BITS[dtype.name])
    if bool((largest * columns > least * places).any()):
        return None
    mean: Float64 = (magnitudes.sum(dim=1) / columns).cpu().numpy()
    return mean


_RULES = {"exact": _exact, "absmean": _absmean}


def _assign(raw: Tensor, bits: Tensor, stored: Array, dtype: np.dtype[Any]) -> npt.NDArray[np.uint8]:
    """`assign.assign_codes` for one plane: packed codes ``[R, ceil(K/4)]``."""
    rows, columns = bits.shape
    thresholds = levels(stored.astype(np.float64)[:, None]).thresholds[:, 0]
    floors = torch.from_numpy(floor_bits(thresholds, dtype).view(np.int16)).to(bits.device)
    non_zero = bits > floors[:, None]
    codes = non_zero.to(torch.uint8) | (non_zero & (raw < 0)).to(torch.uint8) << 1
    lanes = torch.nn.functional.pad(codes, (0, -columns % CODES_PER_BYTE)).reshape(rows, -1, CODES_PER_BYTE)
    packed = lanes[..., 0] | lanes[..., 1] << 2 | lanes[..., 2] << 4 | lanes[..., 3] << 6
    result: npt.NDArray[np.uint8] = packed.cpu().numpy()
    return result


def _magnitudes(bits: Tensor, dtype: np.dtype[Any]) -> Tensor:
    return bits.view(_TORCH_DTYPES[dtype.name])
