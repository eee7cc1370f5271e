"""Orthogonal updates, in either precision."""

from __future__ import annotations

import pytest
import torch

from ternfmt.encode.distilled.muon import orthogonalise


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 8, 8), (1, 5, 12), (3, 12, 5)])
def test_singular_values_come_close_to_one(shape, dtype):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalise(matrices, dtype)
    assert found.dtype == matrices.dtype
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.4
    assert values.max() < 1.4
