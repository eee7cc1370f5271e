"""Weights and checks that the runtime's tests share."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from ternfmt import LowRank, Plane, TernaryTensor
from ternfmt.pack import pack
from ternfmt_kernels.contract import error_bound
from ternfmt_runtime import TernaryLinear


def _make_tensor(
    seed: int,
    n: int = 12,
    k: int = 35,
    planes: int = 2,
    group_size: int | None = 16,
    rank: int = 3,
    scale_dtype: npt.DTypeLike = np.float16,
) -> TernaryTensor:
    """Random codes, scales and factors."""
    rng = np.random.default_rng(seed)
    shape = (n,) if group_size is None else (n, -(-k // group_size))
    dtype = np.dtype(ml_dtypes.bfloat16)
    low_rank = None
    if rank:
        down, up = rng.standard_normal((rank, k)), rng.standard_normal((n, rank))
        low_rank = LowRank(down.astype(dtype), up.astype(dtype))
    return TernaryTensor(
        (n, k),
        tuple(
            Plane(
                pack(rng.integers(-1, 2, (n, k)).astype(np.int8)),
                (rng.random(shape) + 0.01).astype(scale_dtype),
            )
            for _ in range(planes)
        ),
        group_size,
        low_rank,
    )


def _check_output(layer: TernaryLinear, x: Tensor, y: Tensor) -> None:
    """y is within S-12.2's bound of the float64 result."""
    tensor, x = layer.to_ternary(), x.detach().double()
    exact, magnitude = torch.zeros(()), torch.zeros(())
    for plane in tensor.planes:
        one = torch.from_numpy(TernaryTensor(tensor.shape, (plane,), tensor.group_size).dequantize(np.float64))
        exact, magnitude = exact + x @ one.T, magnitude + x.abs() @ one.abs().T
    if tensor.low_rank is not None:
        down, up = (torch.from_numpy(f.astype(np.float64)) for f in (tensor.low_rank.down, tensor.low_rank.up))
        exact = exact + x @ down.T @ up.T
        magnitude = magnitude + x.abs() @ down.abs().T @ up.abs().T
    if layer.bias is not None:
        exact = exact + layer.bias.detach().double()
        magnitude = magnitude + layer.bias.detach().double().abs()
    bound = error_bound(
        exact,
        magnitude,
        y.dtype,
        columns=tensor.k,
        planes=len(tensor.planes),
        groups=layer.weight_scale[0].numel(),
        rank=layer.low_rank or 0,
    )
    assert y.shape == exact.shape
    assert ((y.double() - exact).abs() <= bound).all()


@pytest.fixture(scope="session")
def make_tensor() -> Callable[..., TernaryTensor]:
    return _make_tensor


@pytest.fixture(scope="session")
def check_output() -> Callable[[TernaryLinear, Tensor, Tensor], None]:
    return _check_output
