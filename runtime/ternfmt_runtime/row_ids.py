"""Carry ternary weights through code that renames, splits and joins dense ones.

diffusers has a converter for each model's original checkpoint names: it takes fused projections
apart, joins others and swaps halves, all along dimension 0. Instead of the weight of N rows such code
is given a column of N numbers, one a row. Whatever comes out at the other end says which rows make
up the new weight, and the packed rows are gathered accordingly.
"""

from __future__ import annotations

from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from ternfmt import LowRank, Plane, TernaryTensor, concatenate_rows

FIRST_ID = 1 << 62
"""Ids start here, far from the integers that checkpoints hold."""

_TENSOR_BITS = 40
"""An id is FIRST_ID + (tensor << 40) + row."""


class RowIds:
    """Numbers the rows of ternary tensors, and finds them again."""

    def __init__(self) -> None:
        self._tensors: list[TernaryTensor] = []

    def stand_in(self, tensor: TernaryTensor) -> Tensor:
        """The tensor's row ids, int64 ``[N, 1]``."""
        start = FIRST_ID + (len(self._tensors) << _TENSOR_BITS)
        self._tensors.append(tensor)
        return torch.arange(start, start + tensor.n)[:, None]

    def resolve(self, ids: Tensor) -> TernaryTensor:
        """A copy of the rows that the ids stand for.

        Raises:
            ValueError: the ids are no column, or rows of different kinds were joined.
        """
        if ids.ndim != 2 or ids.shape[1] != 1:
            raise ValueError(f"expected a weight rearranged row by row, got row ids of shape {list(ids.shape)}")
        rows = ids[:, 0].numpy() - FIRST_ID
        runs = groupby(rows.tolist(), key=lambda row: row >> _TENSOR_BITS)
        parts = [_take(self._tensors[tensor], np.array(list(run)) - (tensor << _TENSOR_BITS)) for tensor, run in runs]
        return parts[0] if len(parts) == 1 else concatenate_rows(parts)


def is_stand_in(value: Tensor) -> bool:
    """Whether a tensor of a state dict consists of row ids."""
    return value.dtype == torch.int64 and value.numel() > 0 and int(value.min()) >= FIRST_ID


def _take(tensor: TernaryTensor, rows: np.ndarray) -> TernaryTensor:
    low_rank = tensor.low_rank
    return TernaryTensor(
        (len(rows), *tensor.shape[1:]),
        tuple(Plane(p.codes[rows], p.scale[rows]) for p in tensor.planes),
        tensor.group_size,
        None if low_rank is None else LowRank(np.array(low_rank.down), low_rank.up[rows]),
    )
