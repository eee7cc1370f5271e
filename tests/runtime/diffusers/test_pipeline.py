"""Whole pipelines: loaded, quantised, offloaded and run."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ternfmt_runtime import TernaryConfig, TernaryLinear

NO_TOKENIZERS = {"tokenizer": None, "tokenizer_2": None}


@pytest.fixture(scope="module")
def make() -> Any:
    """Makes a pipeline with a tiny VAE and text encoders around a transformer."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    parts = {
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "vae": AutoencoderKL(block_out_channels=(8,), norm_num_groups=1, latent_channels=2, shift_factor=0.1),
        "text_encoder": CLIPTextModel(CLIPTextConfig(vocab_size=99, projection_dim=32, **sizes)),
        "text_encoder_2": T5EncoderModel(
            T5Config(vocab_size=99, d_model=32, d_kv=16, d_ff=48, num_heads=2, num_layers=1)
        ),
        **NO_TOKENIZERS,
    }
    return lambda transformer: FluxPipeline(transformer=transformer, **copy.deepcopy(parts))


@pytest.fixture(scope="module")
def pipeline_folder(make, flux_class, folder: Path, tmp_path_factory) -> Path:
    """A saved pipeline whose transformer is ternary."""
    path = tmp_path_factory.mktemp("pipeline")
    make(flux_class.from_pretrained(folder)).save_pretrained(path)
    return path


def sample(pipeline: Any) -> Tensor:
    """Two steps on fixed embeddings, decoded."""
    generator = torch.Generator().manual_seed(0)
    pipeline.set_progress_bar_config(disable=True)
    embeds = torch.randn(1, 5, 32, generator=generator)
    result = pipeline(
        prompt_embeds=embeds,
        pooled_prompt_embeds=torch.randn(1, 32, generator=generator),
        height=8,
        width=8,
        num_inference_steps=2,
        generator=generator,
        output_type="pt",
    )
    return result.images


def count(model: Any) -> int:
    return sum(isinstance(module, TernaryLinear) for module in model.modules())


@pytest.fixture(scope="module")
def expected(make, flux_class, folder) -> Tensor:
    images = sample(make(flux_class.from_pretrained(folder)))
    assert images.isfinite().all()
    return images


def test_from_pretrained(pipeline_folder, expected) -> None:
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(pipeline_folder, **NO_TOKENIZERS)
    assert type(pipeline).__name__ == "FluxPipeline"
    assert count(pipeline.transformer) == 34
    assert torch.equal(sample(pipeline), expected)


def test_from_pretrained_with_a_transformer(pipeline_folder, flux_class, folder, expected) -> None:
    from diffusers import FluxPipeline

    transformer = flux_class.from_pretrained(folder)
    pipeline = FluxPipeline.from_pretrained(pipeline_folder, transformer=transformer, **NO_TOKENIZERS)
    assert pipeline.transformer is transformer
    assert torch.equal(sample(pipeline), expected)


@pytest.mark.parametrize("how", ["quant_mapping", "quant_backend"])
def test_pipeline_quantization_config(make, flux_class, dense_folder, tmp_path, how) -> None:
    """Components of both libraries, with the same config class."""
    from diffusers import DiffusionPipeline
    from diffusers.quantizers import PipelineQuantizationConfig

    make(flux_class.from_pretrained(dense_folder)).save_pretrained(tmp_path)
    settings = {"method": "planes", "planes": 2}
    components = ["transformer", "text_encoder_2"]
    if how == "quant_mapping":
        config = PipelineQuantizationConfig(quant_mapping={name: TernaryConfig(**settings) for name in components})
    else:
        config = PipelineQuantizationConfig("ternfmt", settings, components)
    pipeline = DiffusionPipeline.from_pretrained(tmp_path, quantization_config=config, **NO_TOKENIZERS)
    assert count(pipeline.transformer) == 34
    assert pipeline.transformer.transformer_blocks[0].attn.to_q.planes == 2
    assert count(pipeline.text_encoder_2) > 0
    assert count(pipeline.text_encoder) == count(pipeline.vae) == 0
    assert sample(pipeline).isfinite().all()


def test_save_and_load_a_quantised_pipeline(pipeline_folder, tmp_path, expected) -> None:
    from diffusers import DiffusionPipeline

    DiffusionPipeline.from_pretrained(pipeline_folder, **NO_TOKENIZERS).save_pretrained(tmp_path)
    assert torch.equal(sample(DiffusionPipeline.from_pretrained(tmp_path, **NO_TOKENIZERS)), expected)


@pytest.mark.parametrize("offload", ["model", "group"])
def test_offload(make, flux_class, folder, expected, offload) -> None:
    """On a CPU this shows that hooks find and move all tensors, not that memory is saved."""
    pipeline = make(flux_class.from_pretrained(folder))
    if offload == "model":
        pipeline.enable_model_cpu_offload(device="cpu")
    else:
        pipeline.enable_group_offload(torch.device("cpu"), torch.device("cpu"), offload_type="leaf_level")
    torch.testing.assert_close(sample(pipeline), expected)


def test_pitfall_7_a_pipeline_moves_but_does_not_cast(make, flux_class, folder, expected) -> None:
    pipeline = make(flux_class.from_pretrained(folder))
    pipeline.to("cpu")
    assert torch.equal(sample(pipeline), expected)
    with pytest.raises(ValueError, match="Casting a quantized model"):
        pipeline.transformer.to(torch.bfloat16)
