"""The account of device memory, on the meta device, and int8 activations."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ternfmt_runtime import TernaryLinear, device_memory, quantize_, use_int8_activations
from ternfmt_runtime.arrays import host_copy

# FLUX.1-dev's block linears, [out, in], and how many there are of each (the config of its transformer).
FLUX = {(18432, 3072): 38, (9216, 3072): 38, (3072, 3072): 266, (12288, 3072): 76, (3072, 12288): 38, (3072, 15360): 38}


def test_flux_on_the_meta_device() -> None:
    """Packed weights are their bytes in the file; the workspace is small beside them."""
    layers = [TernaryLinear(k, n, device="meta") for (n, k), count in FLUX.items() for _ in range(count)]
    assert len(layers) == 494
    memory = device_memory(nn.ModuleList(layers), rows=4608)
    weights = sum(n * k * count for (n, k), count in FLUX.items())
    rows = sum(n * count for (n, _), count in FLUX.items())
    assert weights == 11_834_228_736
    assert memory.packed == weights // 4 + 2 * rows
    assert memory.dense == 4 * rows  # biases in float32
    assert memory.workspace == 4608 * 15360 * 2
    assert memory.packed < 2 * weights / 7.9


def test_features_count() -> None:
    layer = TernaryLinear(1000, 50, planes=2, group_size=128, low_rank=4, device="meta")
    memory = device_memory(nn.Sequential(layer, nn.Linear(3, 3, device="meta")), rows=20, arch="sm_90")
    assert memory.packed == 2 * (50 * 250 + 2 * 50 * 8) + 2 * 4 * (1000 + 50)
    assert memory.dense == 4 * 50 + 4 * 12
    assert memory.workspace >= 2 * 20 * 1000 + 4 * 20 * 4
    assert memory.total == memory.packed + memory.dense + memory.workspace
    with pytest.raises(ValueError, match=r"expected one of sm_80, .*got 'sm_75'"):
        device_memory(layer, rows=1, arch="sm_75")


def test_int8_activations_take_half_the_workspace() -> None:
    model = nn.Sequential(TernaryLinear(3072, 3072, device="meta"))
    before = device_memory(model, rows=4608).workspace
    assert use_int8_activations(model) == 1
    assert device_memory(model, rows=4608).workspace == before // 2 + 4 * 4608
    assert use_int8_activations(model, False) == 1
    assert device_memory(model, rows=4608).workspace == before


def test_forward_on_the_meta_device_makes_activations_only() -> None:
    """No tensor as large as the dense weight appears, whatever a backend does inside the operator."""

    class Made(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.sizes: list[int] = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.sizes.append(result.nbytes)
            return result

    layer = TernaryLinear(3072, 12288, low_rank=8, device="meta")
    with Made() as made, torch.no_grad():
        y = layer(torch.empty(2, 8, 3072, dtype=torch.bfloat16, device="meta"))
    assert (y.shape, y.dtype) == ((2, 8, 12288), torch.bfloat16)
    assert max(made.sizes) == y.nbytes


def test_int8_activations_change_the_result_a_little() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 64), nn.ReLU())
    quantize_(model, "planes")
    x = torch.randn(9, 256)
    exact = model(x)
    use_int8_activations(model)
    error = (model(x) - exact).square().mean() / exact.square().mean()
    assert 0 < error < 1e-4


def test_int8_activations_survive_a_move_and_stay_out_of_the_state_dict() -> None:
    layer = TernaryLinear(16, 8)
    layer.int8_activations = True
    assert layer.to("meta").int8_activations
    assert set(layer.state_dict()) == {"weight", "weight_scale", "bias"}


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, ml_dtypes.bfloat16])
def test_copies_for_a_device_are_page_locked(dtype, monkeypatch) -> None:
    """As far as a machine without one can show: page-locked memory is asked for, once, and filled."""
    asked, empty = [], torch.empty

    def pinned(*args, pin_memory: bool = False, **kwargs):
        asked.append(pin_memory)
        return empty(*args, **kwargs)

    monkeypatch.setattr(torch, "empty", pinned)
    array = np.arange(12).reshape(3, 4).astype(dtype)
    array.flags.writeable = False
    for device, calls in (("cpu", []), ("meta", []), ("cuda", [True])):
        copy = host_copy(array, torch.device(device))
        assert asked == calls
        assert copy.flags.writeable
        assert not np.shares_memory(copy, array)
        assert copy.dtype == array.dtype
        assert np.array_equal(copy, array)
