"""load_into: what arrives, what is refused, and how much memory it takes."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import ternfmt
from ternfmt import FormatError, Kind, Plane, TernaryTensor
from ternfmt_kernels import backends
from ternfmt_runtime import LoadError, TernaryLinear, load_into
from ternfmt_runtime.arrays import to_array

K = 35


class Net(nn.Module):
    """Linears, a convolution, a norm with integer and float buffers, and a tied pair."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(K, 12)
        self.conv = nn.Conv1d(1, 2, 3, bias=False)
        self.norm = nn.BatchNorm1d(12)
        self.last = nn.Linear(12, 8, bias=False)
        self.tied = nn.Linear(12, 8, bias=False)
        self.tied.weight = self.last.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.first(x))
        return self.last(h) + self.tied(h) + self.conv(x[:, None, :10]).flatten(1)[:, :8]


def meta_net() -> Net:
    with torch.device("meta"):
        return Net().eval()


@pytest.fixture
def tensors(make_tensor) -> dict[str, TernaryTensor | np.ndarray]:
    torch.manual_seed(0)
    dense = {name: to_array(value) for name, value in Net().state_dict().items()}
    del dense["tied.weight"]
    return dense | {"first.weight": make_tensor(0)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def twin(tensors: dict[str, TernaryTensor | np.ndarray]) -> Net:
    """The dense model with dequantised weights."""
    net = Net().eval()
    state = {
        name: torch.from_numpy(value.dequantize() if isinstance(value, TernaryTensor) else value)
        for name, value in tensors.items()
    }
    net.load_state_dict(state | {"tied.weight": state["last.weight"]})
    return net


@pytest.mark.parametrize("make", [meta_net, lambda: Net().eval()])
def test_round_trip(make, path: Path, tensors, check_output) -> None:
    ternfmt.save(path, tensors)
    net = make()
    report = load_into(net, path)
    assert report.ternary == ("first.weight",)
    assert set(report.dense) == set(tensors) - {"first.weight"}
    assert report.missing == report.unexpected == ()
    path.unlink()
    assert isinstance(net.first, TernaryLinear)
    assert not net.first.training
    assert net.tied.weight is net.last.weight
    assert net.norm.num_batches_tracked.dtype == torch.int64
    x = torch.randn(5, K)
    check_output(net.first, x, net.first(x))
    torch.testing.assert_close(net(x), twin(tensors)(x), rtol=1e-4, atol=1e-4)


def test_loading_again_replaces_the_weights(path: Path, tensors, make_tensor) -> None:
    ternfmt.save(path, tensors)
    net = meta_net()
    load_into(net, path)
    tensors["first.weight"] = make_tensor(1, planes=1, rank=0)
    ternfmt.save(path, tensors)
    load_into(net, path)
    x = torch.randn(5, K)
    torch.testing.assert_close(net(x), twin(tensors)(x), rtol=1e-4, atol=1e-4)


def test_dense_tensors_take_the_models_dtype(path: Path, tensors) -> None:
    tensors["last.weight"] = tensors["last.weight"].astype(ml_dtypes.bfloat16)
    ternfmt.save(path, tensors)
    net = meta_net().half()
    load_into(net, path)
    assert {net.last.weight.dtype, net.first.bias.dtype} == {torch.float16}
    assert net.first.compute_dtype == torch.float16
    assert net.first.weight_lowrank_up.dtype == torch.bfloat16
    assert net(torch.randn(5, K).half()).dtype == torch.float16


def test_the_loaded_model_owns_its_memory(path: Path, tensors) -> None:
    ternfmt.save(path, tensors)
    net = meta_net()
    load_into(net, path)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with path.open("r+b") as stream:
        stream.truncate(100)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_mapped_tensors_stay_in_the_file_and_the_file_stays_as_it_is(path: Path, tensors) -> None:
    ternfmt.save(path, tensors)
    held = path.read_bytes()
    copied, net = meta_net(), meta_net()
    load_into(copied, path)
    load_into(net, path, mapped=True)
    for name, value in net.state_dict().items():
        assert torch.equal(value, copied.state_dict()[name])
    x = torch.randn(5, K)
    assert torch.equal(net(x), copied(x))

    areas = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    spans = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in areas]
    mapped = [n for n, v in net.state_dict().items() if any(a <= v.data_ptr() < b for a, b in spans)]
    assert set(mapped) == set(net.state_dict())
    with torch.no_grad():
        net.first.weight_scale.zero_()
        net.last.weight.fill_(1)
    assert path.read_bytes() == held


@pytest.mark.skipif(backends()[1].unavailable is not None, reason="needs the native code")
@pytest.mark.parametrize("rank", [0, 3])
def test_the_cpu_backend_reads_mapped_weights(path: Path, tensors, make_tensor, rank: int, monkeypatch) -> None:
    """With a low-rank term through the operator, without one past it."""
    ternfmt.save(path, tensors | {"first.weight": make_tensor(0, rank=rank)})
    net, x, outputs = meta_net(), torch.randn(5, K), []
    load_into(net, path, mapped=True)
    for backend in ("cpu", "torch"):
        monkeypatch.setenv("TERNFMT_KERNEL", backend)
        with torch.no_grad():
            outputs.append(net(x))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)


def test_a_folder_of_shards(tmp_path: Path, tensors) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        whole = tmp_path / "model.safetensors"
        ternfmt.save(whole, tensors)
    assert load_into(meta_net(), tmp_path).ternary == ("first.weight",)


def problems(model: nn.Module, path: Path, **options: bool) -> list[str]:
    """The lines of the error; the model must be as it was."""
    before = {name: (id(m), m.training) for name, m in model.named_modules()}
    values = [id(value) for value in (*model.parameters(), *model.buffers())]
    with pytest.raises(LoadError) as error:
        load_into(model, path, **options)
    assert before == {name: (id(m), m.training) for name, m in model.named_modules()}
    assert values == [id(value) for value in (*model.parameters(), *model.buffers())]
    assert all(line in str(error.value) for line in error.value.problems)
    assert str(path) in str(error.value)
    return list(error.value.problems)


def test_missing_and_unexpected(path: Path, tensors) -> None:
    del tensors["last.weight"], tensors["norm.running_var"]
    tensors["extra"] = np.zeros(3)
    ternfmt.save(path, tensors)
    assert problems(meta_net(), path) == [
        "missing: 'norm.running_var', torch.float32 [12]",
        "missing: 'last.weight', torch.float32 [8, 12]",
        "missing: 'tied.weight', torch.float32 [8, 12]",
        f"unexpected: {path}: 'extra'",
    ]
    net = meta_net()
    report = load_into(net, path, strict=False)
    assert report.missing == ("norm.running_var", "last.weight", "tied.weight")
    assert report.unexpected == ("extra",)
    assert net.last.weight.is_meta
    assert not net.first.weight.is_meta


@pytest.mark.parametrize("strict", [True, False])
def test_shapes(path: Path, tensors, make_tensor, strict: bool) -> None:
    tensors["first.weight"] = make_tensor(0, k=36)
    tensors["norm.bias"] = np.zeros((12, 1), np.float32)
    ternfmt.save(path, tensors)
    assert problems(meta_net(), path, strict=strict) == [
        f"{path}: 'first.weight': expected shape [12, 35], got [12, 36]",
        f"{path}: 'norm.bias': expected shape [12], got [12, 1]",
    ]


def test_dtypes(path: Path, tensors) -> None:
    tensors["last.weight"] = np.zeros((8, 12), np.uint8)
    tensors["norm.num_batches_tracked"] = np.zeros((), np.float32)
    ternfmt.save(path, tensors)
    assert problems(meta_net(), path) == [
        f"{path}: 'last.weight': expected torch.float32, got U8",
        f"{path}: 'norm.num_batches_tracked': expected torch.int64, got F32",
    ]


def test_ternary_where_no_linear_is(path: Path, tensors, make_tensor) -> None:
    conv = make_tensor(0, n=2, k=3, rank=0, group_size=None)
    tensors["conv.weight"] = TernaryTensor((2, 1, 3), conv.planes)
    ternfmt.save(path, tensors)
    (line,) = problems(meta_net(), path)
    assert line == (
        f"{path}: 'conv.weight': ternary, but the module is a Conv1d; only nn.Linear itself runs "
        "packed (dequantize the tensor in the file, or use another layer)"
    )


def test_ternary_where_the_model_is_tied(path: Path, tensors, make_tensor) -> None:
    tensors["last.weight"] = make_tensor(0, n=8, k=12)
    ternfmt.save(path, tensors)
    assert problems(meta_net(), path) == [
        f"{path}: 'last.weight': ternary, but the model ties it to tied.weight; untie them first"
    ]


def test_a_linear_by_itself(path: Path, make_tensor) -> None:
    ternfmt.save(path, {"weight": make_tensor(0)})
    (line,) = problems(nn.Linear(K, 12, bias=False), path)
    assert "is the model itself" in line


def test_dense_where_the_layer_is_ternary(path: Path, tensors) -> None:
    ternfmt.save(path, tensors)
    net = meta_net()
    load_into(net, path)
    tensors["first.weight"] = tensors["first.weight"].dequantize()
    ternfmt.save(path, tensors)
    assert problems(net, path) == [
        f"{path}: 'first.weight': dense F32, but the model's layer is already a TernaryLinear"
    ]


def test_non_persistent_buffer_on_meta(path: Path, tensors) -> None:
    ternfmt.save(path, tensors)
    net = meta_net()
    net.conv.register_buffer("positions", torch.arange(4, device="meta"), persistent=False)
    (line,) = problems(net, path)
    assert line.startswith("non-persistent buffer 'conv.positions', torch.int64 [4], is on the meta")
    net.conv.positions = torch.arange(4)
    load_into(net, path)


def test_a_shared_module_under_two_names(path: Path, make_tensor) -> None:
    tensor = make_tensor(0)
    for names in (["0.weight"], ["0.weight", "1.weight"]):
        ternfmt.save(path, dict.fromkeys(names, tensor))
        linear = nn.Linear(K, 12, bias=False, device="meta")
        model = nn.ModuleList([linear, linear])
        load_into(model, path)
        assert isinstance(model[0], TernaryLinear)
        assert model[0] is model[1]


@pytest.mark.parametrize(
    ("codes", "scale", "kind"),
    [
        ([[0b10]], [1.0], Kind.CODE),
        ([[0b01000001]], [1.0], Kind.PADDING),
        ([[0b01]], [-1.0], Kind.SCALE),
        ([[0b01]], [np.nan], Kind.SCALE),
    ],
)
@pytest.mark.parametrize("mapped", [False, True])
def test_codes_and_scales_are_checked(path: Path, codes, scale, kind: Kind, mapped: bool) -> None:
    good = TernaryTensor((1, 3), (Plane(np.array([[1]], np.uint8), np.array([1.0], np.float32)),))
    ternfmt.save(path, {"0.weight": good})
    raw = path.read_bytes()
    with ternfmt.open(path) as file:
        nbytes = sum(info.nbytes for info in file.tensors.values())
    # Canonical order: the scale (4 bytes) before the codes (1 byte).
    data = np.array(scale, np.float32).tobytes() + np.array(codes, np.uint8).tobytes()
    assert nbytes == len(data)
    path.write_bytes(raw[: -len(data)] + data)
    model = nn.Sequential(nn.Linear(3, 1, bias=False, device="meta"))
    with pytest.raises(FormatError) as error:
        load_into(model, path, mapped=mapped)
    assert error.value.kind is kind
    assert "0.weight" in error.value.location


def test_no_dense_weight_is_ever_made(path: Path) -> None:
    """Neither torch nor numpy allocates as much as one dense row tile of a layer would take."""

    class Largest(TorchDispatchMode):
        nbytes = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and not result.is_meta:
                self.nbytes = max(self.nbytes, result.nbytes)
            return result

    side, layers = 1024, 3
    weight = np.random.default_rng(0).standard_normal((side, side)).astype(np.float32)
    tensor = ternfmt.quantize(weight)
    ternfmt.save(path, {f"{i}.weight": tensor for i in range(layers)})
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(side, side, bias=False) for _ in range(layers)))
    tracemalloc.start()
    try:
        with Largest() as largest:
            load_into(model, path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert largest.nbytes == tensor.codes.nbytes
    # All packed layers, and the checks' temporaries for one; a dense layer is 4 MiB.
    assert layers * tensor.nbytes <= peak < (layers + 1) * tensor.nbytes + (1 << 20)
    assert peak < os.path.getsize(path) + weight.nbytes / 2
