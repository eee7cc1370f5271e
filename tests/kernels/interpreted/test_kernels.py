"""The other kernels against their twins, and the operators around them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ternfmt import Plane, TernaryTensor
from ternfmt_kernels import KernelError, backends, linear, matmul, matmul_transposed
from ternfmt_kernels.contract import FLOAT_DTYPES
from ternfmt_kernels.reference import quantise_rows
from ternfmt_kernels.triton_backend import configs, launch
from ternfmt_kernels.triton_backend.activations import arrange_reference
from ternfmt_runtime.arrays import to_array, to_tensor
from tests.kernels.test_product import make_weight, make_x

WEIGHT = make_weight(np.random.default_rng(0), 37, 53, planes=2, group_size=16)
ARGS = (WEIGHT.codes, WEIGHT.scales, 53, 16)


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERNFMT_KERNEL", "triton")


def test_first_and_available() -> None:
    assert [(s.name, s.unavailable) for s in backends()][:1] == [("triton", None)]


@settings(max_examples=8)
@given(
    seed=st.integers(0, 2**32 - 1),
    m=st.integers(1, 4),
    k=st.integers(1, 1100),
    lanes=st.sampled_from([4, 8]),
    dtype=st.sampled_from(FLOAT_DTYPES),
)
def test_arrange(seed: int, m: int, k: int, lanes: int, dtype: torch.dtype) -> None:
    x = make_x(np.random.default_rng(seed), (k, m), dtype).T
    assert torch.equal(launch.arranged(x, lanes), arrange_reference(x, lanes))


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**32 - 1),
    m=st.integers(1, 3),
    k=st.integers(1, 1500),
    dtype=st.sampled_from(FLOAT_DTYPES),
    power=st.sampled_from([-140, -100, 0, 30]),
)
def test_quantise_gives_the_twins_bits(seed: int, m: int, k: int, dtype: torch.dtype, power: int) -> None:
    x = make_x(np.random.default_rng(seed), (m, k), torch.float32)
    if dtype != torch.float16:
        x *= 2.0**power
    x = x.to(dtype)
    if m > 1:
        x[0] = 0
    if k > 2:
        x[-1, 1] = x[-1].abs().max() / 2  # halfway, if the largest is
    planes, scale = launch.quantised(x)
    q, expected = quantise_rows(x)
    assert torch.equal(planes, arrange_reference(q, 4))
    assert torch.equal(scale, expected)


@settings(max_examples=8)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 20),
    k=st.integers(1, 300),
    planes=st.integers(1, 4),
    group_size=st.none() | st.sampled_from([16, 48]),
    dtype=st.sampled_from(FLOAT_DTYPES),
    scale_dtype=st.sampled_from(FLOAT_DTYPES),
)
def test_dequantise(seed, n, k, planes, group_size, dtype, scale_dtype) -> None:
    """The bits of `TernaryTensor.dequantize` (S-4.6)."""
    weight = make_weight(np.random.default_rng(seed), n, k, planes, group_size, scale_dtype)
    arrays = zip(map(to_array, weight.codes), map(to_array, weight.scales), strict=True)
    tensor = TernaryTensor((n, k), tuple(Plane(*pair) for pair in arrays), group_size, None)
    out = torch.full((n, k), torch.nan, dtype=dtype)
    expected = to_tensor(tensor.dequantize(to_array(out[:0]).dtype))
    assert torch.equal(launch.dequantised(weight.codes, weight.scales, k, group_size, out), expected)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("m", [1, 20])
def test_workspace_is_what_is_stated(m: int, int8: bool, forced: None) -> None:
    """Memory allocated beside the output, by the launcher's own `new_empty`."""

    class Allocated(TorchDispatchMode):
        nbytes = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            if func is torch.ops.aten.new_empty.default:
                self.nbytes += result.nbytes
            return result

    n, k, rank = 70, 1100, 5
    weight = make_weight(np.random.default_rng(0), n, k)
    low_rank = (torch.ones(rank, k), torch.ones(n, rank))
    out = torch.empty(m, n, dtype=torch.bfloat16)
    x = torch.ones(m, k, dtype=torch.bfloat16)
    call = launch.Call(False, x.device, x.dtype, x.dtype, torch.float16, m, n, k, 1, None, int8)
    extras = launch.Extras(low_rank=low_rank if m > launch.FEW else None, int8=int8)
    with Allocated() as allocated:
        launch.linear(call, x, weight.codes, weight.scales, extras, out)
    kind = "w2a8" if int8 else "w2a16"
    assert allocated.nbytes == configs.workspace_bytes("interpreter", kind, m, n, k, rank=extras.rank)


@pytest.mark.parametrize("int8", [False, True])
def test_opcheck(int8: bool) -> None:
    x = torch.randn(2, 3, 53, dtype=torch.bfloat16, requires_grad=True)
    factors = (torch.randn(4, 53, dtype=torch.bfloat16), torch.randn(37, 4, dtype=torch.bfloat16))
    torch.library.opcheck(torch.ops.ternfmt.linear.default, (x, *ARGS, torch.randn(37), *factors, int8))
    if not int8:
        torch.library.opcheck(torch.ops.ternfmt.matmul.default, (x, *ARGS, torch.float32))


def test_compile_without_graph_breaks(forced: None) -> None:
    def f(x: Tensor) -> Tensor:
        return torch.relu(linear(x, *ARGS)) + 1

    compiled: Callable[[Tensor], Tensor] = torch.compile(f, fullgraph=True, backend="aot_eager")
    for m in (4, 9):
        x = torch.randn(m, 53, dtype=torch.float16)
        assert torch.equal(compiled(x), f(x))


def test_the_reference_serves_the_gradient() -> None:
    x = torch.randn(4, 53, dtype=torch.bfloat16, requires_grad=True)
    grad = torch.randn(4, 37, dtype=torch.bfloat16)
    (actual,) = torch.autograd.grad(linear(x, *ARGS), x, grad)
    expected = grad.double() @ WEIGHT.dense.sum(0)
    torch.testing.assert_close(actual.double(), expected, rtol=2.0**-7, atol=1e-2)


def test_refusals(forced: None) -> None:
    with pytest.raises(KernelError, match=r"expected torch.float16 or torch.bfloat16, got torch.float32"):
        matmul(torch.zeros(1, 53), *ARGS, torch.float32)
    with pytest.raises(KernelError, match="the gradient's product has no kernel"):
        matmul_transposed(torch.zeros(1, 37, dtype=torch.float16), *ARGS, torch.float32)
    with pytest.raises(KernelError, match=r"device: expected cpu, got meta"):
        launch_on_meta()


def launch_on_meta() -> None:
    from dataclasses import replace

    from ternfmt_kernels.contract import check
    from ternfmt_kernels.registry import select

    x = torch.zeros(1, 53, dtype=torch.float16)
    select(replace(check(x, *ARGS, torch.float16), device=torch.device("meta")))
