"""``ternfmt convert`` with the methods that run the model, from the command line to the file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import ternfmt
from ternfmt.cli import main
from ternfmt.encode import solve as solve_module
from ternfmt.encode.calibrated import memory
from ternfmt.encode.calibration import Calibration
from ternfmt.encode.convert import convert
from ternfmt.encode.data import disk
from ternfmt.encode.data import make as make_module
from ternfmt.encode.data import trajectories as trajectories_module
from ternfmt.encode.data.disk import DiskError
from ternfmt.encode.distilled import accounting
from ternfmt.encode.distilled import solve as distilled_module
from ternfmt.encode.distilled.parallel import Ranks
from ternfmt.encode.distilled.settings import SettingsError
from ternfmt.encode.plan import Plan, plan_conversion
from ternfmt.encode.quantize import quantize
from ternfmt.encode.run.work_folder import WorkFolder
from ternfmt.encode.settings import Settings
from ternfmt.encode.source.tensor_source import SourceChangedError

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
        (["--method", "calibrated", "--block-device", "cpu:0"], 1, None),
        (["--method", "distilled", "--steps", "2", "--start", "calibrated", "--block-device", "cpu:0"], 1, None),
        (["--method", "distilled", "--steps", "2", "--micro-batch", "2", "--feature-weight", "0.1"], 1, None),
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


def test_codes_may_stay_as_they_are(folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--samples", "16", "--held-out", "4", "--batch", "4", "--steps", "2", "--low-rank", "2"]
    options = ["--method", "distilled", "--keep-codes", "--recompute", *few]
    assert main(["convert", str(folders("bert")), str(tmp_path / "made"), *options]) == 0, capsys.readouterr().err
    source = load_file(folders("bert") / "model.safetensors")
    with ternfmt.open(tmp_path / "made") as model:
        assert model.document.ancillary["encoder"]["keep_codes"] is True
        assert (model[QUERY].unpack() == quantize(source[QUERY]).unpack()).all()
        assert model[QUERY].low_rank is not None
        embeddings = "embeddings.LayerNorm.weight"
        np.testing.assert_array_equal(model[embeddings], source[embeddings])  # no norm inside a block


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "4", "--micro-batch", "3"], "--micro-batch: expected a divisor of --batch 4, got 3"),
        (["--feature-weight", "-1"], "--feature-weight: expected a number of at least 0, got -1.0"),
        (["--size", "0"], "--size: expected at least 1, got 0"),
    ],
)
def test_numbers_that_cannot_be_are_faults_of_usage(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        main(["convert", str(folders("bert")), str(tmp_path / "made"), "--method", "distilled", *options])
    assert message in capsys.readouterr().err


def test_a_pipeline_that_draws_one_size_only_says_so(
    pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--method", "calibrated", "--trust-remote-code", "--size", "512"]
    assert main(["convert", str(pipeline_folder), str(tmp_path / "made"), *options]) == 1
    assert "does not take height, width" in capsys.readouterr().err


def test_too_little_memory_is_told_before_anything_is_made(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (accounting, memory):
        monkeypatch.setattr(module, "free_bytes", lambda device: 1000)
    for method, message in [("calibrated", "to calibrate it takes"), ("distilled", "while it is trained")]:
        assert main(["convert", str(folders("bert")), str(tmp_path / method), "--method", method]) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / f"{method}.partial").exists()


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
    assert not (tmp_path / "made.partial").exists()


def test_a_block_device_that_is_not_there_is_refused_before_anything_is_made(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["convert", str(folders("bert")), str(tmp_path / "made"), "--method", "distilled"]
    assert main([*arguments, "--block-device", "toaster"]) == 1
    assert "device 'toaster'" in capsys.readouterr().err
    assert not (tmp_path / "made.partial").exists()


def test_a_start_that_is_not_there_is_refused(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["convert", str(folders("bert")), str(tmp_path / "made"), "--method", "distilled"]
    assert main([*arguments, "--start", str(tmp_path / "none")]) == 1
    assert "--start" in (err := capsys.readouterr().err)
    assert "none: no such file or folder: expected exact, calibrated or a ternary model" in err


def test_a_ratio_out_of_reach_is_refused_before_anything_is_made(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["convert", str(folders("bert")), str(tmp_path / "made"), "--method", "distilled", "--ratio", "99"]
    assert main(arguments) == 1
    assert "99" in capsys.readouterr().err
    assert not (tmp_path / "made.partial").exists()


def test_a_missing_package_is_named(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ternfmt.encode.solve", None)  # as if it could not import torch
    assert main(["convert", str(folders("bert")), str(tmp_path / "made"), "--method", "calibrated"]) == 1
    assert "pip install 'ternfmt[diffusers]'" in capsys.readouterr().err


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError("no memory")])
def test_what_is_kept_is_said_where_memory_ends(
    folders: Folders,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(solve_module, "calibrate", fail)
    assert main(["convert", str(folders("bert")), str(tmp_path / "made"), "--method", "calibrated"]) == 1
    err = capsys.readouterr().err
    assert str(error) in err
    assert "made.partial: the same command with --resume goes on" in err


def test_what_took_long_is_not_removed_unasked(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(what: str, share: float) -> None:
        if what.startswith("step 2"):
            raise KeyboardInterrupt

    plan = plan_of(folders("bert"), "distilled")
    with pytest.raises(KeyboardInterrupt):
        convert(plan, tmp_path / "made", solving=stop)
    kept = sorted((tmp_path / "made.partial").rglob("*.safetensors"))
    assert kept
    with pytest.raises(ValueError, match=r"made.partial holds what .* --resume goes on with it"):
        convert(plan, tmp_path / "made")
    other = plan_conversion(folders("bert"), Settings("distilled", 1, calibration=replace(FEW, steps=9)))
    with pytest.raises(ValueError, match=r"begun with other settings .* remove it and convert again"):
        convert(other, tmp_path / "made", resume=True)
    arguments = ["convert", str(folders("bert")), str(tmp_path / "made"), "--method", "distilled"]
    assert main([*arguments, "--prompts", str(tmp_path / "none.txt")]) == 1
    assert sorted((tmp_path / "made.partial").rglob("*.safetensors")) == kept


def test_a_file_of_prompts_that_changed_is_other_work(folders: Folders, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\ntwo\nthree\nfour\n")
    settings = Settings("distilled", 1, calibration=replace(FEW, prompts=str(prompts)))
    with WorkFolder(tmp_path / "made") as folder:
        plan = plan_conversion(folders("bert"), settings)
        folder.begin(plan.fingerprint, plan.stamps, resume=False)
        prompts.write_text("five\ntwo\nthree\nfour\n")
        plan = plan_conversion(folders("bert"), settings)
        with pytest.raises(SourceChangedError, match=r"prompts.txt: changed since"):
            folder.begin(plan.fingerprint, plan.stamps, resume=True)


def test_what_has_no_bearing_on_the_result_may_differ(folders: Folders) -> None:
    plans = [
        plan_conversion(folders("bert"), Settings("distilled", 1, calibration=replace(FEW, **changes)))
        for changes in ({}, {"compile": True}, {"trust_remote_code": True}, {"steps": 4})
    ]
    assert plans[0].fingerprint == plans[1].fingerprint == plans[2].fingerprint != plans[3].fingerprint


def test_torchruns_processes_distil_together(folders: Folders, tmp_path: Path) -> None:
    few = ["--samples", "16", "--held-out", "4", "--batch", "4", "--steps", "3"]
    command = ["ternfmt", "convert", str(folders("bert")), str(tmp_path / "made"), "--method", "distilled", *few]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
    done = subprocess.run([*torchrun, *command, "--start", "calibrated"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("block ratio") == 1
    told = Settings("distilled", 1, calibration=replace(FEW, start="calibrated"))
    convert(plan_conversion(folders("bert"), told), tmp_path / "alone")
    with ternfmt.open(tmp_path / "made") as together, ternfmt.open(tmp_path / "alone") as alone:
        # Other batches: what is dense and trained differs in the last bits, and in the direction of steps where the
        # gradient is next to nothing.
        assert np.mean(together[QUERY].unpack() == alone[QUERY].unpack()) > 0.95


def test_torchrun_has_nothing_to_share_where_layers_are_calibrated(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solve_module, "ranks", lambda device: Ranks(0, 2))
    with pytest.raises(ValueError, match="--method calibrated works in one process, but torchrun has started 2"):
        convert(plan_of(folders("bert"), "calibrated"), tmp_path / "made")


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
    settings = solve_module._distilled_settings
    monkeypatch.setattr(
        solve_module, "_distilled_settings", lambda told: replace(settings(told), checkpoint_seconds=0.0)
    )
    convert(plan, tmp_path / "whole")
    said: list[str] = []

    def stop(what: str, share: float) -> None:
        said.append(what)
        if what.startswith(("block 2", "step 2")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(plan, tmp_path / "made", solving=stop)
    partial = tmp_path / "made.partial"
    kept = [path for name in ("data", "calibrated") for path in (partial / name).rglob("*.safetensors")]
    assert {path.relative_to(partial).parts[0] for path in kept} == {"data"} | ({method} - {"distilled"})
    stamps = [path.stat().st_mtime_ns for path in kept]
    again: list[str] = []

    def look(what: str, share: float) -> None:
        again.append(what)
        assert [path.stat().st_mtime_ns for path in kept] == stamps

    convert(plan, tmp_path / "made", solving=look, resume=True)
    assert weights_of(tmp_path / "made") == weights_of(tmp_path / "whole")
    assert any(what.startswith("step 1 of 3") for what in said) or method == "calibrated"
    assert not any(what.startswith("step 1 of 3") for what in again)


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


def prompts_in(folder: Path) -> Path:
    """A file of those that the sample model's text encoder has words for."""
    path = folder / "prompts.txt"
    path.write_text("".join(f"a {colour} circle\ntwo {colour} crosses\n" for colour in ("red", "green", "blue")))
    return path


def test_a_diffusion_model_learns_from_its_own_sampling(
    pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, prompts = tmp_path / "made", prompts_in(tmp_path)
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
    assert not (tmp_path / "made.partial").exists()


def test_a_batch_of_half_a_state_is_refused_after_the_first_pictures(
    pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_module, "PICTURES_PER_RUN", 2)
    monkeypatch.setattr(trajectories_module, "PICTURES_PER_RUN", 2)
    options = ["--method", "distilled", "--own-sampling", "--trust-remote-code", "--batch", "5"]
    prompts = ["--prompts", str(prompts_in(tmp_path))]
    assert main(["convert", str(pipeline_folder), str(tmp_path / "made"), *options, *prompts]) == 1
    assert "--batch: 5 rows in a process, expected a multiple of 2, the rows" in capsys.readouterr().err
    assert len(list(tmp_path.rglob("pictures-*/train/*.safetensors"))) == 1


def test_no_room_for_checkpoints_is_told_before_texts_are_made(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(folder: Path, needed: int, what: str, *instead: str) -> None:
        if what == "two checkpoints":
            raise DiskError(f"{folder}: {what} need about {needed} bytes")

    monkeypatch.setattr(distilled_module, "check_disk", small)
    with pytest.raises(DiskError, match=r"two checkpoints need about [1-9]\d{4,} bytes"):
        convert(plan_of(folders("bert"), "distilled"), tmp_path / "made")
    assert not (tmp_path / "made.partial").exists()


@pytest.mark.parametrize("options", [["--method", "calibrated"], ["--method", "distilled", "--block-device", "cpu:0"]])
def test_no_room_for_activations_is_told_before_there_are_any(
    folders: Folders,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
) -> None:
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1 << 20))
    assert main(["convert", str(folders("bert")), str(tmp_path / "made"), "--samples", "5000", *options]) == 1
    assert "activations of" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.pt"))


def test_a_block_at_a_time_with_own_sampling_is_refused_before_anything_is_made(
    pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distilled_module, "choose_blockwise", lambda *arguments: True)
    options = ["--method", "distilled", "--own-sampling", "--trust-remote-code"]
    assert main(["convert", str(pipeline_folder), str(tmp_path / "made"), *options]) == 1
    assert "block by block there is no student that could sample" in capsys.readouterr().err
    assert not (tmp_path / "made.partial").exists()


def test_a_start_of_another_shape_is_refused_before_anything_is_made(folders: Folders, tmp_path: Path) -> None:
    convert(plan_conversion(folders("bert"), Settings("exact")), tmp_path / "exact")
    told = replace(FEW, start=str(tmp_path / "exact"))
    plan = plan_conversion(folders("bert"), Settings("distilled", 1, calibration=told))
    plan.recipes[QUERY] = replace(plan.recipes[QUERY], shape=(7, 8))
    with pytest.raises(SettingsError, match=rf"'{QUERY}': expected shape \[7, 8\], to start from, got \[\d+, \d+\]"):
        convert(plan, tmp_path / "made")
    assert not (tmp_path / "made.partial").exists()


def test_a_negative_seed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["convert", str(tmp_path), str(tmp_path / "made"), "--method", "calibrated", "--seed", "-1"])
    assert "--seed: expected at least 0, got -1" in capsys.readouterr().err
