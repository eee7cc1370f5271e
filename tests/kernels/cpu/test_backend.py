"""Which instruction set runs, what bad arguments do, forks and threads of Python, and what the layer uses."""

from __future__ import annotations

import ctypes
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from ternfmt_kernels import KernelError, backends, linear, registry
from ternfmt_kernels.contract import Call
from ternfmt_kernels.cpu_backend import isa
from ternfmt_runtime.linear import TernaryLinear
from tests import check_wheel
from tests.kernels.test_product import make_weight, make_x

SETS = isa.available()
native = pytest.mark.skipif(not SETS, reason="ternfmt_kernels._cpu is not built")


def call(**changes: object) -> Call:
    cpu, f32 = torch.device("cpu"), torch.float32
    plain = {"device": cpu, "x_dtype": f32, "out_dtype": f32, "scale_dtype": f32, "m": 2, "n": 3, "k": 8, "planes": 1}
    return Call(**{"transposed": False, "group_size": None, **plain, **changes})


@native
@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "cpu"),
        ({"x_dtype": torch.bfloat16, "int8": True}, "cpu"),
        ({"transposed": True}, "torch"),
        ({"device": torch.device("meta")}, "torch"),
    ],
)
def test_it_serves_what_lies_in_memory(changes, name, monkeypatch) -> None:
    monkeypatch.delenv("TERNFMT_KERNEL", raising=False)
    monkeypatch.setattr(registry, "BACKENDS", registry.BACKENDS[1:])  # Triton, were it interpreted
    assert registry.select(call(**changes)).name == name


@native
def test_the_override_is_honoured_or_refused(monkeypatch) -> None:
    monkeypatch.setenv(isa.VARIABLE, "scalar")
    assert isa.selected() == "scalar"
    monkeypatch.setenv("TERNFMT_KERNEL", "cpu")
    for name, reason in (("sse9", "this build has no such"), *((n, "this processor lacks") for n in missing())):
        monkeypatch.setenv(isa.VARIABLE, name)
        with pytest.raises(KernelError, match=f"TERNFMT_CPU_ISA={name}: {reason}.*expected one of .*scalar"):
            registry.select(call())


def missing() -> list[str]:
    return [name for name in isa.built() if name not in SETS]


def test_the_table_is_ordered_and_ends_with_scalar() -> None:
    assert list(SETS) == [name for name in isa.built() if name in SETS]
    assert not SETS or SETS[-1] == "scalar"


def test_where_there_is_a_compiler_there_is_native_code() -> None:
    """Else a fault of the build would pass as a slow test run."""
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if not headers.exists() or not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("no C compiler, or no Python.h")
    assert SETS, "build it: pip install --no-build-isolation --no-deps -e ."
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    expected = {*check_wheel.SETS.get(machine, ["scalar"])}
    if gcc() < 11:
        expected -= {"avx512vnni", "avxvnni"}
    assert expected <= set(isa.built()), "the compiler did not take the sources of a set: see CMake's warnings"


def gcc() -> int:
    """The version of the GCC that CMake takes; 0 where that is another compiler, or not known."""
    command = [*shlex.split(os.environ.get("CC", "cc")), "-E", "-P", "-"]
    try:
        done = subprocess.run(command, input="__GNUC__ __clang__", capture_output=True, text=True)
    except OSError:
        return 0
    version, _, clang = done.stdout.strip().partition(" ")
    return int(version) if version.isdecimal() and clang == "__clang__" else 0


@native
@pytest.mark.skipif("TERNFMT_TEST_CPU" in os.environ, reason="another module than the installed one is tested")
def test_the_check_of_wheels_finds_what_is_installed() -> None:
    assert check_wheel.built() == list(isa.built())


def test_without_native_code_torch_does_the_work_and_one_warning_says_so() -> None:
    """A set that the environment asks for is refused, but not where it asks for `torch`."""
    code = """
import os, sys
sys.modules["ternfmt_kernels._cpu"] = None  # as if it were not there
import torch
from ternfmt_kernels import KernelError, backends, linear
def report():
    print([s.unavailable for s in backends() if s.name == "cpu"])
    try:
        codes, ones = torch.tensor([[0x5D]], dtype=torch.uint8), torch.ones(1)
        print(linear(torch.ones(1, 4), [codes], [ones], 4, None).tolist())
    except KernelError as error:
        print([str(error)])
report()
report()
os.environ["TERNFMT_CPU_ISA"] = "scalar"
report()
os.environ["TERNFMT_KERNEL"] = "torch"
report()
"""
    root = Path(__file__).parents[3]
    path = os.pathsep.join(str(root / part) for part in (".", "kernels"))
    variables = ("TERNFMT_KERNEL", "TRITON_INTERPRET", isa.VARIABLE)
    environment = {k: v for k, v in os.environ.items() if k not in variables}
    command = [sys.executable, "-W", "always", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env={**environment, "PYTHONPATH": path})
    missing, product = f"[{isa.MISSING!r}]", "[[2.0]]"
    refused = f"['TERNFMT_CPU_ISA=scalar: expected no value, as {isa.MISSING}']"
    expected = [missing, product, missing, product, refused, refused, refused, product]
    assert done.stdout.splitlines() == expected, done.stderr
    (warning,) = (line for line in done.stderr.splitlines() if "RuntimeWarning" in line)
    assert "reference backend, which is many times slower" in warning
    assert isa.MISSING in warning


@native
def test_backends_lists_it_between_triton_and_torch() -> None:
    assert [status.name for status in backends()] == ["triton", "cpu", "torch"]
    assert backends()[1].unavailable is None


@native
def test_backends_lists_a_set_that_cannot_be_had_as_a_reason(monkeypatch) -> None:
    monkeypatch.setenv(isa.VARIABLE, "sse9")
    assert backends()[1].unavailable.startswith("TERNFMT_CPU_ISA=sse9: this build has no such instruction set")


def arguments() -> dict[str, object]:
    """A product of x [2, 9] with a weight [3, 9]; sizes of memory are exact."""
    held = {name: np.zeros(64, np.uint8) for name in ("x", "codes", "scales", "bias", "inner", "up", "out")}
    at = {name: array.ctypes.data for name, array in held.items()}
    return {
        "held": held,
        "isa": SETS[-1],
        "int8": False,
        "threads": 1,
        "x": (at["x"], 36, "bfloat16", 2, 9, 9, 1),
        "weight": (3, 0, 3, ((at["codes"], 9),), "float16", ((at["scales"], 6),)),
        "bias": (at["bias"], 6, "float16"),
        "low_rank": (2, at["inner"], 16, at["up"], 12, "bfloat16"),
        "out": (at["out"], 24, "float32"),
    }


def replaced(values: tuple, index: int, value: object) -> tuple:
    return (*values[:index], value, *values[index + 1 :])


WRONG = [
    ("isa", None, "sse9", f"instruction set: expected one of {', '.join(SETS)}, got sse9"),
    ("x", 0, 0, "x: expected the address of 36 bytes, got 0"),
    ("x", 0, 1 << 64, None),
    ("x", 1, 35, "x: expected at least 36 bytes, got 35"),
    ("x", 2, "float64", "x: expected float32, float16 or bfloat16, got float64"),
    ("x", 3, -1, "rows of x: expected at least 0, got -1"),
    ("x", 3, 3, "x: expected at least 54 bytes, got 36"),
    ("x", 4, 0, "columns: expected 1 to 2.24 - 1, got 0"),
    ("x", 4, 1 << 24, "columns: expected 1 to 2.24 - 1, got 16777216"),
    ("x", 5, -9, "strides of x: expected none below 0, got -9"),
    ("x", 5, 10, "x: expected at least 38 bytes"),
    ("x", 5, 1 << 62, "x: expected at least"),
    ("x", 6, 2, "x: expected at least 52 bytes"),
    ("weight", 0, -3, "rows of codes: expected at least 0, got -3"),
    ("weight", 0, 4, "codes: expected at least 12 bytes, got 9"),
    ("weight", 0, 1 << 62, "codes: expected at least"),
    ("weight", 1, 8, "group size: expected a multiple of 16, got 8"),
    ("weight", 1, -16, "group size: expected a multiple of 16, got -16"),
    ("weight", 2, 2, "from row to row of codes: expected at least 3, a row, got 2"),
    ("weight", 2, 4, "codes: expected at least 11 bytes, got 9"),
    ("weight", 3, (), "planes: expected 1 to 4, got 0"),
    ("weight", 3, ((64, 9),) * 5, "planes: expected 1 to 4, got 5"),
    ("weight", 3, ((64, 9),) * 2, "scales: expected 2, as many as planes of codes, got 1"),
    ("weight", 4, "int8", "scales: expected float32, float16 or bfloat16, got int8"),
    ("weight", 5, ((64, 5),), "scales: expected at least 6 bytes, got 5"),
    ("weight", 5, ((65, 6),), "scales: expected an address that is a multiple of 2, got 65"),
    ("bias", 1, 5, "bias: expected at least 6 bytes, got 5"),
    ("bias", 2, "half", "bias: expected float32"),
    ("low_rank", 0, -1, "rank: expected 0 to 2.20, got -1"),
    ("low_rank", 0, 1 << 40, "rank: expected 0 to 2.20"),
    ("low_rank", 2, 15, "inner half of the low-rank term: expected at least 16 bytes, got 15"),
    ("low_rank", 4, 11, "up: expected at least 12 bytes, got 11"),
    ("low_rank", 5, "half", "up: expected float32"),
    ("out", 1, 23, "out: expected at least 24 bytes, got 23"),
    ("out", 2, "int8", "out: expected float32"),
]


@native
@pytest.mark.parametrize(("part", "index", "value", "message"), WRONG)
def test_arguments_that_do_not_fit_are_refused(part: str, index: int | None, value: object, message: str) -> None:
    good = arguments()
    good.pop("held")
    isa.module().matmul(*good.values())
    bad = {**good, part: value if index is None else replaced(good[part], index, value)}
    if message is None:  # Python's own conversion drops the high bits: address 0
        message = "got 0"
    with pytest.raises((ValueError, OverflowError), match=message):
        isa.module().matmul(*bad.values())


@native
def test_arguments_of_other_types_are_refused() -> None:
    good = arguments()
    good.pop("held")
    for part, value, message in (
        ("x", 3, None),
        ("weight", None, None),
        ("bias", 3, "bias, low_rank: expected tuples or None, got int, tuple"),
        ("low_rank", "x", "bias, low_rank: expected tuples or None, got tuple, str"),
        ("isa", 1, None),
    ):
        with pytest.raises(TypeError, match=message):
            isa.module().matmul(*{**good, part: value}.values())
    weight = replaced(good["weight"], 3, (3,))
    with pytest.raises(TypeError, match="codes: expected a tuple of pairs, got int in it"):
        isa.module().matmul(*{**good, "weight": weight}.values())


@pytest.mark.usefixtures("name")
def test_calls_from_several_threads_of_python(threads) -> None:
    """One has the pool, the others work alone. Products of five and more rows are large enough for two threads."""
    threads(2)
    rng = np.random.default_rng(0)
    weight = make_weight(rng, 1000, 1024)
    xs = [make_x(rng, (i % 7 + 1, 1024), torch.float32) for i in range(40)]

    def product(x: torch.Tensor) -> torch.Tensor:
        return linear(x, weight.codes, weight.scales, 1024, None, int8=True)

    expected = [product(x) for x in xs]
    with ThreadPoolExecutor(4) as executor:
        assert all(map(torch.equal, executor.map(product, xs), expected))


def product_of_two_threads(rng: np.random.Generator) -> Callable[[], torch.Tensor]:
    """Of seven rows, large enough for two."""
    weight = make_weight(rng, 1000, 1024)
    x = make_x(rng, (7, 1024), torch.float32)
    return lambda: linear(x, weight.codes, weight.scales, 1024, None)


@native
@pytest.mark.skipif(
    not (hasattr(ctypes.CDLL(None), "GOMP_parallel") and os.path.isdir("/proc/self/task")),
    reason="no OpenMP of PyTorch's, or no list of threads",
)
def test_threads_are_those_of_pytorch() -> None:
    """In a process of its own: here earlier tests may have started others."""
    script = """
import os, numpy, torch
from tests.kernels.cpu.test_backend import SETS, product_of_two_threads
torch.set_num_threads(2)
product = product_of_two_threads(numpy.random.default_rng(4))
torch.ones(1 << 22).add_(1)  # starts all of them
before = set(os.listdir("/proc/self/task"))
for os.environ["TERNFMT_CPU_ISA"] in SETS:
    product()
    assert set(os.listdir("/proc/self/task")) <= before
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[3])


@pytest.mark.usefixtures("name")
@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor has one way with subnormal numbers")
def test_threads_of_pytorch_keep_their_way_with_subnormal_numbers(threads) -> None:
    threads(2)
    product = product_of_two_threads(np.random.default_rng(5))
    subnormal = torch.full((1 << 22,), 1e-40)
    try:
        torch.set_flush_denormal(True)
        product()
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal((subnormal * 1).view(torch.int32), subnormal.view(torch.int32))


@pytest.mark.usefixtures("name")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own(threads) -> None:
    threads(2)
    product = product_of_two_threads(np.random.default_rng(1))
    expected = product()
    child = os.fork()
    if child == 0:
        same = torch.equal(product(), expected)
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


@native
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_forked_before_the_first_product_does_not_wait_for_threads_that_it_lacks() -> None:
    script = """
import os, numpy, torch
from tests.kernels.cpu.test_backend import product_of_two_threads
torch.set_num_threads(2)
product = product_of_two_threads(numpy.random.default_rng(6))
torch.ones(1 << 22).add_(1)  # has PyTorch's threads started, which a child has not
child = os.fork()
product()
assert child == 0 or os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[3], timeout=120)


@pytest.mark.usefixtures("name")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_layer_trains_its_bias_through_it(dtype: torch.dtype, monkeypatch) -> None:
    """The product is the kernel's, its gradient torch's."""
    layer = TernaryLinear(40, 6, scale_dtype=torch.float32, compute_dtype=dtype)
    layer.weight.data.fill_(0x5D)
    layer.weight_scale.fill_(0.5)
    x = torch.linspace(-1, 1, 120, dtype=dtype).view(3, 40).requires_grad_()
    results = []
    for backend in ("cpu", "torch"):
        monkeypatch.setenv("TERNFMT_KERNEL", backend)
        y = layer(x)
        monkeypatch.delenv("TERNFMT_KERNEL")
        results.append((y.detach(), *torch.autograd.grad(y.float().square().sum(), (x, layer.bias))))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=3 * torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.usefixtures("name")
def test_compiled_and_eager_give_the_same() -> None:
    weight = make_weight(np.random.default_rng(2), 16, 64)
    x = make_x(np.random.default_rng(3), (4, 64), torch.float32)

    def function(x: torch.Tensor) -> torch.Tensor:
        return linear(x * 2, weight.codes, weight.scales, 64, None) + 1

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), function(x))


@native
@pytest.mark.parametrize("name", SETS)
def test_the_machines_limits_refuse_what_they_do_not_know(name) -> None:
    with pytest.raises(ValueError, match="probe: expected int8 or float, got int4"):
        isa.module().probe(name, "int4", 1)
    with pytest.raises(ValueError, match="streams: expected at least 1, got 0"):
        isa.module().read(name, bytes(256), 0)
