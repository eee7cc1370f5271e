"""What `ternfmt convert` makes of pipelines and single files, loaded by diffusers."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import ml_dtypes
import pytest
import torch
from safetensors.numpy import save_file

import ternfmt
from ternfmt.cli import main
from ternfmt_runtime import TernaryConfig, TernaryLinear
from tests.encode.source.flux import bfl_checkpoint


def convert(*args: str | Path) -> None:
    assert main(["convert", *map(str, args)]) == 0


def tokenizers() -> dict[str, Any]:
    """CLIP's and T5's classes on vocabularies of letters."""
    from transformers import CLIPTokenizer, T5TokenizerFast

    letters = string.ascii_lowercase
    clip = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    t5 = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -1.0), *((letter, -2.0) for letter in letters)]
    return {
        "tokenizer": CLIPTokenizer(vocab={token: i for i, token in enumerate(clip)}, merges=[], model_max_length=77),
        "tokenizer_2": T5TokenizerFast(vocab=t5, extra_ids=0),
    }


@pytest.fixture(scope="module")
def dense_pipeline(flux_class: Any, dense_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole tiny FLUX.1 pipeline, as the Hub has it."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    torch.manual_seed(0)
    tokens = tokenizers()
    ends = {"bos_token_id": tokens["tokenizer"].bos_token_id, "eos_token_id": tokens["tokenizer"].eos_token_id}
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    folder = tmp_path_factory.mktemp("hub") / "tiny-flux"
    FluxPipeline(
        transformer=flux_class.from_pretrained(dense_folder),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderKL(block_out_channels=(8,), norm_num_groups=1, latent_channels=2, shift_factor=0.1),
        text_encoder=CLIPTextModel(CLIPTextConfig(vocab_size=99, projection_dim=32, **ends, **sizes)),
        text_encoder_2=T5EncoderModel(T5Config(vocab_size=99, d_model=32, d_kv=16, d_ff=48, num_heads=2, num_layers=1)),
        **tokens,
    ).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny FLUX\n")
    return folder


def image(pipeline: Any) -> torch.Tensor:
    """From a prompt, through the text encoders."""
    pipeline.set_progress_bar_config(disable=True)
    made: torch.Tensor = pipeline(
        "a photo",
        height=8,
        width=8,
        num_inference_steps=2,
        max_sequence_length=16,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).images
    return made


def test_a_converted_pipeline_loads_and_runs(
    flux_class: Any, dense_folder: Path, dense_pipeline: Path, tmp_path: Path
) -> None:
    from diffusers import DiffusionPipeline

    made = tmp_path / "made"
    convert(dense_pipeline, made)
    pipeline = DiffusionPipeline.from_pretrained(made)
    assert type(pipeline).__name__ == "FluxPipeline"
    assert sum(isinstance(module, TernaryLinear) for module in pipeline.transformer.modules()) == 34
    ours = image(pipeline)
    assert ours.isfinite().all()
    # The same as the dense pipeline with its transformer quantised while it is loaded.
    twin = flux_class.from_pretrained(dense_folder, quantization_config=TernaryConfig())
    theirs = image(DiffusionPipeline.from_pretrained(dense_pipeline, transformer=twin))
    torch.testing.assert_close(ours, theirs)
    assert not torch.allclose(ours, image(DiffusionPipeline.from_pretrained(dense_pipeline)))


def test_a_text_encoder_of_a_pipeline(dense_pipeline: Path, tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline

    made = tmp_path / "made"
    convert(dense_pipeline, made, "--component", "text_encoder_2", "--method", "planes")
    pipeline = DiffusionPipeline.from_pretrained(made)
    assert pipeline.text_encoder_2.config.quantization_config.quant_method == "ternfmt"
    assert not any(isinstance(module, TernaryLinear) for module in pipeline.transformer.modules())
    assert image(pipeline).isfinite().all()


def test_a_bfl_file_becomes_a_folder_that_loads(flux_class: Any, tmp_path: Path) -> None:
    """Its config is read off the shapes."""
    flux = bfl_checkpoint(1, 2, 128, 1024, guidance=True)
    tensors = flux.tensors | {
        f"{name}.weight": flux.tensors["time_in.out_layer.weight"]
        for name in ("time_in.in_layer", "guidance_in.in_layer")  # diffusers embeds time in 256 channels
    }
    save_file(
        {name: value.astype(ml_dtypes.bfloat16) for name, value in tensors.items()}, tmp_path / "flux.safetensors"
    )
    convert(tmp_path / "flux.safetensors", tmp_path / "made", "--names", "diffusers", "--max-shard-size", "1MB")
    assert len(list((tmp_path / "made").glob("*.safetensors"))) > 1
    model = flux_class.from_pretrained(tmp_path / "made", torch_dtype=torch.bfloat16)
    assert ternfmt.validate(tmp_path / "made").ternary == 14 + 2 * 6
    assert sum(isinstance(module, TernaryLinear) for module in model.modules()) == 14 + 2 * 6
    default = flux_class.load_config(tmp_path / "made")
    assert json.loads((tmp_path / "made" / "config.json").read_text()).items() <= default.items()


def test_a_torch_pipeline(dense_folder: Path, flux_class: Any, tmp_path: Path) -> None:
    """diffusion_pytorch_model.bin, as old repositories have it."""
    flux_class.from_pretrained(dense_folder).save_pretrained(tmp_path / "old", safe_serialization=False)
    assert [p.name for p in (tmp_path / "old").glob("*.bin")] == ["diffusion_pytorch_model.bin"]
    convert(tmp_path / "old", tmp_path / "made")
    convert(dense_folder, tmp_path / "theirs")
    name = "diffusion_pytorch_model.safetensors"
    assert (tmp_path / "made" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
    assert isinstance(flux_class.from_pretrained(tmp_path / "made").transformer_blocks[0].attn.to_q, TernaryLinear)


def test_the_card_is_one_that_the_hub_reads(dense_pipeline: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    convert(dense_pipeline, tmp_path / "made", "--base-model", "org/tiny-flux")
    data = ModelCard.load(tmp_path / "made" / "README.md").data
    assert (data.license, data.base_model, data.library_name) == ("apache-2.0", "org/tiny-flux", "diffusers")
