"""Files that do not fit: the error names the file, the tensor, what was expected and found, and what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    MixtralConfig,
    MixtralForCausalLM,
)

import ternfmt
from ternfmt import FormatError, Kind, TernaryTensor
from ternfmt.encode.convert import convert
from ternfmt.encode.plan import plan_conversion
from ternfmt.encode.settings import Settings
from ternfmt_runtime import LoadError, TernaryConfig
from tests.runtime.transformers.conftest import run

NAME = "model.layers.1.mlp.up_proj.weight"


def copy_with(
    source: Path,
    target: Path,
    tensors: Callable[[dict[str, Any]], None] = lambda tensors: None,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A copy of a converted folder with other tensors or another config.json."""
    target.mkdir()
    values = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**values, **(config or {})}))
    with ternfmt.open(source) as file:
        held = {name: file[name] for name in file}
        tensors(held)
        ternfmt.save(target / "model.safetensors", held)
    return target


def tamper(
    source: Path,
    target: Path,
    tensors: Callable[[dict[str, torch.Tensor]], None] = lambda tensors: None,
    metadata: Callable[[dict[str, str]], None] = lambda metadata: None,
) -> Path:
    """A copy of a converted folder that a tool wrote which knows nothing of ternfmt."""
    target.mkdir()
    (target / "config.json").write_bytes((source / "config.json").read_bytes())
    path = source / "model.safetensors"
    with safetensors.safe_open(path, "pt") as file:
        stated = file.metadata()
    held = safetensors.torch.load_file(path)
    tensors(held)
    metadata(stated)
    safetensors.torch.save_file(held, target / "model.safetensors", stated)
    return target


def test_stripped(ternary: Callable[..., Path], tmp_path: Path) -> None:
    folder = tamper(ternary("llama"), tmp_path / "t", metadata=lambda m: m.pop("ternfmt"))
    with pytest.raises(FormatError, match=r"STRIPPED: .*model\.safetensors.*ternfmt canonicalize") as caught:
        AutoModelForCausalLM.from_pretrained(folder)
    assert caught.value.kind is Kind.STRIPPED


@pytest.mark.parametrize(
    ("part", "change", "kind"),
    [
        (NAME, lambda codes: codes[3].fill_(0b10), Kind.CODE),
        (f"{NAME}_scale", lambda scale: scale[3].neg_(), Kind.SCALE),
        (f"{NAME}_scale", lambda scale: scale[3].fill_(torch.nan), Kind.SCALE),
    ],
)
def test_codes_and_scales_are_checked(
    part: str,
    change: Callable[[torch.Tensor], Any],
    kind: Kind,
    ternary: Callable[..., Path],
    tmp_path: Path,
) -> None:
    folder = tamper(ternary("llama"), tmp_path / "t", lambda tensors: change(tensors[part]))
    with pytest.raises(FormatError, match=rf"{kind}: .*model\.safetensors: '{NAME}'") as caught:
        AutoModelForCausalLM.from_pretrained(folder)
    assert caught.value.kind is kind


def test_padding_is_checked(ternary: Callable[..., Path], tmp_path: Path) -> None:
    """K = 42 leaves two lanes of each row's last byte."""
    source = ternary("llama", intermediate_size=42)
    name = NAME.replace("up", "down")
    folder = tamper(source, tmp_path / "t", lambda tensors: tensors[name][:, -1].bitwise_or_(0b01 << 6))
    with pytest.raises(FormatError, match="PADDING"):
        AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize(("part", "kind"), [(NAME, Kind.METADATA), (f"{NAME}_scale", Kind.SCALE)])
def test_an_absent_part_of_a_ternary_tensor(
    part: str, kind: Kind, ternary: Callable[..., Path], tmp_path: Path
) -> None:
    AutoModelForCausalLM.from_pretrained(ternary("llama")).save_pretrained(tmp_path / "s")
    folder = tamper(tmp_path / "s", tmp_path / "t", lambda tensors: tensors.pop(part))
    with pytest.raises(FormatError, match=rf"{part}.*absent; expected") as caught:
        AutoModelForCausalLM.from_pretrained(folder)
    assert caught.value.kind is kind


def test_an_absent_shard(ternary: Callable[..., Path], tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(ternary("llama")).save_pretrained(tmp_path, max_shard_size="10KB")
    sorted(tmp_path.glob("*.safetensors"))[0].unlink()
    with pytest.raises(FormatError, match=r"INDEX: .*lists shard 'model-00001-of-0000\d\.safetensors'"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_config_states_another_version(ternary: Callable[..., Path], tmp_path: Path) -> None:
    stated = {"quantization_config": {"quant_method": "ternfmt", "format_version": "1.7"}}
    folder = copy_with(ternary("llama"), tmp_path / "t", config=stated)
    with pytest.raises(FormatError, match=r"CONFIG: .*format_version '1\.7'") as caught:
        AutoModelForCausalLM.from_pretrained(folder)
    assert caught.value.kind is Kind.CONFIG


@pytest.mark.parametrize(
    "stated", [{"planes": 3, "method": "planes"}, {"group_size": 32}, {"modules_to_not_convert": ["mlp"]}]
)
def test_config_states_another_encoding(stated: dict[str, Any], ternary: Callable[..., Path], tmp_path: Path) -> None:
    config = {"quantization_config": {"quant_method": "ternfmt", **stated}}
    folder = copy_with(ternary("llama"), tmp_path / "t", config=config)
    with pytest.raises(FormatError, match=r"CONFIG: .*model\.safetensors: 'model\.layers.*The file is right"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_shape_differs(ternary: Callable[..., Path], tmp_path: Path) -> None:
    """Even where the packed shapes agree: 70 and 72 columns are 18 bytes."""
    folder = copy_with(ternary("llama"), tmp_path / "t", config={"intermediate_size": 70})
    with pytest.raises(LoadError) as caught:
        AutoModelForCausalLM.from_pretrained(folder)
    assert len(caught.value.problems) == 6
    (problem,) = [p for p in caught.value.problems if "layers.1.mlp.down_proj" in p]
    assert f"{folder / 'model.safetensors'}: 'model.layers.1.mlp.down_proj.weight'" in problem
    assert "expects shape [32, 70], got [32, 72]: config.json is not this file's" in problem


def test_not_a_linear(dense: Callable[..., Path], tmp_path: Path) -> None:
    """An embedding that the user made ternary."""
    convert(plan_conversion(dense("t5"), Settings(include=("shared.weight",))), tmp_path / "t")
    with pytest.raises(LoadError, match=r"'shared' is a Embedding; only nn\.Linear.*convert again with --exclude"):
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "t")


def test_gpt2(dense: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none of the 28 tensors would become ternary .*stored as \[in, out\]"):
        plan_conversion(dense("gpt2"), Settings())
    convert(plan_conversion(dense("gpt2"), Settings(policy="general")), tmp_path / "t")
    with pytest.raises(LoadError, match=r"'transformer\.h\.0\.attn\.c_attn' is a Conv1D; .* --exclude"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "t")


def test_experts(tmp_path: Path) -> None:
    config = MixtralConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=96,
        num_local_experts=2,
    )
    MixtralForCausalLM(config).save_pretrained(tmp_path / "dense")
    convert(plan_conversion(tmp_path / "dense", Settings()), tmp_path / "all")
    with pytest.raises(LoadError, match=r"experts.*transformers makes .*experts.*of it.*--exclude"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "all")
    settings = Settings(exclude=("*.experts.*", "*.gate.weight"))
    convert(plan_conversion(tmp_path / "dense", settings), tmp_path / "some")
    assert run(AutoModelForCausalLM.from_pretrained(tmp_path / "some")).isfinite().all()


def test_missing(ternary: Callable[..., Path], tmp_path: Path) -> None:
    def drop(tensors: dict[str, Any]) -> None:
        del tensors[NAME], tensors["model.norm.weight"]

    folder = copy_with(ternary("llama"), tmp_path / "t", drop)
    with pytest.raises(LoadError) as caught:
        AutoModelForCausalLM.from_pretrained(folder)
    assert [p.split(";")[0] for p in caught.value.problems] == [
        f"missing: '{NAME}', torch.float32 [72, 32]",
        "missing: 'model.norm.weight', torch.float32 [32]",
    ]
    assert 'remove "architectures" from config.json' in str(caught.value)
    accepted = copy_with(ternary("llama"), tmp_path / "u", drop, {"architectures": None})
    assert run(AutoModelForCausalLM.from_pretrained(accepted)).isfinite().all()


@pytest.mark.parametrize("quantized", [True, False])
def test_a_missing_bias(quantized: bool, dense: Callable[..., Path], ternary: Callable[..., Path], tmp_path: Path):
    """Nothing would initialise it."""
    source = ternary("bert") if quantized else dense("bert")
    tensors = safetensors.torch.load_file(source / "model.safetensors")
    with safetensors.safe_open(source / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    if quantized:
        document = json.loads(metadata["ternfmt"])
        del document["digests"]
        metadata["ternfmt"] = json.dumps(document)
    del tensors["encoder.layer.1.output.dense.bias"]
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors", metadata)
    config = json.loads((source / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": None}))
    arguments = {} if quantized else {"quantization_config": TernaryConfig()}
    with pytest.raises(LoadError, match=r"missing: 'encoder\.layer\.1\.output\.dense\.bias', \[36\]"):
        AutoModel.from_pretrained(tmp_path, **arguments)


def test_unexpected_tensors_are_reported_as_for_dense_models(ternary: Callable[..., Path], tmp_path: Path) -> None:
    """A checkpoint of BERT has more heads than any one class."""

    def add(tensors: dict[str, Any]) -> None:
        tensors["cls.seq_relationship.weight"] = tensors["encoder.layer.0.output.dense.weight"]

    folder = copy_with(ternary("bert"), tmp_path / "t", add)
    model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert set(report["unexpected_keys"]) == {"cls.seq_relationship.weight", "cls.seq_relationship.weight_scale"}
    assert torch.equal(run(model), run(AutoModel.from_pretrained(ternary("bert"))))


def test_nothing_fits(ternary: Callable[..., Path], tmp_path: Path) -> None:
    def rename(tensors: dict[str, Any]) -> None:
        for name in list(tensors):
            tensors[f"other.{name}"] = tensors.pop(name)

    folder = copy_with(ternary("llama"), tmp_path / "t", rename)
    with pytest.raises(LoadError, match=r"none of its 14 ternary tensors, such as 'other\.model.*LlamaForCausalLM"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_ternary_where_only_a_weight_can_be(
    make_tensor: Callable[..., TernaryTensor], ternary: Callable[..., Path], tmp_path: Path
) -> None:
    def replace(tensors: dict[str, Any]) -> None:
        tensors["embeddings.word_embeddings.weight"] = make_tensor(0, 96, 36, rank=0)

    folder = copy_with(ternary("bert"), tmp_path / "t", replace)
    with pytest.raises(LoadError, match=r"'embeddings\.word_embeddings' is a Embedding"):
        AutoModel.from_pretrained(folder)


def test_names_that_transformers_tears_apart(ternary: Callable[..., Path], tmp_path: Path) -> None:
    """A renaming of `weight` alone leaves the scale behind."""

    def rename(tensors: dict[str, Any]) -> None:
        tensors["encoder.layer.0.output.dense.kernel"] = tensors.pop("encoder.layer.0.output.dense.weight")

    folder = copy_with(ternary("bert"), tmp_path / "t", rename)
    with pytest.raises(LoadError, match=r"'\S+\.dense\.kernel_scale': transformers loads it as '.*kernel_scale'"):
        AutoModel.from_pretrained(folder, key_mapping={r"kernel$": "weight"})


def test_other_sources(ternary: Callable[..., Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(ternary("llama"))
    config = AutoConfig.from_pretrained(ternary("llama"))
    with pytest.raises(ValueError, match="loaded from safetensors files, got"):
        type(model).from_pretrained(None, config=config, state_dict=model.state_dict())


def test_without_our_package(ternary: Callable[..., Path], tmp_path: Path) -> None:
    """What someone sees who did not import ternfmt_runtime: an error, not garbage."""
    program = (
        "import sys\nfrom transformers import AutoModelForCausalLM\nAutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(ternary("llama"))], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "Unknown quantization type, got ternfmt" in done.stderr
    assert "RuntimeError: You set `ignore_mismatched_sizes` to `False`" in done.stderr
    assert "model.layers.{0, 1}.mlp.down_proj.weight" in done.stderr
