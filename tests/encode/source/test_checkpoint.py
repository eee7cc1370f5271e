"""From what the user names to weights, and to the files that are kept beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import ternfmt
from ternfmt.encode.source.checkpoint import find_checkpoint
from ternfmt.encode.source.companions import companions, left_out, place
from ternfmt.encode.source.sources import open_source
from tests.encode.source.checkpoints import TENSORS, write_json, write_model, write_pipeline, write_sharded


def held(path: Path, component: str | None = None) -> dict[str, np.ndarray]:
    """All tensors behind a path."""
    source = open_source(find_checkpoint(path, component))
    try:
        return {name: source.read(name, 0, span.shape[0]) for name, span in source.spans.items()}
    finally:
        source.close()


def assert_all_there(tensors: dict[str, np.ndarray]) -> None:
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert tensors[name].dtype == value.dtype
        assert np.array_equal(tensors[name], value)


@pytest.mark.parametrize("name", ["flux1.dev.safetensors", "weights", "x.sft"])
def test_a_file_of_any_name(tmp_path: Path, name: str) -> None:
    save_file(TENSORS, tmp_path / name)
    checkpoint = find_checkpoint(tmp_path / name)
    assert (checkpoint.kind, checkpoint.is_folder, checkpoint.folder) == ("safetensors", False, None)
    assert_all_there(held(tmp_path / name))


def test_a_folder(tmp_path: Path) -> None:
    checkpoint = find_checkpoint(write_model(tmp_path / "m"))
    assert checkpoint.folder == checkpoint.path == tmp_path / "m"
    assert checkpoint.config == {"_class_name": "TinyModel"}
    assert (checkpoint.stem, checkpoint.subfolder, checkpoint.is_folder) == ("diffusion_pytorch_model", "", True)
    assert_all_there(held(tmp_path / "m"))


@pytest.mark.parametrize("variant", ["", ".fp16"])
@pytest.mark.parametrize("named", ["folder", "index"])
def test_shards(tmp_path: Path, variant: str, named: str) -> None:
    folder = write_sharded(tmp_path / "m", variant=variant)
    path = folder if named == "folder" else next(folder.glob("*.json"))
    checkpoint = find_checkpoint(path)
    assert len(checkpoint.files) == 2
    assert checkpoint.is_folder
    assert checkpoint.stem == "diffusion_pytorch_model"
    assert (checkpoint.folder is None) == (named == "index")
    assert left_out(checkpoint) == []
    assert_all_there(held(path))


def test_a_variant_loses_its_suffix(tmp_path: Path) -> None:
    """from_pretrained looks for files without one."""
    checkpoint = find_checkpoint(write_model(tmp_path / "m", "diffusion_pytorch_model.fp16"))
    assert checkpoint.files[0].name == "diffusion_pytorch_model.fp16.safetensors"
    assert checkpoint.stem == "diffusion_pytorch_model"


def test_both_variants_are_ambiguous(tmp_path: Path) -> None:
    folder = write_model(write_model(tmp_path / "m"), "diffusion_pytorch_model.fp16")
    with pytest.raises(ValueError, match=r"holds the weights more than once.*fp16.*name the file"):
        find_checkpoint(folder)
    assert_all_there(held(folder / "diffusion_pytorch_model.fp16.safetensors"))
    with pytest.raises(ValueError, match="more than once"):
        find_checkpoint(write_sharded(write_model(tmp_path / "n", "diffusion_pytorch_model.fp16")))


def test_the_weights_that_libraries_load_come_before_others(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", "model")
    save_file({"x": TENSORS["head.weight"]}, folder / "adapter.safetensors")
    save_file({"x": TENSORS["head.weight"]}, folder / "consolidated.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"the same in another form")
    checkpoint = find_checkpoint(folder)
    assert [file.name for file in checkpoint.files] == ["model.safetensors"]
    assert left_out(checkpoint) == ["adapter.safetensors", "consolidated.safetensors", "pytorch_model.bin"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a.safetensors", "b.safetensors"], r"got a.safetensors, b.safetensors: name one of them"),
        (["model-00001-of-00002.safetensors"], r"got model-00001-of-00002.safetensors: their index is missing"),
        (["model.gguf"], r"the format is GGUF"),
        (["tf_model.h5"], r"the format is TensorFlow's"),
        ([], r"no weights in it"),
    ],
)
def test_folders_without_one_checkpoint(tmp_path: Path, files: list[str], message: str) -> None:
    write_json(tmp_path / "m" / "config.json", {})
    for file in files:
        save_file(TENSORS, tmp_path / "m" / file)
    with pytest.raises(ValueError, match=message):
        find_checkpoint(tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.gguf", b"GGUF", "GGUF, whose weights are quantised already"),
        ("x.safetensors", b"GGUF\x03\0\0\0 and so on", "GGUF, whose weights are quantised already"),
        ("x.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("x.onnx", b"", "the format is ONNX"),
        ("config.json", b"{}", "holds no weights; name the folder"),
    ],
)
def test_files_of_other_formats(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        find_checkpoint(tmp_path / name)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"org/name: no such file or folder; from the Hub, `hf download`"):
        find_checkpoint(Path("org/name"))


def test_the_hubs_cache(tmp_path: Path) -> None:
    """Its snapshots consist of symbolic links; its top is not a model."""
    cache = tmp_path / "models--org--tiny"
    blobs, snapshot = cache / "blobs", cache / "snapshots" / "0123"
    write_model(blobs)
    snapshot.mkdir(parents=True)
    for blob in blobs.iterdir():
        (snapshot / blob.name).symlink_to(f"../../blobs/{blob.name}")
    assert_all_there(held(snapshot))
    with pytest.raises(ValueError, match=r"name a revision in it: .*snapshots/0123"):
        find_checkpoint(cache)


def test_quantised_already(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", config={"quantization_config": {"quant_method": "bitsandbytes"}})
    with pytest.raises(ValueError, match="quantised already, by 'bitsandbytes': convert the original"):
        find_checkpoint(folder)
    write_json(folder / "config.json", {"quantization_config": {"quant_method": "ternfmt"}})
    with pytest.raises(ValueError, match="is ternfmt already; `ternfmt dequantize`"):
        find_checkpoint(folder)


def test_ternary_already(tmp_path: Path) -> None:
    ternfmt.save(tmp_path / "x.safetensors", {"a.weight": ternfmt.quantize(np.ones((4, 4), np.float32))})
    with pytest.raises(ValueError, match="is ternfmt already"):
        open_source(find_checkpoint(tmp_path / "x.safetensors"))


def test_a_missing_shard(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "m")
    (folder / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lists diffusion_pytorch_model-00002-of-00002.safetensors, not in .*: fetch"):
        find_checkpoint(folder)


def test_an_index_that_lies(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "m")
    index = next(folder.glob("*.json"))
    value = json.loads(index.read_text())
    value["weight_map"]["nowhere.weight"] = "diffusion_pytorch_model-00001-of-00002.safetensors"
    index.write_text(json.dumps(value))
    with pytest.raises(ValueError, match=r"lists 'nowhere.weight' .*, but no shard holds it"):
        open_source(find_checkpoint(folder))
    del value["weight_map"]["nowhere.weight"]
    value["weight_map"]["head.weight"] = "diffusion_pytorch_model-00001-of-00002.safetensors"
    index.write_text(json.dumps(value))
    with pytest.raises(ValueError, match=r"lists 'head.weight' .*, but .*-00002-of-00002.safetensors does"):
        open_source(find_checkpoint(folder))


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "m")
    save_file(TENSORS, folder / "diffusion_pytorch_model-00001-of-00002.safetensors")
    with pytest.raises(ValueError, match=r"comes twice"):
        open_source(find_checkpoint(folder))


def test_a_config_that_is_none(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    (folder / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config.json: expected a JSON object, got list"):
        find_checkpoint(folder)


def test_a_pipeline(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "p")
    checkpoint = find_checkpoint(folder)
    assert (checkpoint.path, checkpoint.pipeline, checkpoint.folder) == (folder, folder, folder / "transformer")
    assert checkpoint.component == checkpoint.subfolder == "transformer"
    assert find_checkpoint(folder, "text_encoder").stem == "model"
    for component in ("unet", "safety_checker"):
        with pytest.raises(
            ValueError, match=r"no '\w+'; choose one of transformer, text_encoder, tokenizer with --com"
        ):
            find_checkpoint(folder, component)
    with pytest.raises(ValueError, match="no weights in it"):
        find_checkpoint(folder, "tokenizer")
    with pytest.raises(ValueError, match="is not the folder of a pipeline"):
        find_checkpoint(folder / "transformer", "transformer")


def test_what_a_pipeline_keeps(tmp_path: Path) -> None:
    """All but the converted weights and those at the top, which are the same model in one file."""
    folder = write_pipeline(tmp_path / "p")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("")
    checkpoint = find_checkpoint(folder)
    assert sorted(companions(checkpoint)) == [
        "LICENSE",
        "README.source.md",
        "model_index.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/vocab.json",
    ]
    assert left_out(checkpoint) == ["tiny-in-one.safetensors"]


def test_what_a_model_folder_keeps(tmp_path: Path) -> None:
    """Weights in a subfolder are a module of their own if a config says so, and an export if not."""
    folder = write_model(tmp_path / "m", "model")
    for name in ("tokenizer.json", "README.md", "1_Pooling/config.json", "onnx/model.onnx", ".cache/x", "code/m.py"):
        write_json(folder / name, {})
    write_model(folder / "2_Dense", "model")
    checkpoint = find_checkpoint(folder)
    assert sorted(companions(checkpoint)) == [
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "README.source.md",
        "code/m.py",
        "tokenizer.json",
    ]
    assert left_out(checkpoint) == ["onnx/model.onnx"]
    assert companions(find_checkpoint(folder / "model.safetensors")) == {}


def test_a_part_takes_the_licence_along(tmp_path: Path) -> None:
    """The card links to it."""
    folder = write_pipeline(tmp_path / "p")
    for part in ("transformer", "tiny-in-one.safetensors"):
        kept = companions(find_checkpoint(folder / part))
        assert {path: c.source for path, c in kept.items()} == {"LICENSE": folder / "LICENSE"}


def test_weights_are_linked_and_the_rest_is_copied(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "p")
    weights = folder / "text_encoder" / "model.safetensors"
    blob = shutil.move(weights, tmp_path / "blob")
    weights.symlink_to(blob)  # as in the Hub's cache
    for path, companion in companions(find_checkpoint(folder)).items():
        for _ in range(2):  # a second time, as after a crash
            place(companion, tmp_path / "out" / path)
        assert not (tmp_path / "out" / path).is_symlink()
    assert (tmp_path / "out" / "text_encoder" / "model.safetensors").samefile(blob)
    assert not (tmp_path / "out" / "LICENSE").samefile(folder / "LICENSE")
    assert (tmp_path / "out" / "LICENSE").read_text() == "the licence"


def test_copies_where_links_are_impossible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    kept = companions(find_checkpoint(write_pipeline(tmp_path / "p")))["text_encoder/model.safetensors"]
    place(kept, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == kept.source.read_bytes()
    assert not (tmp_path / "copy").samefile(kept.source)


def test_a_broken_link_is_an_error(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "p")
    (folder / "tokenizer" / "merges.txt").symlink_to("../nowhere")
    with pytest.raises(FileNotFoundError, match=r"merges.txt: a link to .*nowhere, which is missing: fetch it again"):
        companions(find_checkpoint(folder))
