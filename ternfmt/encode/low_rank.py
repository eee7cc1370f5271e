"""The low-rank term that follows from a layer's weights: the best one for what its planes leave over."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..tensor import LowRank, TernaryTensor


def start_low_rank(weight: Tensor, tensor: TernaryTensor, rank: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Factors down ``[R, K]`` and up ``[N, R]``, F32, on the weight's device: the tensor's own, if it has some.

    Otherwise the first singular vectors of the remainder, by a randomised decomposition (Halko et al. 2011,
    arXiv:0909.4061).

    Args:
        weight: ``[N, K]``.
        tensor: its planes.
        rank: R, 1 to min(N, K).
        seed: of the decomposition.
    """
    if tensor.low_rank is not None:
        down, up = (torch.from_numpy(a.astype(np.float32)) for a in (tensor.low_rank.down, tensor.low_rank.up))
        return down.to(weight.device), up.to(weight.device)
    left = weight.detach().float().cpu() - torch.from_numpy(tensor.dequantize())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        u, s, v = torch.svd_lowrank(left, q=min(rank + 8, *left.shape), niter=4)
    root = s[:rank].sqrt()
    return (v[:, :rank] * root).T.contiguous().to(weight.device), (u[:, :rank] * root).contiguous().to(weight.device)


def stored_low_rank(factors: tuple[Tensor, Tensor]) -> LowRank:
    """Factors as they are stored: F16."""
    down, up = (factor.detach().half().cpu().numpy() for factor in factors)
    return LowRank(down, up)
