"""A tiny FLUX.1 transformer: quantise, save under FLUX.1's names, load into a meta-device model."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ternfmt
from ternfmt_kernels import backends
from ternfmt_runtime import TernaryLinear, dequantize_, load_into, quantize_
from ternfmt_runtime.arrays import to_array

pytestmark = pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="needs diffusers")

CONFIG = {
    "patch_size": 1,
    "in_channels": 8,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 32,
    "guidance_embeds": True,
    "axes_dims_rope": (4, 6, 6),
}
BLOCKS = ["transformer_blocks.*", "single_transformer_blocks.*"]


def make_flux() -> nn.Module:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(**CONFIG).eval()


def run(model: nn.Module, dtype: torch.dtype) -> Tensor:
    """The output for inputs that every dtype holds exactly."""
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).bfloat16().to(dtype)

    with torch.no_grad():
        output = model(
            hidden_states=noise(2, 16, 8),
            encoder_hidden_states=noise(2, 5, 32),
            pooled_projections=noise(2, 32),
            timestep=torch.tensor([0.25, 0.75], dtype=dtype),
            guidance=torch.tensor([3.5, 3.5], dtype=dtype),
            img_ids=torch.arange(48).view(16, 3) % 4,
            txt_ids=torch.zeros(5, 3),
        )
    return output.sample


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file, written from a quantised model; two planes with groups in the single block."""
    torch.manual_seed(0)
    model = make_flux().bfloat16()
    quantize_(model, include=BLOCKS[:1])
    quantize_(model, "planes", include=BLOCKS[1:], planes=2, group_size=32)
    tensors: dict[str, Any] = {
        f"{name}.weight": module.to_ternary()
        for name, module in model.named_modules()
        if isinstance(module, TernaryLinear)
    }
    derived = tuple(f"{name}_" for name in tensors)
    for name, value in model.state_dict().items():
        if name not in tensors and not name.startswith(derived):
            tensors[name] = to_array(value)
    path = tmp_path_factory.mktemp("flux") / "diffusion_pytorch_model.safetensors"
    ternfmt.save(path, tensors)
    return path


@pytest.fixture(params=[torch.float32, torch.bfloat16])
def model(request: pytest.FixtureRequest, path: Path) -> nn.Module:
    with torch.device("meta"):
        model = make_flux().to(request.param)
    load_into(model, path)
    return model


def test_names_are_those_of_the_dense_checkpoint(path: Path) -> None:
    with ternfmt.open(path) as file, torch.device("meta"):
        dense = make_flux().state_dict()
        assert {n: i.shape for n, i in file.tensors.items()} == {n: tuple(v.shape) for n, v in dense.items()}
        ternary = {name for name, info in file.tensors.items() if info.ternary}
    # 14 linears in a double block, 6 in a single block.
    assert len(ternary) == 20
    assert "transformer_blocks.0.ff_context.net.2.weight" in ternary
    assert "proj_out.weight" not in ternary


def test_every_layer_is_within_the_bound(
    model: nn.Module, check_output: Callable[[TernaryLinear, Tensor, Tensor], None]
) -> None:
    checked = []

    def check(layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        check_output(layer, args[0], output)
        checked.append(layer)

    for layer in model.modules():
        if isinstance(layer, TernaryLinear):
            layer.register_forward_hook(check)
    run(model, model.dtype)
    assert len(checked) == 20


@pytest.mark.skipif(backends()[1].unavailable is not None, reason="needs the native code")
def test_the_cpu_backend_serves_all_of_it(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums in another order; a model carries the differences on, and a rounding to bfloat16 may go the other way."""
    outputs = []
    for backend in ("cpu", "torch"):
        monkeypatch.setenv("TERNFMT_KERNEL", backend)
        outputs.append(run(model, model.dtype).double())
    found, expected = outputs
    assert (found - expected).norm() < 8 * torch.finfo(model.dtype).eps * expected.norm()


def test_output_is_as_good_as_the_dequantised_twins(model: nn.Module) -> None:
    """Both run in the model's dtype and are compared with the twin in float64.

    The layers' bound does not carry over to a whole model, whose norms and softmax amplify errors
    by amounts that depend on the weights: what the dense twin loses measures just that.
    """
    dtype = model.dtype
    packed = run(model, dtype)
    for layer in model.modules():
        if isinstance(layer, TernaryLinear):
            layer.compute_dtype = torch.float32  # weights rounded to bfloat16 are another model
    assert len(dequantize_(model)) == 20
    exact = run(model.double(), torch.float64)
    dense = run(model.to(dtype), dtype)
    ours = (packed.double() - exact).norm() / exact.norm()
    theirs = (dense.double() - exact).norm() / exact.norm()
    assert packed.dtype == dtype
    assert 0 < ours < 1.5 * theirs
    assert theirs < 100 * torch.finfo(dtype).eps
