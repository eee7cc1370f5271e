"""A tiny FLUX.1 transformer, dense and ternary, and what the tests of the diffusers plug-in share."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ternfmt
import ternfmt_runtime
from tests.runtime.diffusers import wide

CONFIG = {
    "patch_size": 1,
    "in_channels": 8,
    "num_layers": 2,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 32,
    "guidance_embeds": True,
    "axes_dims_rope": (4, 6, 6),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave these tests out where diffusers, or what it loads with, is missing."""
    missing = [name for name in ("diffusers", "accelerate", "peft") if importlib.util.find_spec(name) is None]
    for item in items:
        if missing and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=f"needs {', '.join(missing)}"))


@pytest.fixture(scope="session")
def single_file() -> None:
    """Asked for by tests that load a ternary single file."""
    version = importlib.metadata.version("diffusers")
    if version.startswith("0.41."):
        pytest.skip(f"from_single_file of ternary files needs diffusers 0.42, this is {version}")


@pytest.fixture(scope="session")
def flux_class() -> Any:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel


@pytest.fixture(scope="session")
def dense_folder(flux_class: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense checkpoint."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("flux") / "dense"
    flux_class(**CONFIG).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def folder(flux_class: Any, dense_folder: Path) -> Path:
    """The same, ternary, as ``save_pretrained`` writes it."""
    model = flux_class.from_pretrained(dense_folder, quantization_config=ternfmt_runtime.TernaryConfig())
    folder = dense_folder.parent / "ternary"
    model.save_pretrained(folder)
    return folder


def _run(model: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    """The output for inputs that every dtype holds exactly."""
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).bfloat16().to(dtype)

    return model(
        hidden_states=noise(2, 16, 8),
        encoder_hidden_states=noise(2, 5, 32),
        pooled_projections=noise(2, 32),
        timestep=torch.tensor([0.25, 0.75], dtype=dtype),
        guidance=torch.tensor([3.5, 3.5], dtype=dtype),
        img_ids=torch.arange(48).view(16, 3) % 4,
        txt_ids=torch.zeros(5, 3),
    ).sample


@pytest.fixture(scope="session")
def run() -> Callable[..., Tensor]:
    return _run


def _assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    """Same names, dtypes and bytes."""
    a, b = ours.state_dict(), theirs.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert torch.equal(a[name], b[name]), name


@pytest.fixture(scope="session")
def assert_same() -> Callable[[nn.Module, nn.Module], None]:
    return _assert_same


def _make_pipeline(transformer: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    others = dict.fromkeys(["vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"])
    return FluxPipeline(scheduler=FlowMatchEulerDiscreteScheduler(), transformer=transformer, **others)


@pytest.fixture(scope="session")
def make_pipeline() -> Callable[[Any], Any]:
    return _make_pipeline


@pytest.fixture(scope="session")
def wide_tensors() -> dict[str, Any]:
    return wide.make_tensors()


@pytest.fixture(scope="session")
def wide_file(wide_tensors: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wide") / "flux.safetensors"
    ternfmt.save(path, wide_tensors)
    return path


@pytest.fixture(scope="session")
def wide_config(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of its config.json."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "config.json").write_text(json.dumps(wide.CONFIG))
    return str(folder)
