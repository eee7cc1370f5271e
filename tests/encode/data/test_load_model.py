"""The checkpoint as a model, and which of its modules hold the ternary tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ternfmt.encode.data import model as module
from ternfmt.encode.data.calls import output_of
from ternfmt.encode.data.model import ModelError, load_model
from ternfmt.encode.plan import plan_conversion
from ternfmt.encode.settings import Settings


def test_weights_are_the_checkpoints(folders, calls_of, kind):
    folder = folders(kind)
    plan = plan_conversion(folder, Settings())
    loaded = load_model(plan)
    assert list(loaded.linears) == [name for name in loaded.names.values() if name in plan.layers]
    assert set(loaded.linears) == set(plan.ternary)
    stored = {}
    for path in plan.checkpoint.files:
        stored.update(load_file(path))
    state = loaded.model.state_dict()
    assert set(loaded.names.values()) == set(stored)
    assert all(torch.equal(state[name], stored[tensor]) for name, tensor in loaded.names.items())
    assert loaded.device == torch.device("cpu")
    with torch.no_grad():
        assert output_of(loaded.model(**calls_of(kind)[0])).isfinite().all()


def test_the_cpu_computes_in_single_precision_unless_told(folders):
    plan = plan_conversion(folders("flux"), Settings())
    assert load_model(plan).dtype == torch.float32
    assert load_model(plan, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_component_of_a_pipeline_is_loaded(pipeline_folder):
    loaded = load_model(plan_conversion(pipeline_folder, Settings()))
    assert type(loaded.model).__name__ == "FluxTransformer2DModel"
    assert [block.name for block in loaded.blocks] == ["transformer_blocks.0", "single_transformer_blocks.0"]


@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_a_prefix_of_the_checkpoint_is_no_matter(folders, tmp_path, prefix):
    source = folders("bert")
    for path in source.iterdir():
        if path.suffix == ".json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = {f"{prefix}{name}": value for name, value in load_file(source / "model.safetensors").items()}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    loaded = load_model(plan_conversion(tmp_path, Settings()))
    assert all(name.startswith(f"{prefix}encoder.layer.") for name in loaded.linears)
    assert loaded.names["encoder.layer.0.output.dense.bias"] == f"{prefix}encoder.layer.0.output.dense.bias"


def test_a_bare_file_is_refused(folders):
    (path,) = Path(folders("bert")).glob("*.safetensors")
    with pytest.raises(ModelError, match=r"model.safetensors: expected the folder of a model"):
        load_model(plan_conversion(path, Settings()))


def test_renamed_tensors_are_refused(folders):
    plan = plan_conversion(folders("flux"), Settings(names="bfl"))
    with pytest.raises(ModelError, match=r"tensors are renamed .* without --names"):
        load_model(plan)


def test_an_unknown_class_is_named(pipeline_folder):
    plan = plan_conversion(pipeline_folder, Settings(component="text_encoder", include=("*linear*.weight",)))
    with pytest.raises(ModelError, match=r"diffusers .* has no class 'TextEncoder'"):
        load_model(plan)


def test_a_device_that_is_not_there_is_named(folders):
    with pytest.raises(ValueError, match=r"device 'toaster': torch .* cannot use it here"):
        load_model(plan_conversion(folders("bert"), Settings()), device="toaster")


def test_embeddings_made_ternary_are_refused(folders):
    plan = plan_conversion(folders("bert"), Settings(include=("embeddings.word*",)))
    with pytest.raises(ModelError, match=r"not the weight of an nn.Linear in it: embeddings\.word_embeddings\.weight"):
        load_model(plan)


def test_versions_of_diffusers_are_told_a_dtype_in_their_way(monkeypatch):
    import diffusers

    for version, name in (("0.41.0", "torch_dtype"), ("0.42.1", "dtype"), ("1.0.0", "dtype")):
        monkeypatch.setattr(diffusers, "__version__", version)
        assert module.dtype_argument(torch.float16) == {name: torch.float16}
