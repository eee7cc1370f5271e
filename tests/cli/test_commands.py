"""``inspect``, ``validate``, ``verify``, ``diff``, ``dequantize`` and ``canonicalize``."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import ternfmt
from ternfmt.cli import COMMANDS

from .conftest import Run, dense_tensors

NAME = "blocks.0.attn.to_q.weight"


@pytest.fixture
def ternary(run: Run, checkpoint: Path) -> Path:
    path = checkpoint.with_name("ternary.safetensors")
    assert run("convert", checkpoint, path).code == 0
    return path


def flip_bit(path: Path, offset: int, bit: int = 0) -> None:
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 1 << bit
    path.write_bytes(raw)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(run: Run, command: str) -> None:
    result = run(command, "--help")
    assert result.code == 0
    assert f"examples:\n  ternfmt {command} " in result.out


def test_inspect_shows_every_tensor_and_both_ratios(run: Run, ternary: Path) -> None:
    result = run("inspect", ternary)
    assert result.code == 0
    assert all(name in result.out for name in dense_tensors())
    assert "block ratio" in result.out
    assert "file ratio" in result.out


def test_inspect_measures_snr_and_sparsity_against_the_source(run: Run, ternary: Path, checkpoint: Path) -> None:
    report = run("inspect", ternary, "--source", checkpoint, "--json").json
    row = next(row for row in report["tensors"] if row["name"] == NAME)
    with ternfmt.open(ternary) as model:
        dense, quantised = dense_tensors()[NAME].astype(np.float64), model[NAME].dequantize()
        assert row["sparsity"] == pytest.approx(np.mean(model[NAME].unpack() == 0))
    snr = 10 * np.log10(np.square(dense).sum() / np.square(dense - quantised).sum())
    assert row["snr_db"] == pytest.approx(snr)
    assert report["file_ratio"] == report["source_bytes"] / report["bytes"]


def test_inspect_against_a_source_that_is_another_model_fails(run: Run, ternary: Path, tmp_path: Path) -> None:
    save_file({"other": np.ones(3, np.float32)}, tmp_path / "other.safetensors")
    result = run("inspect", ternary, "--source", tmp_path / "other.safetensors")
    assert result.code == 1
    assert "is not in the source" in result.err


@pytest.mark.parametrize("command", ["validate", "verify"])
def test_valid_files_exit_with_0(run: Run, ternary: Path, command: str) -> None:
    assert run(command, ternary).code == 0
    assert run(command, ternary, "--json").json["ternary"] == 3


def test_validate_names_class_file_and_tensor(run: Run, ternary: Path) -> None:
    raw = ternary.read_bytes()
    ternary.write_bytes(raw[:-1] + b"\xaa")  # four times code 10
    result = run("validate", ternary, "--json")
    assert result.code == 1
    assert result.json["error"]["kind"] == "CODE"
    assert str(ternary) in result.json["error"]["location"]
    assert result.err.startswith("error: CODE: ")


def test_verify_finds_what_validate_cannot(run: Run, ternary: Path) -> None:
    with ternfmt.open(ternary) as model:
        span = model.stored.spans["embed_tokens.weight"]
        offset = model.stored.headers[0].data_start + span.begin
    flip_bit(ternary, offset)
    assert run("validate", ternary).code == 0
    result = run("verify", ternary, "--json")
    assert result.code == 1
    assert result.json["error"]["kind"] == "DIGEST"
    assert "embed_tokens.weight" in result.json["error"]["location"]


def test_verify_says_how_many_tensors_have_no_digest(run: Run, ternary: Path, tmp_path: Path) -> None:
    with ternfmt.open(ternary) as model:
        document = model.document.to_json()
        stored = len(model.stored.spans)
    del document["digests"]["tensors"][NAME], document["digests"]["header"]
    path = tmp_path / "partly.safetensors"
    save_file(load_file(ternary), path, metadata={"format": "pt", "ternfmt": json.dumps(document)})
    assert run("verify", path, "--json").json["uncovered"] == 1
    assert run("verify", path, "--json").json["digests_checked"] == stored - 1


def test_diff_of_equal_models_is_empty(run: Run, ternary: Path) -> None:
    assert run("diff", ternary, ternary).out == "equal\n"


def test_diff_finds_codes_scales_and_missing_tensors(run: Run, ternary: Path, tmp_path: Path) -> None:
    with ternfmt.open(ternary) as model:
        tensors = {name: model[name] for name in model}
    old = tensors[NAME]
    codes = old.codes.copy()
    codes[0, 0] ^= 0b10 if codes[0, 0] & 1 else 0b01
    tensors[NAME] = ternfmt.TernaryTensor(old.shape, (ternfmt.Plane(codes, old.scale * np.float16(2)),))
    del tensors["position_ids"]
    ternfmt.save(tmp_path / "other.safetensors", tensors)
    result = run("diff", ternary, tmp_path / "other.safetensors", "--json")
    assert result.code == 1
    found = {(d["name"], d["what"]): d["detail"] for d in result.json["differences"]}
    assert ("position_ids", "only in A") in found
    details = [d["detail"] for d in result.json["differences"] if d["name"] == NAME]
    assert details[0].startswith("1 of 720 plane 1 codes differ")
    assert details[1].startswith("24 of 24 plane 1 scales differ")


@pytest.mark.parametrize(("dtype", "numpy_dtype"), [("F32", np.float32), ("BF16", ml_dtypes.bfloat16)])
def test_dequantize_writes_an_ordinary_checkpoint(
    run: Run, ternary: Path, tmp_path: Path, dtype: str, numpy_dtype: type
) -> None:
    path = tmp_path / "back.safetensors"
    assert run("dequantize", ternary, path, "--dtype", dtype).code == 0
    tensors = load_file(path)
    assert tensors.keys() == dense_tensors().keys()
    with ternfmt.open(ternary) as model:
        assert np.array_equal(tensors[NAME], model[NAME].dequantize(numpy_dtype))


def test_dequantize_of_a_folder_drops_the_quantization_config(run: Run, sharded: Path) -> None:
    ternary, dense = sharded.with_name("ternary"), sharded.with_name("dense")
    run("convert", sharded, ternary, "--max-shard-size", "2kB")
    assert run("dequantize", ternary, dense).code == 0
    assert "quantization_config" not in json.loads((dense / "config.json").read_text())
    before, after = (json.loads((f / "model.safetensors.index.json").read_text()) for f in (ternary, dense))
    assert after["weight_map"] == {name: before["weight_map"][name] for name in dense_tensors()}


def test_dequantized_exact_codes_convert_back_to_the_same_codes(run: Run, ternary: Path, tmp_path: Path) -> None:
    run("dequantize", ternary, tmp_path / "dense32", "--dtype", "F32")
    run("convert", tmp_path / "dense32", tmp_path / "again", "--method", "exact")
    assert run("diff", ternary, tmp_path / "again").code == 0


def test_canonicalize_restores_canonical_bytes(run: Run, ternary: Path, tmp_path: Path) -> None:
    with ternfmt.open(ternary) as model:
        metadata = model.stored.headers[0].metadata
    save_file(load_file(ternary), tmp_path / "saved.safetensors", metadata=metadata)
    assert run("canonicalize", tmp_path / "saved.safetensors", tmp_path / "canonical.safetensors").code == 0
    assert (tmp_path / "canonical.safetensors").read_bytes() == ternary.read_bytes()


def test_canonicalize_keeps_ancillary_keys(run: Run, tmp_path: Path) -> None:
    tensor = ternfmt.quantize(np.ones((4, 4), np.float32))
    ternfmt.save(tmp_path / "a", {"w": tensor}, ancillary={"x-note": {"n": [1, "two"]}}, metadata={"other": "kept"})
    run("canonicalize", tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with ternfmt.open(tmp_path / "b") as model:
        assert model.document.ancillary["x-note"] == {"n": [1, "two"]}


def test_a_folder_with_a_link_to_nowhere_is_canonicalized_without_it(run: Run, sharded: Path, tmp_path: Path) -> None:
    run("convert", sharded, tmp_path / "ternary")
    (tmp_path / "ternary" / "notes.txt").symlink_to(tmp_path / "gone")
    assert run("canonicalize", tmp_path / "ternary", tmp_path / "b").code == 0
    assert (tmp_path / "b" / "config.json").is_file()
    assert not (tmp_path / "b" / "notes.txt").is_symlink()


def test_a_stripped_file_names_the_repair_and_the_repair_works(
    run: Run, ternary: Path, checkpoint: Path, tmp_path: Path
) -> None:
    stripped = tmp_path / "stripped.safetensors"
    save_file(load_file(ternary), stripped)
    result = run("validate", stripped, "--json")
    assert result.json["error"]["kind"] == "STRIPPED"
    assert "ternfmt canonicalize FILE OUT --rebuild --like ORIGINAL" in result.json["error"]["message"]
    assert run("canonicalize", stripped, tmp_path / "back", "--rebuild", "--like", checkpoint).code == 0
    assert run("diff", tmp_path / "back", ternary).code == 0


def test_a_repair_without_original_refuses_to_guess_padding(run: Run, tmp_path: Path) -> None:
    tensor = ternfmt.quantize(np.ones((4, 5), np.float32))
    ternfmt.save(tmp_path / "a", {"w": tensor})
    save_file(load_file(tmp_path / "a"), tmp_path / "stripped")
    result = run("canonicalize", tmp_path / "stripped", tmp_path / "b", "--rebuild")
    assert result.code == 1
    assert "--like" in result.err
    assert not (tmp_path / "b").exists()


def test_a_missing_file_is_said_plainly(run: Run, tmp_path: Path) -> None:
    result = run("validate", tmp_path / "no.safetensors")
    assert result.code == 1
    assert "no.safetensors" in result.err
