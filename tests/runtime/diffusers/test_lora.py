"""LoRA through the FLUX loader and through PEFT: beside ternary layers, and folded into them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import ternfmt
from ternfmt_runtime import TernaryLinear

# Adapters that are loaded a second time warn; so does PEFT about adapters for parts of the pipeline that lack.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

TERNARY = ["transformer_blocks.0.attn.to_q", "transformer_blocks.1.ff.net.2", "single_transformer_blocks.0.proj_mlp"]
DENSE = ["x_embedder", "context_embedder"]
RANK = 4


def factors(model: Any, name: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    layer = model.get_submodule(name)
    a = torch.randn(RANK, layer.in_features, generator=generator) / 8
    return a, torch.randn(layer.out_features, RANK, generator=generator) / 8


@pytest.fixture
def make_lora(flux_class, dense_folder) -> Callable[..., dict[str, Tensor]]:
    """Makes an adapter under diffusers' names."""
    model = flux_class.from_pretrained(dense_folder)

    def make(seed: int, names: list[str] = TERNARY + DENSE) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        state = {}
        for name in names:
            a, b = factors(model, name, generator)
            state |= {f"transformer.{name}.lora_A.weight": a, f"transformer.{name}.lora_B.weight": b}
        return state

    return make


@pytest.fixture
def pipeline(make_pipeline, flux_class, folder) -> Any:
    return make_pipeline(flux_class.from_pretrained(folder))


@pytest.fixture
def twin(make_pipeline, flux_class, folder) -> Any:
    """The dequantised model."""
    return make_pipeline(flux_class.from_pretrained(folder).dequantize())


@pytest.fixture
def base(flux_class, folder, run) -> Tensor:
    with torch.no_grad():
        return run(flux_class.from_pretrained(folder))


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    """Within what two orders of summation in float32 lose over the few layers of the model."""
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-6)


def test_pitfall_3_an_adapter_equals_the_dequantised_model_with_it(pipeline, twin, base, run, make_lora) -> None:
    for p in (pipeline, twin):
        p.load_lora_weights(make_lora(1))
    with torch.no_grad():
        ours, theirs = run(pipeline.transformer), run(twin.transformer)
    assert_close(ours, theirs)
    assert (ours - base).norm() > 0.01 * base.norm()
    assert isinstance(pipeline.transformer.transformer_blocks[0].attn.to_q.base_layer, TernaryLinear)


@torch.no_grad()
def test_every_layer_with_an_adapter_is_within_the_bound(pipeline, make_lora, run, check_output) -> None:
    """What the base layer adds is within S-12.2; the adapter's product is the same torch operation everywhere."""
    pipeline.load_lora_weights(make_lora(1, TERNARY))
    checked = []

    def check(layer: Any, args: tuple[Tensor], output: Tensor) -> None:
        check_output(layer, args[0], output)
        checked.append(layer)

    for module in pipeline.transformer.modules():
        if isinstance(module, TernaryLinear):
            module.register_forward_hook(check)
    run(pipeline.transformer)
    assert len(checked) == 34


@torch.no_grad()
def test_several_adapters_weights_disable_unload(pipeline, twin, base, run, make_lora) -> None:
    ours, theirs = pipeline.transformer, twin.transformer
    for p in (pipeline, twin):
        p.load_lora_weights(make_lora(1), adapter_name="one")
        p.load_lora_weights(make_lora(2), adapter_name="two")
    outputs = []
    for names, weights in (["one"], [1.0]), (["two"], [0.5]), (["one", "two"], [0.7, -0.3]):
        for p in (pipeline, twin):
            p.set_adapters(names, weights)
        assert_close(run(ours), run(theirs))
        outputs.append(run(ours))
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(outputs))
    pipeline.disable_lora()
    assert torch.equal(run(ours), base)
    pipeline.enable_lora()
    assert torch.equal(run(ours), outputs[-1])
    pipeline.delete_adapters("two")
    pipeline.set_adapters(["one"], [1.0])
    assert torch.equal(run(ours), outputs[0])
    pipeline.unload_lora_weights()
    assert torch.equal(run(ours), base)
    assert isinstance(ours.transformer_blocks[0].attn.to_q, TernaryLinear)


def kohya(model: Any) -> dict[str, Tensor]:
    """BFL's module names with underscores; the fused projection gets one pair of factors."""
    generator = torch.Generator().manual_seed(3)
    width = model.inner_dim
    state = {}
    for name, n, k in (
        ("double_blocks_0_img_attn_qkv", 3 * width, width),
        ("double_blocks_1_txt_mlp_2", width, 4 * width),
        ("single_blocks_0_linear2", width, 5 * width),
    ):
        state[f"lora_unet_{name}.lora_down.weight"] = torch.randn(RANK, k, generator=generator) / 8
        state[f"lora_unet_{name}.lora_up.weight"] = torch.randn(n, RANK, generator=generator) / 8
        state[f"lora_unet_{name}.alpha"] = torch.tensor(2.0)
    return state


def xlabs(model: Any) -> dict[str, Tensor]:
    """BFL's blocks with x-flux's processors."""
    generator = torch.Generator().manual_seed(4)
    width = model.inner_dim
    state = {}
    for block in ("double_blocks.0.processor.qkv_lora1", "double_blocks.1.processor.qkv_lora2"):
        state[f"{block}.down.weight"] = torch.randn(RANK, width, generator=generator) / 8
        state[f"{block}.up.weight"] = torch.randn(3 * width, RANK, generator=generator) / 8
    return state


@torch.no_grad()
@pytest.mark.parametrize("style", [kohya, xlabs])
def test_key_styles(pipeline, twin, base, run, style) -> None:
    state = style(pipeline.transformer)
    for p in (pipeline, twin):
        p.load_lora_weights(dict(state))
    assert_close(run(pipeline.transformer), run(twin.transformer))
    assert (run(pipeline.transformer) - base).norm() > 0.01 * base.norm()


@torch.no_grad()
def test_a_control_lora_widens_the_embedder(pipeline, twin, make_lora) -> None:
    """diffusers makes ``x_embedder`` dense and twice as wide; ternary layers keep their packed weights."""
    state = make_lora(5, ["transformer_blocks.0.attn.to_q"])
    state["transformer.x_embedder.lora_A.weight"] = torch.randn(RANK, 16) / 8
    state["transformer.x_embedder.lora_B.weight"] = torch.randn(32, RANK) / 8
    x = torch.randn(3, 16)
    outputs = []
    for p in (pipeline, twin):
        p.load_lora_weights(dict(state))
        outputs.append(p.transformer.x_embedder(x))
    assert torch.equal(*outputs)


def test_a_control_lora_on_a_ternary_embedder(make_pipeline, flux_class, folder) -> None:
    from ternfmt_runtime import quantize_

    model = flux_class.from_pretrained(folder)
    quantize_(model, include=["x_embedder"])
    weight = model.x_embedder.dequantize().weight
    pipeline = make_pipeline(model)
    state = {"transformer.x_embedder.lora_A.weight": torch.randn(RANK, 16)}
    state["transformer.x_embedder.lora_B.weight"] = torch.randn(32, RANK)
    pipeline.load_lora_weights(state)
    assert torch.equal(pipeline.transformer.x_embedder.base_layer.weight[:, :8], weight)


@torch.no_grad()
def test_pitfall_3_fuse_lora_becomes_a_low_rank_term(pipeline, base, run, make_lora, flux_class, tmp_path) -> None:
    model = pipeline.transformer
    pipeline.load_lora_weights(make_lora(1, TERNARY), adapter_name="one")
    pipeline.load_lora_weights(make_lora(2, TERNARY[:1]), adapter_name="two")
    pipeline.set_adapters(["one", "two"], [0.5, 2.0])
    beside = run(model)
    before = {n: m.to_ternary() for n, m in model.named_modules() if isinstance(m, TernaryLinear)}

    pipeline.fuse_lora(components=["transformer"], safe_fusing=True)
    layer = model.transformer_blocks[0].attn.to_q.base_layer
    assert layer.low_rank == 2 * RANK
    assert_close(run(model), beside)

    pipeline.unfuse_lora(components=["transformer"])
    assert layer.low_rank is None
    for name, tensor in before.items():
        now = model.get_submodule(name).to_ternary()
        assert now.low_rank is tensor.low_rank is None
        assert (now.codes == tensor.codes).all()
    assert torch.equal(run(model), beside)

    pipeline.fuse_lora(components=["transformer"])
    pipeline.unload_lora_weights()
    fused = run(model)
    assert_close(fused, beside)
    model.save_pretrained(tmp_path)
    with ternfmt.open(tmp_path) as file:
        assert file.document.required == ("low-rank",)
        assert file.tensors[f"{TERNARY[0]}.weight"].low_rank == 2 * RANK
    assert torch.equal(run(flux_class.from_pretrained(tmp_path)), fused)
    assert not torch.equal(fused, base)


@torch.no_grad()
def test_fuse_with_a_scale(pipeline, twin, run, make_lora) -> None:
    for p in (pipeline, twin):
        p.load_lora_weights(make_lora(1))
        p.fuse_lora(components=["transformer"], lora_scale=0.25)
    assert_close(run(pipeline.transformer), run(twin.transformer))


def test_a_model_with_adapters_is_not_saved_under_their_names(pipeline, make_lora, tmp_path) -> None:
    pipeline.load_lora_weights(make_lora(1))
    with pytest.raises(ValueError, match="unload_lora_weights"):
        pipeline.transformer.save_pretrained(tmp_path)
