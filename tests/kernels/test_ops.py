"""The operators as PyTorch sees them: opcheck, compile, gradients, fake tensors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from ternfmt.pack import pack, unpack
from ternfmt_kernels import linear, matmul, matmul_transposed
from ternfmt_kernels.contract import error_bound
from ternfmt_kernels.reference import quantise_rows

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
        ({"k": 0}, "k: expected at least 1 column, got 0"),
        ({"k": -4}, "k: expected at least 1 column, got -4"),
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


def test_no_columns_are_refused_everywhere() -> None:
    codes, scales = [torch.zeros(N, 0, dtype=torch.uint8)], [torch.ones(N)]
    for product, x, rest in (
        (linear, torch.ones(2, 0), ()),
        (matmul, torch.ones(2, 0), (torch.float32,)),
        (matmul_transposed, torch.ones(2, N), (torch.float32,)),
    ):
        for no_grad in (False, True):
            with torch.set_grad_enabled(not no_grad), pytest.raises(ValueError, match="k: expected at least 1"):
                product(x, codes, scales, 0, None, *rest)


FACTORS = (torch.randn(4, K, generator=torch.manual_seed(0)), torch.randn(N, 4))


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_opcheck_of_linear(whole: bool, int8: bool) -> None:
    codes, scales = make_planes(2, 16)
    x = torch.randn(2, 3, K, requires_grad=True)
    extras = [torch.randn(N), *FACTORS] if whole else [None, None, None]
    for tensor in extras:
        if tensor is not None:
            tensor.requires_grad_()
    torch.library.opcheck(torch.ops.ternfmt.linear.default, (x, codes, scales, K, 16, *extras, int8))


def test_gradients_of_linear() -> None:
    codes, scales = make_planes(2, 16)
    weight = dense(codes, scales, 16)
    leaves = [t.detach().clone().requires_grad_() for t in (torch.randn(5, K), torch.randn(N), *FACTORS)]

    def gradients(y: Tensor) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
        return first + torch.autograd.grad(first[0].square().sum(), leaves[:1])

    x, bias, down, up = leaves
    ours = gradients(linear(x, codes, scales, K, 16, bias, down, up))
    theirs = gradients(x @ weight.T + x @ down.T @ up.T + bias)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * b.abs().max().item())


def test_int8_activations_within_the_bound_of_what_they_were_quantised_to() -> None:
    """S-12.4. The gradient is that of the product without them."""
    codes, scales = make_planes(2, 16)
    weight = dense(codes, scales, 16).double()
    x = torch.randn(5, K, requires_grad=True)
    q, scale = quantise_rows(x.detach())
    assert (q.double() * scale.double()[:, None] - x.detach()).abs().max() <= scale.max() / 2 * 1.0001
    quantised = q.double() * scale.double()[:, None]
    exact = quantised @ weight.T
    magnitude = quantised.abs() @ weight.abs().T
    bound = error_bound(exact, magnitude, torch.float32, columns=K, planes=2, groups=4)
    y = linear(x, codes, scales, K, 16, int8=True)
    assert ((y.double() - exact).abs() <= bound).all()
    (grad,) = torch.autograd.grad(y.sum(), x)
    (plain,) = torch.autograd.grad(linear(x, codes, scales, K, 16).sum(), x)
    assert torch.equal(grad, plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": torch.zeros(N + 1)}, r"bias: expected \[37\], got \[38\]"),
        ({"bias": torch.zeros(N, dtype=torch.float64)}, "bias: expected .*got torch.float64"),
        ({"bias": torch.zeros(N, device="meta")}, "bias: expected x's device cpu, got meta"),
        ({"down": FACTORS[0]}, "expected down and up, or neither"),
        ({"down": torch.zeros(4), "up": FACTORS[1]}, r"down: expected \[R, 53\], got \[4\]"),
        ({"down": FACTORS[0], "up": torch.zeros(N, 5)}, r"up: expected \[37, 4\], got \[37, 5\]"),
    ],
)
def test_extras_are_checked(change: dict[str, Tensor], message: str) -> None:
    codes, scales = make_planes(1, None)
    with pytest.raises(ValueError, match=message):
        linear(torch.zeros(2, K), codes, scales, K, None, **change)
