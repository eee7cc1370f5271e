"""``ternfmt convert`` on one file and on a folder of shards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import ternfmt
from ternfmt.container import nbytes

from .conftest import Run, dense_tensors

TERNARY = ["blocks.0.attn.to_q.weight", "blocks.0.norm1.linear.weight", "blocks.1.proj.weight"]


def test_default_makes_2d_weights_ternary_but_not_embeddings_or_norms(run: Run, checkpoint: Path) -> None:
    destination = checkpoint.with_name("ternary.safetensors")
    result = run("convert", checkpoint, destination, "--json")
    assert result.code == 0
    assert sorted(result.json["ternary"]) == TERNARY
    assert ternfmt.validate(destination, digests=True).uncovered == 0
    with ternfmt.open(destination) as model:
        for name, dense in dense_tensors().items():
            if name in TERNARY:
                expected = ternfmt.quantize(dense, name=name)
                assert np.array_equal(model[name].codes, expected.codes)
                assert np.array_equal(model[name].scale, expected.scale)
            else:
                assert np.array_equal(model[name], dense)
        assert model.stored.headers[0].metadata["modelspec.title"] == "a title"
        assert model.document.ancillary["encoder"] == {"method": "exact"}


def test_ratios_are_those_of_the_bytes_on_disk(run: Run, checkpoint: Path) -> None:
    destination = checkpoint.with_name("ternary.safetensors")
    said = run("convert", checkpoint, destination, "--json").json
    with ternfmt.open(destination) as model:
        stored = {n: nbytes(s.dtype, s.shape) for n, s in model.stored.spans.items()}
        ternary = [i for i in model.tensors.values() if i.ternary]
        assert said["bytes"] == sum(stored.values())
        assert said["block_ratio"] == 2 * sum(i.size for i in ternary) / sum(i.nbytes for i in ternary)
        assert said["file_ratio"] == said["source_bytes"] / said["bytes"]


def test_include_takes_the_place_of_the_default_and_exclude_wins(run: Run, checkpoint: Path) -> None:
    destination = checkpoint.with_name("ternary.safetensors")
    result = run(
        "convert",
        checkpoint,
        destination,
        "--include",
        "conv.*",
        "--include",
        "blocks.*",
        "--exclude",
        "*proj*",
        "--json",
    )
    assert sorted(result.json["ternary"]) == [
        "blocks.0.attn.to_q.weight",
        "blocks.0.norm1.linear.weight",
        "conv.weight",
    ]
    with ternfmt.open(destination) as model:
        assert model.tensors["conv.weight"].shape == (4, 3, 2, 2)
        assert model["conv.weight"].unpack().shape == (4, 3, 2, 2)


@pytest.mark.parametrize("method", ["absmean", "exact", "planes"])
def test_every_method_writes_a_valid_file_with_its_features(run: Run, checkpoint: Path, method: str) -> None:
    destination = checkpoint.with_name("ternary.safetensors")
    assert run("convert", checkpoint, destination, "--method", method, "--group-size", "16").code == 0
    with ternfmt.open(destination) as model:
        expected = {"group-scale", "planes"} if method == "planes" else {"group-scale"}
        assert set(model.document.required) == expected
    ternfmt.validate(destination, digests=True)


def test_a_tensor_whose_scales_f16_cannot_hold_gets_f32(run: Run, tmp_path: Path) -> None:
    tensors = {
        "a.weight": np.full((4, 8), 1e-6, np.float32),
        "b.weight": np.full((4, 8), 0.5, np.float32),
        "c.weight": np.full((4, 8), 1e6, np.float32),
    }
    save_file(tensors, tmp_path / "dense.safetensors")
    result = run("convert", tmp_path / "dense.safetensors", tmp_path / "ternary.safetensors", "--json")
    assert result.json["scales_in_f32"] == ["a.weight", "c.weight"]
    with ternfmt.open(tmp_path / "ternary.safetensors") as model:
        assert {n: i.dtype for n, i in model.tensors.items()} == {
            "a.weight": "F32",
            "b.weight": "F16",
            "c.weight": "F32",
        }
        assert np.array_equal(model["a.weight"].dequantize(), tensors["a.weight"])


def test_a_folder_keeps_its_config_and_other_files(run: Run, sharded: Path) -> None:
    destination = sharded.with_name("ternary")
    assert run("convert", sharded, destination).code == 0
    assert ternfmt.validate(destination, digests=True).files == 1
    config = json.loads((destination / "config.json").read_text())
    assert config["model_type"] == "x"
    assert config["quantization_config"] == {"quant_method": "ternfmt", "format_version": "1.0"}
    assert (destination / "sub" / "tokenizer.txt").read_text() == "kept"
    assert not (destination / "pytorch_model.bin").exists()
    assert (destination / "model.safetensors").exists()
    with ternfmt.open(destination) as model:
        assert sorted(n for n, i in model.tensors.items() if i.ternary) == TERNARY


def test_a_large_output_is_several_files_and_an_index(run: Run, sharded: Path) -> None:
    destination = sharded.with_name("ternary")
    result = run("convert", sharded, destination, "--max-shard-size", "2kB", "--json")
    assert result.json["files"] == [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert ternfmt.validate(destination, digests=True).files == 2
    index = json.loads((destination / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == result.json["bytes"]
    assert all(index["weight_map"][name] == index["weight_map"][f"{name}_scale"] for name in TERNARY)


def test_a_file_with_a_limit_becomes_a_folder_of_the_same_tensors(run: Run, checkpoint: Path) -> None:
    folder, file = checkpoint.with_name("folder"), checkpoint.with_name("ternary.safetensors")
    assert run("convert", checkpoint, folder, "--max-shard-size", "2kB").code == 0
    assert run("convert", checkpoint, file).code == 0
    assert (folder / "dense.safetensors.index.json").exists()
    assert run("diff", folder, file).code == 0


def test_a_file_becomes_a_folder_where_dst_ends_in_a_slash(run: Run, checkpoint: Path) -> None:
    assert run("convert", checkpoint, f"{checkpoint.with_name('folder')}/").code == 0
    assert [path.name for path in checkpoint.with_name("folder").iterdir()] == ["dense.safetensors"]


def test_sharding_does_not_change_a_tensor(run: Run, sharded: Path, checkpoint: Path) -> None:
    run("convert", sharded, sharded.with_name("ternary"))
    run("convert", checkpoint, checkpoint.with_name("ternary.safetensors"))
    assert run("diff", sharded.with_name("ternary"), checkpoint.with_name("ternary.safetensors")).code == 0


def test_same_bytes_every_time(run: Run, checkpoint: Path) -> None:
    for name in ("one", "two"):
        run("convert", checkpoint, checkpoint.with_name(name))
    assert checkpoint.with_name("one").read_bytes() == checkpoint.with_name("two").read_bytes()


def test_dry_run_writes_nothing_and_lists_every_tensor(run: Run, checkpoint: Path) -> None:
    before = sorted(checkpoint.parent.iterdir())
    result = run("convert", checkpoint, "--dry-run")
    assert result.code == 0
    assert all(name in result.out for name in dense_tensors())
    assert "an embedding" in result.out
    assert sorted(checkpoint.parent.iterdir()) == before


def test_dry_run_foretells_the_result(run: Run, checkpoint: Path) -> None:
    foretold = run("convert", checkpoint, "--dry-run", "--json").json
    done = run("convert", checkpoint, checkpoint.with_name("ternary.safetensors"), "--json").json
    assert foretold.items() <= done.items()


def test_existing_destination_is_left_alone(run: Run, checkpoint: Path) -> None:
    destination = checkpoint.with_name("precious")
    destination.write_text("mine")
    result = run("convert", checkpoint, destination)
    assert result.code == 1
    assert "exists" in result.err
    assert destination.read_text() == "mine"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_names_its_place_and_leaves_nothing(run: Run, tmp_path: Path, value: float) -> None:
    weight = np.ones((6, 5), np.float32)
    weight[3, 2] = value
    save_file({"x.weight": weight}, tmp_path / "dense.safetensors")
    result = run("convert", tmp_path / "dense.safetensors", tmp_path / "ternary.safetensors")
    assert result.code == 1
    assert "'x.weight'" in result.err
    assert "row 3, column 2" in result.err
    assert [p.name for p in tmp_path.iterdir()] == ["dense.safetensors"]


def test_already_ternary_is_refused(run: Run, checkpoint: Path) -> None:
    run("convert", checkpoint, checkpoint.with_name("once"))
    result = run("convert", checkpoint.with_name("once"), checkpoint.with_name("twice"))
    assert result.code == 1
    assert "ternfmt already" in result.err


def test_a_reserved_name_in_the_source_is_refused_before_work(run: Run, tmp_path: Path) -> None:
    tensors = {"x.weight": np.ones((4, 4), np.float32), "x.weight_scale": np.ones(4, np.float32)}
    save_file(tensors, tmp_path / "dense.safetensors")
    result = run("convert", tmp_path / "dense.safetensors", tmp_path / "ternary.safetensors", "--json")
    assert result.code == 1
    assert result.json["error"]["kind"] == "NAME"


@pytest.mark.parametrize(
    "args",
    [
        ["convert"],
        ["convert", "source"],
        ["convert", "source", "destination", "--planes", "2"],
        ["convert", "source", "destination", "--method", "planes", "--planes", "1"],
        ["convert", "source", "destination", "--method", "magic"],
        ["convert", "source", "destination", "--steps", "5"],
        ["convert", "source", "destination", "--method", "calibrated", "--steps", "5"],
        ["convert", "source", "destination", "--method", "distilled", "--batch", "0"],
        ["convert", "source", "destination", "--method", "distilled", "--own-sampling", "--block-device", "cpu"],
        ["convert", "source", "destination", "--method", "distilled", "--plan", "plan.json"],
        ["convert", "source", "destination", "--method", "exact", "--ratio", "5"],
        ["canonicalize", "source", "destination", "--like", "original"],
        ["no-such-command"],
    ],
)
def test_usage_errors_exit_with_2(run: Run, args: list[str]) -> None:
    result = run(*args)
    assert result.code == 2
    assert "usage:" in result.err


@pytest.mark.parametrize("pattern", ["--include", "--exclude"])
def test_a_pattern_that_matches_nothing_is_an_error(run: Run, checkpoint: Path, pattern: str) -> None:
    result = run("convert", checkpoint, checkpoint.with_name("t"), pattern, "typo.*")
    assert result.code == 1
    assert "'typo.*' matches none of the 8 tensors" in result.err


def test_python_m_ternfmt_is_the_same_command(checkpoint: Path) -> None:
    arguments = [sys.executable, "-m", "ternfmt", "convert", str(checkpoint), "--dry-run", "--json"]
    done = subprocess.run(arguments, capture_output=True, check=True, env=os.environ | {"PYTHONPATH": os.curdir})
    assert sorted(json.loads(done.stdout)["ternary"]) == TERNARY


def test_bf16_is_quantised_from_its_own_values(run: Run, checkpoint: Path) -> None:
    run("convert", checkpoint, checkpoint.with_name("t"))
    with ternfmt.open(checkpoint.with_name("t")) as model:
        assert dense_tensors()[TERNARY[0]].dtype == ml_dtypes.bfloat16
        assert model[TERNARY[0]].dequantize(ml_dtypes.bfloat16).dtype == ml_dtypes.bfloat16
