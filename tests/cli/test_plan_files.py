"""``ternfmt convert --plan``: the same bytes from independent jobs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ternfmt
from ternfmt.encode.run.lock import FileLock

from .conftest import Run, dense_tensors

ROOT = Path(__file__).parents[2]
SHARDS = ("--max-shard-size", "300")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def plan(run: Run, sharded: Path) -> Path:
    """A plan of several output files."""
    path = sharded.with_name("plan.json")
    result = run("convert", "--plan", path, sharded, sharded.with_name("ternary"), *SHARDS, "--json")
    assert result.code == 0, result.err
    assert len(result.json["files"]) == 5
    return path


@pytest.fixture
def expected(run: Run, sharded: Path) -> dict[str, bytes]:
    assert run("convert", sharded, sharded.with_name("at-once"), *SHARDS).code == 0
    return contents(sharded.with_name("at-once"))


def test_a_plan_says_everything(plan: Path, sharded: Path) -> None:
    value = json.loads(plan.read_text())
    assert value["ternfmt_plan"] == 1
    assert (value["source"], value["destination"]) == (str(sharded), str(sharded.with_name("ternary")))
    assert value["tensors"].keys() == dense_tensors().keys()
    assert value["tensors"]["blocks.0.attn.to_q.weight"] == {
        "dtype": "BF16",
        "shape": [24, 30],
        "rows": [["blocks.0.attn.to_q.weight", 0, 24]],
        "why": "2-D *.weight in a block",
        "ternary": {"method": "exact"},
    }
    assert sorted(name for names in value["files"].values() for name in names) == sorted(dense_tensors())
    assert not sharded.with_name("ternary.partial").exists()


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_shards_in_any_order_give_the_bytes_of_one_run(
    run: Run, plan: Path, expected: dict[str, bytes], count: int
) -> None:
    made = []
    for shard in range(count, 0, -1):
        for _ in range(2):  # the second time there is nothing to do
            result = run("convert", "--plan", plan, "--shard", f"{shard}/{count}", "--json")
            assert result.code == 0, result.err
        made += result.json["files"]
    assert len(made) == len(set(made)) == 5
    assert not plan.with_name("ternary").exists()
    result = run("convert", "--plan", plan, "--finish", "--json")
    assert result.code == 0, result.err
    assert contents(plan.with_name("ternary")) == expected
    assert not plan.with_name("ternary.partial").exists()
    ternfmt.validate(plan.with_name("ternary"), digests=True)


def test_finish_names_what_is_missing(run: Run, plan: Path) -> None:
    run("convert", "--plan", plan, "--shard", "1/3")
    result = run("convert", "--plan", plan, "--finish")
    assert result.code == 1
    assert "3 of 5 output files are not made yet, the first is 2: run --shard 2/5" in result.err
    assert not plan.with_name("ternary").exists()


def test_a_job_that_another_makes_already_is_refused(run: Run, plan: Path) -> None:
    run("convert", "--plan", plan, "--shard", "1/2")
    file = list(json.loads(plan.read_text())["files"])[1]
    with FileLock(plan.with_name("ternary.partial") / "files" / f"{file}.lock", "a test"):
        result = run("convert", "--plan", plan, "--shard", "2/2")
        assert result.code == 1
        assert f"the making of {file} is going on already" in result.err
    assert run("convert", "--plan", plan, "--shard", "2/2").code == 0


def test_a_source_that_changed_since_the_plan_is_refused(run: Run, plan: Path, sharded: Path) -> None:
    os.utime(sharded / "model-00001-of-00002.safetensors", (0, 0))
    result = run("convert", "--plan", plan, "--shard", "1/1")
    assert result.code == 1
    assert "model-00001-of-00002.safetensors: changed since the conversion was planned" in result.err


def test_shards_of_another_plan_do_not_mix(run: Run, plan: Path, sharded: Path) -> None:
    run("convert", "--plan", plan, "--shard", "1/2")
    other = plan.with_name("other.json")
    run("convert", "--plan", other, sharded, sharded.with_name("ternary"), *SHARDS, "--method", "absmean")
    result = run("convert", "--plan", other, "--shard", "2/2")
    assert result.code == 1
    assert "begun with other settings" in result.err


def test_what_is_no_plan_is_said(run: Run, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"ternfmt_plan": 2}')
    result = run("convert", "--plan", tmp_path / "plan.json", "--finish")
    assert result.code == 1
    assert "a plan of version 2" in result.err
    (tmp_path / "plan.json").write_text("[]")
    assert "expected a plan" in run("convert", "--plan", tmp_path / "plan.json", "--finish").err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--shard", "1/2"],
        ["--finish"],
        ["--plan", "p", "--shard", "1/2", "--finish"],
        ["--plan", "p", "--shard", "3/2"],
        ["--plan", "p", "--shard", "1"],
        ["source", "destination", "--plan", "p", "--finish"],
        ["source", "--plan", "p"],
        ["source", "destination", "--plan", "p", "--dry-run"],
        ["source", "destination", "--ratio", "5", "--method", "exact"],
        ["source", "destination", "--jobs", "0"],
        ["source", "destination", "--max-shard-size", "many"],
    ],
)
def test_usage_errors(run: Run, arguments: list[str]) -> None:
    result = run("convert", *arguments)
    assert result.code == 2
    assert "usage:" in result.err


def test_the_example_runs(sharded: Path, expected: dict[str, bytes]) -> None:
    destination = sharded.with_name("ternary")
    command = [sys.executable, "examples/many-jobs/run.py", sharded, destination, "--processes", "3", *SHARDS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.curdir})
    assert done.returncode == 0, done.stderr
    assert contents(destination) == expected
