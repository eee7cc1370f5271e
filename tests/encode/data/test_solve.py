"""``ternfmt convert`` with the methods that run the model, from the command line to the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import ternfmt
from ternfmt.cli import main
from ternfmt.encode import solve as solve_module
from ternfmt.encode.calibration import Calibration
from ternfmt.encode.convert import convert
from ternfmt.encode.plan import Plan, plan_conversion
from ternfmt.encode.quantize import quantize
from ternfmt.encode.settings import Settings

Folders = Callable[[str], Path]
FEW = Calibration(samples=16, held_out=4, batch=4, steps=3)
QUERY = "encoder.layer.0.attention.self.query.weight"


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def plan_of(source: Path, method: str, **settings: Any) -> Plan:
    return plan_conversion(source, Settings(method, settings.pop("planes", 1), calibration=FEW, **settings))


def weights_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("options", "planes", "rank"),
    [
        (["--method", "calibrated"], 1, None),
        (["--method", "calibrated", "--planes", "2"], 2, None),
        (["--method", "distilled", "--steps", "3"], 1, None),
        (["--method", "distilled", "--steps", "2", "--start", "calibrated", "--low-rank", "2"], 1, 2),
        (["--method", "distilled", "--steps", "1", "--low-rank", "1000"], 1, 16),  # the smaller side
    ],
)
def test_a_folder_becomes_ternary(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], planes: int, rank: int
) -> None:
    made = tmp_path / "made"
    few = ["--samples", "16", "--held-out", "4", "--batch", "4", "--json"]
    assert main(["convert", str(folders("bert")), str(made), *options, *few]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["method"] == options[1]
    assert not (tmp_path / "made.partial").exists()
    ternfmt.validate(made, digests=True)
    with ternfmt.open(made) as model:
        infos = {name: model.tensors[name] for name in said["ternary"]}
        assert len(infos) == 18
        assert {(info.planes, info.low_rank) for info in infos.values()} == {(planes, rank)}
        changed = model["encoder.layer.0.attention.self.query.bias"]
        assert np.any(np.asarray(changed) != 0)  # they are zero before


def test_distillation_goes_on_from_a_ternary_model(folders: Folders, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    convert(plan_of(folders("bert"), "calibrated"), first)
    further = replace(FEW, start=str(first), steps=1, learning_rate=1e-9)
    convert(plan_conversion(folders("bert"), Settings("distilled", 1, calibration=further)), second)
    with ternfmt.open(first) as before, ternfmt.open(second) as after:
        started, ended = before[QUERY].unpack(), after[QUERY].unpack()
        assert after.document.ancillary["encoder"]["start"] == "first"
    exact = quantize(load_file(folders("bert") / "model.safetensors")[QUERY]).unpack()
    assert (started == ended).all()
    assert (exact != ended).any()


def test_a_start_with_too_many_planes_is_refused_before_anything_is_made(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start, made = tmp_path / "start", tmp_path / "made"
    convert(plan_conversion(folders("bert"), Settings("planes")), start)
    arguments = ["convert", str(folders("bert")), str(made), "--method", "distilled", "--start", str(start)]
    assert main(arguments) == 1
    assert (
        "expected at most 1 planes without groups, and no low-rank term, to start from, got 2 planes"
        in capsys.readouterr().err
    )
    assert not list(tmp_path.rglob("texts-*"))


def test_a_block_device_that_is_not_there_is_refused_before_anything_is_made(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["convert", str(folders("bert")), str(tmp_path / "made"), "--method", "distilled"]
    assert main([*arguments, "--block-device", "toaster"]) == 1
    assert "device 'toaster'" in capsys.readouterr().err
    assert not list(tmp_path.rglob("texts-*"))


def test_a_start_that_is_not_there_is_refused(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["convert", str(folders("bert")), str(tmp_path / "made"), "--method", "distilled"]
    assert main([*arguments, "--start", str(tmp_path / "none")]) == 1
    assert "none" in capsys.readouterr().err


def test_the_dial_asks_the_model(folders: Folders, tmp_path: Path) -> None:
    plan = plan_of(folders("bert"), "calibrated", ratio=3.2)
    result = convert(plan, tmp_path / "made")
    assert {layer.planes for layer in result.layers} == {1, 2}
    bf16 = 2 * sum(layer.weights for layer in result.layers)
    assert bf16 / sum(layer.stored_bytes for layer in result.layers) >= 3.2


def test_a_dry_run_says_that_the_dial_is_still_to_be_turned(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--method", "distilled", "--ratio", "3", "--low-rank", "2", "--dry-run"]
    assert main(["convert", str(folders("bert")), str(tmp_path / "made"), *options]) == 0
    said = capsys.readouterr().out
    assert "ternary, rank 2" in said
    assert "before the dial is turned to 3" in said
    assert "block ratio" not in said


def test_the_dial_may_spend_on_low_rank_terms_and_the_ratio_holds(folders: Folders, tmp_path: Path) -> None:
    told = replace(FEW, low_rank=1)
    plan = plan_conversion(folders("bert"), Settings("distilled", 1, ratio=3.0, calibration=told))
    result = convert(plan, tmp_path / "made")
    with ternfmt.open(tmp_path / "made") as model:
        found = {(info.planes, info.low_rank) for info in model.tensors.values() if info.planes}
    assert {rank for _, rank in found} == {None, 1}
    bf16 = 2 * sum(layer.weights for layer in result.layers)
    assert bf16 / sum(layer.stored_bytes for layer in result.layers) >= 3.0


@pytest.mark.parametrize("method", ["calibrated", "distilled"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    plan = plan_of(folders("bert"), method)
    convert(plan, tmp_path / "whole")
    said: list[str] = []

    def stop(what: str, share: float) -> None:
        said.append(what)
        if what.startswith(("block 2", "step 2")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(plan, tmp_path / "made", solving=stop)
    data = sorted((tmp_path / "made.partial" / "data").rglob("*.safetensors"))
    stamps = [path.stat().st_mtime_ns for path in data]
    assert data
    again: list[str] = []

    def look(what: str, share: float) -> None:
        again.append(what)
        assert [path.stat().st_mtime_ns for path in data] == stamps

    convert(plan, tmp_path / "made", solving=look, resume=True)
    assert weights_of(tmp_path / "made") == weights_of(tmp_path / "whole")


def test_data_that_lies_elsewhere_serves_several_conversions(folders: Folders, tmp_path: Path) -> None:
    calibration = Calibration(samples=16, held_out=4, batch=4, data=str(tmp_path / "data"))
    for number in (1, 2):
        plan = plan_conversion(folders("bert"), Settings("calibrated", 1, calibration=calibration))
        convert(plan, tmp_path / f"made-{number}")
        stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*.safetensors")}
        if number == 1:
            first = stamps
    assert stamps == first
    assert weights_of(tmp_path / "made-1") == weights_of(tmp_path / "made-2")


def test_an_error_late_does_not_throw_hours_away(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise ValueError("an activation is NaN")

    monkeypatch.setattr(solve_module, "calibrate", fail)
    with pytest.raises(ValueError, match="activation is NaN"):
        convert(plan_of(folders("bert"), "calibrated"), tmp_path / "made")
    assert any((tmp_path / "made.partial" / "data").rglob("*.safetensors"))


def test_a_missing_file_of_prompts_is_told_before_anything_is_made(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["convert", str(folders("bert")), str(tmp_path / "made"), "--method", "distilled"]
    assert main([*arguments, "--prompts", str(tmp_path / "none.txt")]) == 1
    assert "none.txt: no such file of prompts" in capsys.readouterr().err
    assert not (tmp_path / "made.partial").exists()


def test_a_diffusion_model_learns_from_its_own_sampling(
    pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, prompts = tmp_path / "made", tmp_path / "prompts.txt"
    prompts.write_text("".join(f"a {colour} circle\ntwo {colour} crosses\n" for colour in ("red", "green", "blue")))
    few = ["--samples", "8", "--held-out", "4", "--batch", "4", "--steps", "2", "--prompts", str(prompts)]
    options = ["--method", "distilled", "--own-sampling", "--trust-remote-code"]
    assert main(["convert", str(pipeline_folder), str(made), *options, *few]) == 0, capsys.readouterr().err
    with ternfmt.open(made / "transformer") as model:
        assert model.document.ancillary["encoder"]["own_sampling"] is True


def test_own_sampling_of_a_model_that_does_not_sample_is_refused_before_anything_is_made(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["convert", str(folders("bert")), str(tmp_path / "made"), "--method", "distilled", "--own-sampling"]
    assert main(arguments) == 1
    assert "expected a diffusion model for --own-sampling" in capsys.readouterr().err
    assert not list(tmp_path.rglob("texts-*"))
