"""The low-rank term that a layer's weights give: as good as the singular value decomposition allows."""

from __future__ import annotations

import numpy as np
import torch

from ternfmt.encode.low_rank import start_low_rank, stored_low_rank
from ternfmt.encode.quantize import quantize
from ternfmt.tensor import LowRank


def remainder_of(weight, tensor):
    return weight - torch.from_numpy(tensor.dequantize())


def test_the_term_is_nearly_the_best_of_its_rank_for_what_the_planes_leave():
    weight = torch.randn(40, 60, generator=torch.Generator().manual_seed(0))
    tensor = quantize(weight.numpy())
    down, up = start_low_rank(weight, tensor, 5)
    assert (down.shape, up.shape) == ((5, 60), (40, 5))
    left = remainder_of(weight, tensor)
    best = torch.linalg.svdvals(left)[5:].square().sum()
    assert (left - up @ down).square().sum() <= 1.01 * best


def test_one_seed_one_term_and_torchs_own_generator_is_left_alone():
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    tensor = quantize(weight.numpy())
    before = torch.get_rng_state()
    first, second = (start_low_rank(weight, tensor, 3, seed=1) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_tensors_own_term_is_kept():
    weight = torch.ones(4, 8)
    own = LowRank(np.full((1, 8), 2, np.float16), np.full((4, 1), 3, np.float16))
    plain = quantize(weight.numpy())
    factors = start_low_rank(weight, type(plain)(plain.shape, plain.planes, low_rank=own), 1)
    stored = stored_low_rank(factors)
    assert (stored.down == 2).all()
    assert (stored.up == 3).all()
    assert stored.down.dtype == stored.up.dtype == np.float16
