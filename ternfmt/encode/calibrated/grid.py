"""The values that a row's weights may take, for stored scales."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..levels import combinations, levels
from ..weights import Float64


@dataclass(frozen=True, eq=False)
class Grid:
    """The 3^P sums of P scales with signs or zero, for each of N rows.

    A weight is held as the number of its level, negative below zero: int8. Level 0 is the value 0.

    Attributes:
        scales: stored scales, descending over the planes, float64 ``[P, N]``.
        values: of the levels from zero up, ``[L, N]``.
        thresholds: level j stands for magnitudes in (thresholds[j - 1], thresholds[j]], ``[N, L - 1]``.
        codes: int8 ``[N, L, P]``.
    """

    scales: Float64
    values: Tensor
    thresholds: Tensor
    codes: npt.NDArray[np.int8]

    @classmethod
    def of(cls, scales: Float64, like: Tensor) -> Grid:
        """From stored scales ``[P, N]``, descending; tensors with the dtype and device of ``like``."""
        found = levels(np.ascontiguousarray(scales.T))
        values = torch.from_numpy(np.ascontiguousarray(found.values.T)).to(like)
        return cls(scales, values, torch.from_numpy(found.thresholds).to(like), found.codes)

    def nearest(self, x: Tensor) -> Tensor:
        """The nearest level of each number, of two the one nearer zero: ``[C, N]`` or ``[N]`` -> int8."""
        if len(self.values) == 2:
            threshold = self.thresholds[:, 0]
            return (x > threshold).to(torch.int8) - (x < -threshold).to(torch.int8)
        magnitudes = x.abs().reshape(-1, x.shape[-1]).T.contiguous()
        level = torch.searchsorted(self.thresholds, magnitudes, out_int32=True).T.reshape(x.shape).to(torch.int8)
        return torch.where(x < 0, -level, level)

    def value(self, level: Tensor) -> Tensor:
        """What levels stand for: int8 ``[C, N]`` or ``[N]`` -> values of that shape."""
        if len(self.values) == 2:
            return level * self.values[1]
        index = level.abs().to(torch.int64).reshape(-1, level.shape[-1])
        return self.values.gather(0, index).reshape(level.shape) * level.sign()

    def plane_codes(self, level: Tensor) -> Tensor:
        """The code of each plane: levels ``[K, N]`` -> int8 ``[P, K, N]``."""
        table = torch.from_numpy(np.ascontiguousarray(self.codes.transpose(2, 1, 0))).to(level.device)
        index = level.abs().to(torch.int64)
        sign = level.sign()
        return torch.stack([plane.gather(0, index) * sign for plane in table])


def level_of(codes: Tensor, grid: Grid) -> Tensor:
    """The levels of given codes: int8 ``[P, K, N]`` -> int8 ``[K, N]``; the values are the same."""
    if len(combinations(len(codes))) == 2:
        scale = torch.from_numpy(grid.scales[0] > 0).to(codes.device)
        return codes[0] * scale
    total = sum(
        code.to(grid.values.dtype) * torch.from_numpy(scale).to(grid.values)
        for code, scale in zip(codes, grid.scales, strict=True)
    )
    assert isinstance(total, Tensor)
    return grid.nearest(total)
