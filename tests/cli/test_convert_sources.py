"""``ternfmt convert`` on what people have: pipelines, single files of BFL and ComfyUI, torch's files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import ternfmt
from ternfmt.encode.source.flux_config import flux_config
from tests.encode.source.checkpoints import write_model, write_pipeline, write_sharded
from tests.encode.source.flux import Arrays, bfl_checkpoint

from .conftest import Run

FLUX = bfl_checkpoint(2, 1, 8, 48, guidance=True)
CONFIG = {"_class_name": "FluxTransformer2DModel"}


def bf16(tensors: Arrays) -> dict[str, Any]:
    return {name: value.astype(ml_dtypes.bfloat16) for name, value in tensors.tensors.items()}


def stored(path: Path) -> dict[str, tuple[str, bytes]]:
    """Every stored tensor's dtype and bytes."""
    with ternfmt.open(path) as model:
        return {name: (span.dtype, model.stored[name].tobytes()) for name, span in model.stored.spans.items()}


def source_of(path: Path) -> Mapping[str, Any]:
    with ternfmt.open(path) as model:
        source: Mapping[str, Any] = model.document.ancillary.get("source", {})
        return source


def ternary(path: Path) -> set[str]:
    with ternfmt.open(path) as model:
        return {name for name, info in model.tensors.items() if info.ternary}


@pytest.fixture
def bfl_file(tmp_path: Path) -> Path:
    save_file(bf16(FLUX), tmp_path / "flux1-dev.safetensors")
    return tmp_path / "flux1-dev.safetensors"


@pytest.fixture
def diffusers_folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "transformer", config=CONFIG, tensors=bf16(FLUX.renamed("diffusers")))


def test_a_pipeline(run: Run, tmp_path: Path) -> None:
    source, made = write_pipeline(tmp_path / "tiny"), tmp_path / "made"
    result = run("convert", source, made, "--base-model", "org/tiny")
    assert result.code == 0, result.err
    assert "weights left out: tiny-in-one.safetensors" in result.out
    assert ternary(made / "transformer") == {"blocks.0.q.weight", "blocks.1.q.weight"}
    assert source_of(made / "transformer") == {"model": "org/tiny", "license": "apache-2.0"}
    config = json.loads((made / "transformer" / "config.json").read_text())
    assert config == {
        "_class_name": "TinyModel",
        "quantization_config": {"quant_method": "ternfmt", "format_version": "1.0"},
    }
    assert (made / "model_index.json").read_bytes() == (source / "model_index.json").read_bytes()
    for kept in ("text_encoder/model.safetensors", "text_encoder/config.json", "tokenizer/vocab.json", "LICENSE"):
        assert (made / kept).read_bytes() == (source / kept).read_bytes()
    assert (made / "README.source.md").read_text() == (source / "README.md").read_text()
    card = (made / "README.md").read_text()
    assert "base_model: org/tiny\n" in card
    assert "DiffusionPipeline.from_pretrained" in card
    assert sorted(p.name for p in made.iterdir()) == [
        "LICENSE", "README.md", "README.source.md", "model_index.json", "text_encoder", "tokenizer", "transformer",
    ]  # fmt: skip
    run("convert", made, tmp_path / "again", "--component", "text_encoder")
    assert ternary(tmp_path / "again" / "text_encoder") == {"blocks.0.q.weight", "blocks.1.q.weight"}
    assert stored(tmp_path / "again" / "transformer") == stored(made / "transformer")


def test_a_component_alone_has_the_pipelines_licence(run: Run, tmp_path: Path) -> None:
    source = write_pipeline(tmp_path / "tiny")
    assert run("convert", source / "transformer", tmp_path / "made").code == 0
    assert source_of(tmp_path / "made") == {"license": "apache-2.0"}
    assert (tmp_path / "made" / "LICENSE").exists()


def test_bfl_names_are_kept(run: Run, bfl_file: Path) -> None:
    made = bfl_file.with_name("made.safetensors")
    said = run("convert", bfl_file, made, "--json").json
    assert said["policy"] == "flux1"
    with ternfmt.open(made) as model:
        assert set(model) == set(FLUX.tensors)
    assert len(ternary(made)) == 2 * 10 + 3


def test_a_comfyui_checkpoint_keeps_what_else_it_holds(run: Run, tmp_path: Path) -> None:
    others = {
        "vae.decoder.up.0.block.0.conv.weight": np.ones((4, 4, 3, 3), np.float32),
        "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight": np.ones((8, 8), np.float32),
    }
    tensors = bf16(FLUX.prefixed)
    save_file({**tensors, **others}, tmp_path / "all.safetensors")
    assert run("convert", tmp_path / "all.safetensors", tmp_path / "made.safetensors").code == 0
    with ternfmt.open(tmp_path / "made.safetensors") as model:
        assert set(model) == {*tensors, *others}
        for name, value in others.items():
            assert np.array_equal(model[name], value)
    assert len(ternary(tmp_path / "made.safetensors")) == 2 * 10 + 3
    result = run("convert", tmp_path / "all.safetensors", tmp_path / "x", "--names", "diffusers")
    assert result.code == 1
    assert "2 of 78 tensors are not FLUX.1's: " in result.err
    assert "without --names" in result.err


@pytest.mark.parametrize("prefixed", [False, True])
def test_splitting_before_and_after_gives_the_same_bytes(
    run: Run, tmp_path: Path, diffusers_folder: Path, prefixed: bool
) -> None:
    """BFL's file with --names diffusers = diffusers' folder; and the other way round."""
    save_file(bf16(FLUX.prefixed if prefixed else FLUX), tmp_path / "flux1-dev.safetensors")
    assert run("convert", diffusers_folder, tmp_path / "folder").code == 0
    result = run("convert", tmp_path / "flux1-dev.safetensors", tmp_path / "file", "--names", "diffusers")
    assert result.code == 0, result.err
    assert stored(tmp_path / "file") == stored(tmp_path / "folder")
    assert len(ternary(tmp_path / "file")) == 2 * 14 + 6
    assert run("convert", diffusers_folder, tmp_path / "bfl", "--names", "bfl").code == 0
    save_file(bf16(FLUX), tmp_path / "plain.safetensors")
    assert run("convert", tmp_path / "plain.safetensors", tmp_path / "kept").code == 0
    assert stored(tmp_path / "bfl") == stored(tmp_path / "kept")


def test_a_pipeline_keeps_diffusers_names(run: Run, tmp_path: Path) -> None:
    result = run("convert", write_pipeline(tmp_path / "tiny"), tmp_path / "made", "--names", "bfl")
    assert result.code == 1
    assert "is a pipeline, which loads diffusers' names" in result.err


def test_a_flux_file_becomes_a_folder_with_a_config(run: Run, tmp_path: Path) -> None:
    """Where the shapes say enough: heads of 128 channels."""
    flux = bfl_checkpoint(1, 2, 128, 256, guidance=False)
    save_file(bf16(flux), tmp_path / "flux1-schnell.safetensors", metadata={"modelspec.license": "apache-2.0"})
    arguments = ("--names", "diffusers", "--max-shard-size", "5GB", "--base-model", "org/flux")
    result = run("convert", tmp_path / "flux1-schnell.safetensors", tmp_path / "made", *arguments)
    assert result.code == 0, result.err
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == [
        "README.md", "config.json", "diffusion_pytorch_model.safetensors",
    ]  # fmt: skip
    config = json.loads((tmp_path / "made" / "config.json").read_text())
    assert config.pop("quantization_config")["quant_method"] == "ternfmt"
    assert config == flux_config(flux.renamed("diffusers").spans)
    assert (config["num_layers"], config["num_single_layers"], config["num_attention_heads"]) == (1, 2, 2)
    assert (config["guidance_embeds"], config["in_channels"], config["out_channels"]) == (False, 12, 4)
    assert source_of(tmp_path / "made") == {"model": "org/flux", "license": "apache-2.0"}
    assert "from diffusers import FluxTransformer2DModel" in (tmp_path / "made" / "README.md").read_text()
    assert flux_config(FLUX.renamed("diffusers").spans) is None
    assert flux_config(flux.spans) is None


@pytest.mark.parametrize("stem", ["pytorch_model", "diffusion_pytorch_model", "weights"])
def test_torch_files_give_the_bytes_of_safetensors(run: Run, tmp_path: Path, stem: str) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    dense = write_model(tmp_path / "dense", "model" if stem == "pytorch_model" else stem, {"model_type": "x"})
    (file,) = dense.glob("*.safetensors")
    pickled = tmp_path / "pickled" / "dense"
    pickled.mkdir(parents=True)
    shutil.copy(dense / "config.json", pickled)
    torch.save(load_file(file), pickled / f"{stem}.bin")
    assert run("convert", dense, tmp_path / "a").code == 0
    result = run("convert", pickled, tmp_path / "b")
    assert result.code == 0, result.err
    assert "with torch's weights_only loading" in result.out
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == sorted(p.name for p in (tmp_path / "a").iterdir())
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_shards_of_a_variant(run: Run, tmp_path: Path) -> None:
    """They come under the names that from_pretrained looks for."""
    folder = write_sharded(tmp_path / "dense", variant=".fp16")
    assert run("convert", folder, tmp_path / "made", "--max-shard-size", "40").code == 0
    names = sorted(path.name for path in (tmp_path / "made").iterdir())
    assert names[-1] == "diffusion_pytorch_model.safetensors.index.json"
    assert not any("fp16" in name for name in names)
    ternfmt.validate(tmp_path / "made", digests=True)


def test_dry_run_names_the_policy_and_the_reasons(run: Run, bfl_file: Path) -> None:
    result = run("convert", bfl_file, "--dry-run")
    assert "policy flux1" in result.out
    lines = {line.split()[0]: line for line in result.out.splitlines() if line.strip()}
    assert "2-D *.weight in a block" in lines["single_blocks.0.linear1.weight"]
    assert "outside of the repeated blocks" in lines["final_layer.linear.weight"]
    forced = run("convert", bfl_file, "--dry-run", "--policy", "general", "--json").json
    assert forced["policy"] == "general"
    wrong = run("convert", bfl_file, "--dry-run", "--policy", "wan")
    assert wrong.code == 1
    assert "none of the 76 tensors would become ternary (most matrices: outside of the repeated blocks)" in wrong.err


def test_fp8_checkpoints_are_told_so(run: Run, tmp_path: Path) -> None:
    tensors = {name: value.astype(ml_dtypes.float8_e4m3fn) for name, value in FLUX.tensors.items()}
    save_file(tensors, tmp_path / "fp8.safetensors")
    result = run("convert", tmp_path / "fp8.safetensors", tmp_path / "made")
    assert result.code == 1
    assert "(most matrices: dtype F8_E4M3 is not F32, F16 or BF16)" in result.err


def test_errors_leave_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    (tmp_path / "x.bin").write_bytes(b"\x80\x02not a checkpoint")
    for name, message in (("x.gguf", "the format is GGUF"), ("x.bin", "torch cannot map it")):
        result = run("convert", tmp_path / name, tmp_path / "made")
        assert result.code == 1
        assert message in result.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.bin", "x.gguf"]
