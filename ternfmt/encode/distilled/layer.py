"""What all ternary layers of a student have: scales as they are stored, a bias, a low-rank branch."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import torch
from torch import Tensor, nn

from ...pack import pack
from ...tensor import Plane, TernaryTensor
from ..low_rank import stored_low_rank
from ..scales import F16_MAX, F16_MIN, NORMAL_MIN

TORCH_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Floating-point dtypes by the names of SPEC S-1.9."""

SCALE_OF_ZEROS = F16_MIN
"""Where the scale of a row of zeros starts, which has none of its own: it costs no F32 scales."""


class TernaryLayer(nn.Module):
    """Takes the place of an `nn.Linear`; computes ``x @ (sum_p s_p * t_p + up @ down).T + bias``.

    Attributes:
        log_scale: natural logarithm of the scales, F32 ``[P, N]``: a step changes each by a share of itself.
        bias: F32 ``[N]``, or None.
        down, up: low-rank branch F32 ``[R, K]``, ``[N, R]``, or None.
        scale_dtype: in which scales are stored; None and F16 are F16, with F32 where F16 does not reach (SPEC S-4.5).
    """

    def __init__(
        self, scale: Tensor, bias: Tensor | None, low_rank: tuple[Tensor, Tensor] | None, scale_dtype: str | None
    ) -> None:
        """Copy scales ``[P, N]``, a bias and ``(down, up)``."""
        super().__init__()
        self.scale_dtype = scale_dtype
        self.log_scale = parameter(start_scale(scale).log())
        self.bias = None if bias is None else parameter(bias)
        self.down = None if low_rank is None else parameter(low_rank[0])
        self.up = None if low_rank is None else parameter(low_rank[1])

    def scale(self) -> Tensor:
        """The scales as they are stored, F32 ``[P, N]``."""
        return round_scale(self.log_scale.exp(), self.scale_dtype)

    def codes(self) -> Tensor:
        """Codes for those scales, int8 ``[P, N, K]``."""
        raise NotImplementedError

    def with_branch(self, x: Tensor, y: Tensor) -> Tensor:
        """Add the low-rank branch's answer to ``x`` to ``y``."""
        if self.down is None or self.up is None:
            return y
        return y + nn.functional.linear(nn.functional.linear(x, self.down), self.up)

    @torch.no_grad()
    def round_low_rank(self) -> None:
        """Round the low-rank branch to F16, in which it is stored."""
        for factor in (self.down, self.up):
            if factor is not None:
                factor.copy_(factor.half())

    @torch.no_grad()
    def to_ternary(self) -> TernaryTensor:
        """What is written: the codes and scales that `forward` uses, and the low-rank branch in F16."""
        stored, codes = self.scale(), self.codes().cpu().numpy()
        wide = self.scale_dtype in (None, "F16") and not _fits_f16(stored)
        scale = _to_numpy(stored.to(torch.float32 if wide else TORCH_DTYPES[self.scale_dtype or "F16"]))
        scale[~codes.any(axis=2)] = 0  # rows of zeros, as canonical files have them
        low_rank = None
        if self.down is not None and self.up is not None:
            low_rank = stored_low_rank((self.down, self.up))
        planes = tuple(Plane(pack(c), s) for c, s in zip(codes, scale, strict=True))
        return TernaryTensor((codes.shape[1], codes.shape[2]), planes, low_rank=low_rank)


DROPPED_BITS = {"F64": 0, "F32": 0, "BF16": 16, "F16": 13}
"""Bits of an F32 number's significand that are not stored."""


def start_scale(scale: Tensor) -> Tensor:
    """Scales to start from, F32: as they are, but those of rows of zeros, which have to have a logarithm."""
    return torch.where(scale >= NORMAL_MIN, scale.float(), SCALE_OF_ZEROS)


def round_scale(scale: Tensor, dtype: str | None) -> Tensor:
    """Round F32 scales to what is stored, as F32; the gradient passes as if nothing had been rounded.

    By arithmetic on bits, because compilers leave out casts to a narrower type and back: then the nearest codes in
    training are not those in the file, and many latent weights end next to a threshold.
    """
    with torch.no_grad():
        rounded = _round_bits(scale, DROPPED_BITS[dtype or "F16"])
        if dtype in (None, "F16"):
            rounded = torch.where(((scale >= F16_MIN) & (scale <= F16_MAX)).all(), rounded, scale)
        change = rounded - scale
    return scale + change


def _round_bits(value: Tensor, dropped: int) -> Tensor:
    """Round positive normal F32 numbers to the nearest with so many last bits of 0, on a tie to the even one."""
    if not dropped:
        return value
    bits = value.view(torch.int32)
    bits = bits + ((1 << (dropped - 1)) - 1) + (bits >> dropped & 1)
    return (bits & -(1 << dropped)).view(torch.float32)


def parameter(value: Tensor) -> nn.Parameter:
    """An F32 copy to be trained."""
    return nn.Parameter(value.detach().float().clone())


def _fits_f16(scale: Tensor) -> bool:
    return bool(((scale >= F16_MIN) & (scale <= F16_MAX)).all())


def _to_numpy(value: Tensor) -> Any:
    if value.dtype == torch.bfloat16:
        return value.view(torch.int16).cpu().numpy().view(ml_dtypes.bfloat16).copy()
    return value.cpu().numpy().copy()
