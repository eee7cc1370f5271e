"""Every backend against a float64 reference and SPEC's error bound (S-12)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ternfmt.pack import pack
from ternfmt_kernels import backends, linear, matmul, ops, reference
from ternfmt_kernels.contract import FLOAT_DTYPES, error_bound

BACKENDS = [status.name for status in backends() if status.unavailable is None]


@dataclass
class Weight:
    """Packed planes beside the dense float64 planes that they stand for."""

    codes: list[Tensor]
    scales: list[Tensor]
    group_size: int | None
    dense: Tensor  # [planes, N, K]

    @property
    def groups(self) -> int:
        return 1 if self.group_size is None else self.scales[0].shape[1]


def make_weight(
    rng: np.random.Generator,
    n: int,
    k: int,
    planes: int = 1,
    group_size: int | None = None,
    dtype: torch.dtype = torch.float16,
    power_of_two: bool = False,
) -> Weight:
    shape = (n,) if group_size is None else (n, -(-k // group_size))
    codes, scales, dense = [], [], []
    for _ in range(planes):
        code = rng.integers(-1, 2, (n, k)).astype(np.int8)
        scale = 2.0 ** rng.integers(-3, 3, shape) if power_of_two else rng.random(shape) + 0.01
        codes.append(torch.from_numpy(pack(code)))
        scales.append(torch.from_numpy(scale).to(dtype))
        columns = scales[-1].double().reshape(n, -1).repeat_interleave(group_size or k, 1)[:, :k]
        dense.append(torch.from_numpy(code).double() * columns)
    return Weight(codes, scales, group_size, torch.stack(dense))


def check_linear(
    weight: Weight, x: Tensor, *, bias: Tensor | None = None, factors: tuple[Tensor, Tensor] | None = None, int8: bool
) -> None:
    """`linear` is within the bound of S-12.2; with int8 activations, of what they were quantised to (S-12.4)."""
    n, k = weight.dense.shape[1:]
    down, up = factors or (None, None)
    actual = linear(x, weight.codes, weight.scales, k, weight.group_size, bias, down, up, int8)
    rows = x.reshape(-1, k)
    multiplied = rows.double()
    if int8:
        q, scale = reference.quantise_rows(rows)
        multiplied = q.double() * scale.double()[:, None]
    exact = multiplied @ weight.dense.sum(0).mT
    magnitude = multiplied.abs() @ weight.dense.abs().sum(0).mT
    if down is not None and up is not None:
        exact += rows.double() @ down.double().mT @ up.double().mT
        magnitude += rows.double().abs() @ down.double().abs().mT @ up.double().abs().mT
    if bias is not None:
        exact += bias.double()
        magnitude += bias.double().abs()
    shape = {"columns": k, "planes": len(weight.codes), "groups": weight.groups}
    bound = error_bound(exact, magnitude, x.dtype, **shape, rank=0 if down is None else len(down))
    assert actual.dtype == x.dtype
    assert actual.shape == (*x.shape[:-1], n)
    normal = exact.abs() >= 2.0**-14 if x.dtype == torch.float16 else torch.tensor(True)  # the bound's condition
    assert ((actual.reshape(-1, n).double() - exact).abs()[normal] <= bound[normal]).all()


def matmul_transposed(*args: object) -> Tensor:
    """The gradient's product, which only torch has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERNFMT_KERNEL", "torch")
        return ops.matmul_transposed(*args)


def check_product(weight: Weight, x: Tensor, out_dtype: torch.dtype, *, transposed: bool = False) -> None:
    n, k = weight.dense.shape[1:]
    args = (weight.codes, weight.scales)
    if transposed:
        actual = matmul_transposed(x, *args, k, weight.group_size, out_dtype)
    else:
        actual = matmul(x, *args, k, weight.group_size, out_dtype)
    dense = weight.dense if transposed else weight.dense.mT
    exact = x.double() @ dense.sum(0)
    magnitude = x.double().abs() @ dense.abs().sum(0)
    bound = error_bound(
        exact,
        magnitude,
        out_dtype,
        columns=n if transposed else k,
        planes=len(weight.codes),
        groups=weight.groups,
    )
    assert actual.dtype == out_dtype
    assert actual.shape == exact.shape
    assert ((actual.double() - exact).abs() <= bound).all()


def make_x(rng: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape)).to(dtype)


@pytest.fixture(params=BACKENDS, autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TERNFMT_KERNEL", request.param)
    return request.param


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    leading=st.lists(st.integers(0, 5), max_size=3),
    n=st.integers(1, 70),
    k=st.integers(1, 140),
    planes=st.integers(1, 4),
    group_size=st.none() | st.sampled_from([16, 32, 48, 160]),
    scale_dtype=st.sampled_from(FLOAT_DTYPES),
    x_dtype=st.sampled_from(FLOAT_DTYPES),
    out_dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    transposed=st.booleans(),
    tile_bytes=st.sampled_from([1, 4096, 1 << 22]),
)
def test_within_the_bound(
    seed: int,
    leading: list[int],
    n: int,
    k: int,
    planes: int,
    group_size: int | None,
    scale_dtype: torch.dtype,
    x_dtype: torch.dtype,
    out_dtype: torch.dtype,
    transposed: bool,
    tile_bytes: int,
) -> None:
    rng = np.random.default_rng(seed)
    weight = make_weight(rng, n, k, planes, group_size, scale_dtype)
    x = make_x(rng, (*leading, n if transposed else k), x_dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "TILE_BYTES", tile_bytes)
        check_product(weight, x, out_dtype, transposed=transposed)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (1, 4099), (1537, 3), (300, 3072)])
def test_sizes(n: int, k: int, transposed: bool) -> None:
    rng = np.random.default_rng(n + k)
    weight = make_weight(rng, n, k, 2, 128)
    x = make_x(rng, (3, n if transposed else k), torch.bfloat16)
    check_product(weight, x, torch.bfloat16, transposed=transposed)


def test_float16_output() -> None:
    rng = np.random.default_rng(0)
    weight = make_weight(rng, 50, 1000)
    check_product(weight, make_x(rng, (7, 1000), torch.float16).abs() + 1, torch.float16)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 40),
    k=st.integers(1, 200),
    planes=st.integers(1, 4),
    group_size=st.none() | st.just(16),
    dtype=st.sampled_from(FLOAT_DTYPES),
    transposed=st.booleans(),
)
def test_exact_for_integers_and_powers_of_two(
    seed: int,
    n: int,
    k: int,
    planes: int,
    group_size: int | None,
    dtype: torch.dtype,
    transposed: bool,
) -> None:
    rng = np.random.default_rng(seed)
    weight = make_weight(rng, n, k, planes, group_size, dtype, power_of_two=True)
    x = torch.from_numpy(rng.integers(-127, 128, (5, n if transposed else k))).to(dtype)
    args = (weight.codes, weight.scales)
    if transposed:
        actual = matmul_transposed(x, *args, k, group_size, torch.float32)
    else:
        actual = matmul(x, *args, k, group_size, torch.float32)
    dense = weight.dense.sum(0)
    assert torch.equal(actual.double(), x.double() @ (dense if transposed else dense.T))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 17, 63])
def test_nothing_past_k_reaches_a_result(k: int) -> None:
    """S-12.5: NaN beside x in memory, and any codes in the pad lanes."""
    rng = np.random.default_rng(k)
    weight = make_weight(rng, 9, k)
    memory = torch.full((4, k + 8), torch.nan)
    memory[:, :k] = make_x(rng, (4, k), torch.float32)
    x = memory[:, :k]
    clean = matmul(x.clone(), weight.codes, weight.scales, k, None, torch.float32)
    codes = weight.codes[0].clone()
    if k % 4:
        codes[:, -1] |= 0xFF << 2 * (k % 4) & 0xFF
    assert torch.equal(clean, matmul(x, [codes], weight.scales, k, None, torch.float32))
    grad = make_x(rng, (4, 9), torch.float32)
    clean = matmul_transposed(grad, weight.codes, weight.scales, k, None, torch.float32)
    assert torch.equal(clean, matmul_transposed(grad, [codes], weight.scales, k, None, torch.float32))


def test_any_strides() -> None:
    rng = np.random.default_rng(1)
    weight = make_weight(rng, 33, 65)
    base = make_x(rng, (65, 8, 2), torch.float32)
    for x in (base.permute(1, 2, 0), base[:, ::2, 0].T, base[:, :1, 0].T.expand(3, 65)):
        assert not x.is_contiguous()
        check_product(weight, x, torch.float32)
    grad = make_x(rng, (33, 4), torch.bfloat16).T
    check_product(weight, grad, torch.float32, transposed=True)


def test_autocast_does_not_lower_the_precision() -> None:
    rng = np.random.default_rng(2)
    weight = make_weight(rng, 20, 500)
    x = make_x(rng, (6, 500), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        check_product(weight, x, torch.float32)


def test_never_expands_the_whole_weight() -> None:
    """The largest tensor the reference makes is a tile or the result."""

    class Largest(TorchDispatchMode):
        nbytes = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                self.nbytes = max(self.nbytes, result.nbytes)
            return result

    rng = np.random.default_rng(3)
    weight = make_weight(rng, 2048, 3072)
    with Largest() as largest:
        x = make_x(rng, (2, 3072), torch.float32)
        matmul(x, weight.codes, weight.scales, 3072, None, torch.float32)
    assert 0 < largest.nbytes <= reference.TILE_BYTES < weight.dense[0].float().nbytes / 4
