"""The way around torch's dispatcher: what it gives, and which calls it leaves alone."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ternfmt_kernels import linear
from ternfmt_kernels.contract import FLOAT_DTYPES
from ternfmt_kernels.cpu_backend import direct, isa
from tests.kernels.test_product import Weight, make_weight, make_x

pytestmark = pytest.mark.skipif(not direct.READY, reason="no native code, or torch is too old to describe its tensors")
OPERATOR = torch.ops.ternfmt.linear.default if direct.READY else None
N, K = 6, 36


@pytest.fixture(autouse=True)
def no_backend(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On every instruction set, with no backend forced."""
    monkeypatch.delenv("TERNFMT_KERNEL")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def of(weight: Weight, x: Tensor, *, k: int = K, bias: Tensor | None = None, int8: bool = False) -> Tensor | None:
    return direct.linear(x, weight.codes, weight.scales, k, weight.group_size, bias, int8)


@torch.no_grad()
@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    leading=st.lists(st.integers(1, 4), max_size=3),
    n=st.integers(1, 40),
    k=st.integers(1, 200),
    planes=st.integers(1, 4),
    group_size=st.none() | st.sampled_from([16, 48, 64, 1024]),
    scale_dtype=st.sampled_from(FLOAT_DTYPES),
    x_dtype=st.sampled_from(FLOAT_DTYPES),
    bias=st.booleans(),
    int8=st.booleans(),
    layout=st.sampled_from(["plain", "columns apart", "rows apart", "one row"]),
)
def test_it_gives_what_the_operator_gives(
    seed: int,
    leading: list[int],
    n: int,
    k: int,
    planes: int,
    group_size: int | None,
    scale_dtype: torch.dtype,
    x_dtype: torch.dtype,
    bias: bool,
    int8: bool,
    layout: str,
) -> None:
    rng = np.random.default_rng(seed)
    weight = make_weight(rng, n, k, planes, group_size, scale_dtype)
    x = make_x(rng, (*leading, k), x_dtype)
    if layout == "columns apart":
        x = torch.stack([x, x + 1], -1)[..., 0]
    elif layout == "rows apart":
        x = torch.cat([x, x], -1)[..., :k]
    elif layout == "one row" and leading:
        x = x[..., :1, :].expand(x.shape)
    vector = make_x(rng, (n,), scale_dtype) if bias else None
    found = direct.linear(x, weight.codes, weight.scales, k, group_size, vector, int8)
    expected = OPERATOR(x, weight.codes, weight.scales, k, group_size, vector, None, None, int8)
    assert found is not None or (layout == "one row" and len(leading) > 1)  # its leading dimensions are not one
    if found is not None:
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
        assert found.is_contiguous()


def weight_and_x() -> tuple[Weight, Tensor]:
    rng = np.random.default_rng(0)
    return make_weight(rng, N, K), make_x(rng, (2, K), torch.float32)


class Functions(TorchFunctionMode):
    """Changes nothing."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Dispatches(TorchDispatchMode):
    """Changes nothing."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "context",
    [
        torch.enable_grad,
        Functions,
        Dispatches,
        forward_ad.dual_level,
        lambda: torch.autograd.profiler.profile(use_cpu=True),
    ],
)
def test_where_somebody_watches_the_operator_is_called(context: Callable[[], object]) -> None:
    weight, x = weight_and_x()
    with torch.no_grad():
        assert of(weight, x) is not None
        with context():
            assert of(weight, x) is None


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.torch.jit.trace:DeprecationWarning")
def test_transforms_and_compilers_see_the_operator() -> None:
    weight, x = weight_and_x()
    found: list[Tensor | None] = []

    def function(x: Tensor) -> Tensor:
        found.append(of(weight, x))
        return x.clone()

    torch.func.functionalize(function)(x)
    torch.vmap(function)(x)
    torch.jit.trace(function, (x,), check_trace=False)
    assert found == [None] * 3
    targets: list[object] = []

    def backend(graph, inputs):
        targets.extend(node.target for node in graph.graph.nodes)
        return graph.forward

    expected = linear(x, weight.codes, weight.scales, K, None)
    compiled = torch.compile(lambda x: linear(x, weight.codes, weight.scales, K, None), backend=backend, fullgraph=True)
    assert torch.equal(compiled(x), expected)
    assert OPERATOR in targets


class Subclass(torch.Tensor):
    """Of a plain tensor, all but the type."""


def changed(**changes: object) -> Callable[[Weight, Tensor], Tensor | None]:
    def call(weight: Weight, x: Tensor) -> Tensor | None:
        arguments = {"x": x, "codes": weight.codes, "scales": weight.scales, "k": K, "group_size": None}
        arguments |= {"bias": None, "int8": False}
        new = {name: value(arguments[name]) if callable(value) else value for name, value in changes.items()}
        return direct.linear(**{**arguments, **new})

    return call


def misaligned(x: Tensor) -> Tensor:
    memory = torch.empty(x.nbytes + 1, dtype=torch.uint8)[1:]
    return torch.frombuffer(memory.numpy(), dtype=x.dtype).view(x.shape)


NOT_PLAIN = {
    "no rows": changed(x=lambda x: x[:0]),
    "a scalar": changed(x=lambda x: x[0, 0]),
    "other columns": changed(x=lambda x: x[:, 1:]),
    "double": changed(x=lambda x: x.double()),
    "complex": changed(x=lambda x: x.cfloat()),
    "not on this device": changed(x=lambda x: x.to("meta")),
    "sparse": changed(x=lambda x: x.to_sparse()),
    "a subclass": changed(x=lambda x: x.as_subclass(Subclass)),
    "negated lazily": changed(x=lambda x: torch._neg_view(x)),
    "misaligned": changed(x=misaligned),
    "rows at unequal steps": changed(x=lambda x: torch.cat([x, x, x, x]).view(2, 4, K)[:, :3]),
    "not a tensor": changed(x=lambda x: x.numpy()),
    "no planes": changed(codes=[], scales=[]),
    "planes without scales": changed(codes=lambda codes: codes * 2),
    "five planes": changed(codes=lambda codes: codes * 5, scales=lambda scales: scales * 5),
    "planes of other shapes": changed(codes=lambda c: [c[0], c[0][1:]], scales=lambda s: [s[0], s[0][1:]]),
    "a tuple": changed(codes=tuple),
    "codes as int8": changed(codes=lambda codes: [codes[0].view(torch.int8)]),
    "codes of other columns": changed(codes=lambda codes: [codes[0][:, 1:].contiguous()]),
    "codes apart": changed(codes=lambda codes: [torch.cat([codes[0], codes[0]], 1)[:, : K // 4]]),
    "codes without memory": changed(codes=lambda codes: [cut(codes[0], 0)]),
    "codes that end too early": changed(codes=lambda codes: [cut(codes[0], codes[0].nbytes - 1)]),
    "x that ends too early": changed(x=lambda x: cut(x, x.nbytes - 1)),
    "a part that ends too early": changed(x=lambda x: cut_short(torch.cat([x, x])[2:])),
    "one scale": changed(scales=lambda scales: [scales[0][:1]]),
    "scales apart": changed(scales=lambda scales: [torch.stack([scales[0], scales[0]], 1)[:, 0]]),
    "integer scales": changed(scales=lambda scales: [scales[0].int()]),
    "scales of two types": changed(codes=lambda c: c * 2, scales=lambda s: [s[0], s[0].float()]),
    "scales of groups, which there are not": changed(group_size=16),
    "a group of no size": changed(group_size=0),
    "an odd group": changed(group_size=8),
    "columns for no code": changed(k=0),
    "columns as a float": changed(k=float(K)),
    "columns as text": changed(k=str(K)),
    "columns as a tensor": changed(k=torch.tensor(K)),
    "columns past 64 bits": changed(k=1 << 70),
    "a group as a float": changed(group_size=16.0),
    "a group past 64 bits": changed(group_size=1 << 70),
    "a negative group": changed(group_size=-16),
    "int8 as text": changed(int8="no"),
    "int8 as a number": changed(int8=1),
    "int8 as a tensor of two": changed(int8=torch.ones(2)),
    "more columns than there may be": changed(k=1 << 24),
    "a short bias": changed(bias=torch.zeros(N - 1)),
    "a bias apart": changed(bias=torch.zeros(N, 2)[:, 0]),
    "an integer bias": changed(bias=torch.zeros(N, dtype=torch.int32)),
}


def cut(tensor: Tensor, size: int) -> Tensor:
    """A copy whose memory is only so many bytes."""
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(size)
    return tensor


def cut_short(tensor: Tensor) -> Tensor:
    """The tensor, whose memory has lost its last byte."""
    storage = tensor.untyped_storage()
    storage.resize_(storage.nbytes() - 1)
    return tensor


@torch.no_grad()
@pytest.mark.parametrize("case", NOT_PLAIN)
def test_what_is_not_plain_is_left_to_the_operator(case: str) -> None:
    weight, x = weight_and_x()
    assert changed()(weight, x) is not None
    assert NOT_PLAIN[case](weight, x) is None


@torch.no_grad()
def test_what_it_reads_lives_until_the_product_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may change the lists once the GIL is given up; here they are, when all of them has been read."""
    weight, x = weight_and_x()
    expected = of(weight, x)
    held = [weakref.ref(tensor) for tensor in (*weight.codes, *weight.scales)]
    new_empty, alive = torch.Tensor.new_empty, []

    def clear(self: Tensor, *args: object) -> Tensor:
        weight.codes.clear()
        weight.scales.clear()
        alive.extend(tensor() is not None for tensor in held)
        return new_empty(self, *args)

    monkeypatch.setattr(torch.Tensor, "new_empty", clear)
    assert torch.equal(of(weight, x), expected)
    assert alive == [True, True]
    assert [tensor() for tensor in held] == [None, None]


@torch.no_grad()
def test_parameters_are_plain() -> None:
    weight, x = weight_and_x()
    weight.codes[0] = torch.nn.Parameter(weight.codes[0], requires_grad=False)
    assert of(weight, x, bias=torch.nn.Parameter(torch.zeros(N))) is not None


@torch.no_grad()
@pytest.mark.parametrize(
    ("variable", "value", "taken"),
    [
        ("TERNFMT_KERNEL", "cpu", True),
        ("TERNFMT_KERNEL", "", True),
        ("TERNFMT_KERNEL", "torch", False),
        ("TRITON_INTERPRET", "1", False),
        ("TERNFMT_CPU_ISA", "scalar", True),
        ("TERNFMT_CPU_ISA", "sse9", False),
    ],
)
def test_the_environment_is_asked_at_every_call(variable: str, value: str, taken: bool, monkeypatch) -> None:
    weight, x = weight_and_x()
    assert of(weight, x) is not None
    monkeypatch.setenv(variable, value)
    assert (of(weight, x) is not None) == taken


@torch.no_grad()
def test_linear_takes_it_and_wrong_calls_still_say_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = weight_and_x()
    called: list[object] = []
    monkeypatch.setattr(sys.modules[linear.__module__], "_linear", lambda *arguments: called.append(arguments))
    assert isinstance(linear(x, weight.codes, weight.scales, K, None), Tensor)
    assert not called
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"x: expected \[..., 36\], got \[2, 35\]"):
        linear(x[:, 1:], weight.codes, weight.scales, K, None)
    for k, int8 in ((float(K), False), (1 << 70, False), (K, "no")):
        with pytest.raises(RuntimeError, match="ternfmt::linear"):
            linear(x, weight.codes, weight.scales, k, None, int8=int8)


def test_the_native_functions_refuse_arguments_of_other_kinds() -> None:
    module = isa.module()
    for arguments, got in (((), "0 arguments"), ((1, "2"), "objects of int, str"), ((torch.Tensor,), "1 arguments")):
        with pytest.raises(TypeError, match=f"use_tensors: expected 2 types, got {got}"):
            module.use_tensors(*arguments)
    with pytest.raises(TypeError):
        module.linear(1, 2, 3)
    with pytest.raises(TypeError):
        module.linear("one", *[None] * 7)
    assert module.use_tensors(int, int) is False
    weight, x = weight_and_x()
    with torch.no_grad():
        assert of(weight, x) is not None
