"""The operators as PyTorch sees them: opcheck, compile, gradients, fake tensors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from ternfmt.pack import pack, unpack
from ternfmt_kernels import matmul, matmul_transposed

N, K = 37, 53
FEATURES = [(1, None), (2, 16)]


def make_planes(planes: int, group_size: int | None) -> tuple[list[Tensor], list[Tensor]]:
    rng = np.random.default_rng(planes)
    shape = (N,) if group_size is None else (N, -(-K // group_size))
    codes = [pack(rng.integers(-1, 2, (N, K)).astype(np.int8)) for _ in range(planes)]
    return [torch.from_numpy(c) for c in codes], [torch.rand(shape).half() for _ in range(planes)]


def dense(codes: list[Tensor], scales: list[Tensor], group_size: int | None) -> Tensor:
    total = torch.zeros(N, K)
    for c, s in zip(codes, scales, strict=True):
        columns = s.float().view(N, -1).repeat_interleave(group_size or K, 1)[:, :K]
        total += torch.from_numpy(unpack(c.numpy(), K).astype(np.float32)) * columns
    return total


@pytest.mark.parametrize(("planes", "group_size"), FEATURES)
@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16])
def test_opcheck(planes: int, group_size: int | None, out_dtype: torch.dtype) -> None:
    codes, scales = make_planes(planes, group_size)
    x = torch.randn(2, 3, K, requires_grad=True)
    torch.library.opcheck(torch.ops.ternfmt.matmul.default, (x, codes, scales, K, group_size, out_dtype))
    x = torch.randn(2, 3, N, requires_grad=True)
    torch.library.opcheck(torch.ops.ternfmt.matmul_transposed.default, (x, codes, scales, K, group_size, out_dtype))


@pytest.mark.parametrize(("planes", "group_size"), FEATURES)
def test_compile_without_graph_breaks(planes: int, group_size: int | None) -> None:
    codes, scales = make_planes(planes, group_size)

    def f(x: Tensor) -> Tensor:
        return torch.relu(matmul(x.mT, codes, scales, K, group_size, torch.float32)) + 1

    compiled: Callable[[Tensor], Tensor] = torch.compile(f, fullgraph=True, backend="aot_eager")
    for m in (4, 9):
        x = torch.randn(K, m, requires_grad=True)
        y = compiled(x)
        torch.testing.assert_close(y, f(x))
        (grad,) = torch.autograd.grad(y.sum(), x)
        torch.testing.assert_close(grad, torch.autograd.grad(f(x).sum(), x)[0])


@pytest.mark.parametrize(("planes", "group_size"), FEATURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_first_and_second_gradients(planes: int, group_size: int | None, dtype: torch.dtype) -> None:
    codes, scales = make_planes(planes, group_size)
    weight = dense(codes, scales, group_size)
    x = torch.randn(5, K).to(dtype).requires_grad_()
    probe = torch.randn(5, K).to(dtype)

    def gradients(y: Tensor) -> tuple[Tensor, Tensor]:
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad((first * probe).sum(), x)
        return first, second

    ours = gradients(matmul(x, codes, scales, K, group_size, torch.float32))
    theirs = gradients(x.float() @ weight.T)
    tolerance = {"rtol": 1e-5, "atol": 1e-4}
    if dtype == torch.bfloat16:
        tolerance = {"rtol": 2.0**-6, "atol": 0.5}
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a, b, **tolerance)


def test_fake_and_meta_tensors() -> None:
    codes, scales = make_planes(2, 16)
    with FakeTensorMode(allow_non_fake_inputs=True):
        y = matmul(torch.empty(2, 3, K), codes, scales, K, 16, torch.bfloat16)
    assert (y.shape, y.dtype) == ((2, 3, N), torch.bfloat16)
    meta = [[t.to("meta") for t in parts] for parts in (codes, scales)]
    z = matmul_transposed(torch.empty(0, N, device="meta"), *meta, K, 16, torch.float32)
    assert (z.shape, z.is_meta) == ((0, K), True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x": torch.zeros(2, K, dtype=torch.uint8)},
            "x: expected torch.float32 or .* torch.uint8",
        ),
        ({"x": torch.zeros(2, K + 1)}, r"x: expected \[..., 53\], got \[2, 54\]"),
        ({"k": K + 9}, r"codes\[0\]: expected \[37, 16\], got \[37, 14\]"),
        ({"x": torch.zeros(2, K, device="meta")}, r"device meta, got cpu"),
        ({"codes": []}, "expected 1 to 4 codes and as many scales, got 0 and 1"),
        ({"codes": [torch.zeros(N, 14, dtype=torch.int8)]}, "torch.uint8, got torch.int8"),
        (
            {"codes": [torch.zeros(14, dtype=torch.uint8)]},
            r"expected \[N, ceil\(K/4\)\], got \[14\]",
        ),
        ({"codes": [torch.zeros(14, N, dtype=torch.uint8).T]}, r"contiguous .* strides \(1, 37\)"),
        ({"scales": [torch.zeros(N, dtype=torch.float64)]}, "scales: expected .*got torch.float64"),
        ({"scales": [torch.zeros(N, 1)]}, r"scales\[0\]: expected \[37\], got \[37, 1\]"),
        ({"group_size": 16}, r"scales\[0\]: expected \[37, 4\], got \[37\]"),
        ({"group_size": 24}, "group_size: expected a multiple of 16, got 24"),
        ({"out_dtype": torch.float64}, "out_dtype: expected .* got torch.float64"),
    ],
)
def test_arguments_are_checked(change: dict[str, object], message: str) -> None:
    codes, scales = make_planes(1, None)
    arguments = {
        "x": torch.zeros(2, K),
        "codes": codes,
        "scales": scales,
        "k": K,
        "group_size": None,
        "out_dtype": torch.float32,
    }
    with pytest.raises(ValueError, match=message):
        matmul(*(arguments | change).values())
