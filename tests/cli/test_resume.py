"""Whatever stops ``ternfmt convert``, nothing half-done stands at the destination and ``--resume`` goes on."""

from __future__ import annotations

import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import ternfmt
from ternfmt.encode import convert as convert_module
from ternfmt.encode.convert import convert
from ternfmt.encode.plan import plan_conversion
from ternfmt.encode.run.work_folder import WorkFolder
from ternfmt.encode.settings import Settings
from ternfmt.encode.source.tensor_source import SourceChangedError

from .conftest import Run

ROOT = Path(__file__).parents[2]
OPTIONS = ("--method", "planes", "--planes", "3", "--max-shard-size", "30kB", "--jobs", "2")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose conversion takes a while: slow method, several output files, one tensor with F32 scales."""
    folder = tmp_path_factory.mktemp("resume") / "model"
    folder.mkdir()
    rng = np.random.default_rng(0)
    tensors = {f"blocks.{i}.up.weight": rng.standard_normal((48, 256)).astype(ml_dtypes.bfloat16) for i in range(12)}
    tensors |= {f"blocks.{i}.up.bias": rng.standard_normal(48, np.float32) for i in range(12)}
    tensors["blocks.4.tiny.weight"] = rng.standard_normal((16, 64), np.float32) * np.float32(1e-7)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "x"}')
    (folder / "tokenizer.txt").write_text("kept")
    return folder


@pytest.fixture(scope="module")
def expected(model: Path) -> dict[str, bytes]:
    """What an uninterrupted run of one job makes."""
    destination = model.with_name("expected")
    settings = Settings("planes", 3, shard_bytes=30_000)
    convert(plan_conversion(model, settings), destination, jobs=1)
    assert ternfmt.validate(destination, digests=True).files > 2
    return contents(destination)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "ternary"


def start(*arguments: str | Path, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ternfmt", "convert", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload,no-any-return]


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


def finished_tensors(target: Path) -> int:
    journals = target.with_name(target.name + ".partial").glob("files/*.journal")
    return sum(journal.read_bytes().count(b"\n") - 1 for journal in journals)


def resume(run: Run, model: Path, target: Path) -> None:
    result = run("convert", model, target, *OPTIONS, "--resume")
    assert result.code == 0, result.err


@pytest.mark.slow
def test_killed_at_any_moment_then_resumed(run: Run, model: Path, target: Path, expected: dict[str, bytes]) -> None:
    partial = target.with_name("ternary.partial")
    process = start(model, target, *OPTIONS)
    wait_until(partial.exists)
    began = time.monotonic()
    process.communicate()
    duration = time.monotonic() - began
    assert process.returncode == 0
    assert contents(target) == expected
    kept = []
    for seed in range(20):
        shutil.rmtree(target)
        moment = random.Random(seed).uniform(0, duration)
        process = start(model, target, *OPTIONS)
        wait_until(partial.exists)
        time.sleep(moment)
        process.kill()
        process.communicate()
        kept.append(finished_tensors(target))
        what = f"seed {seed}: killed after {moment:.3f} of {duration:.3f} s, {kept[-1]} tensors kept"
        if target.exists():
            assert contents(target) == expected, what
        if partial.exists() or not target.exists():  # else it had finished before the kill
            result = run("convert", model, target, *OPTIONS, "--resume")
            assert result.code == 0, f"{what}: {result.err}"
        assert contents(target) == expected, what
        assert not partial.exists(), what
    assert len(set(kept)) > 3, f"tensors kept: {kept}; the moments were not spread over the work"


def test_killed_while_it_tidies_up(
    run: Run, model: Path, target: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(WorkFolder, "remove", lambda folder: None)  # as if killed right before
        first = run("convert", model, target, *OPTIONS, "--json")
    assert (target.with_name("ternary.partial") / "finished.json").exists()
    again = run("convert", model, target, *OPTIONS, "--json", "--resume")
    assert again.code == 0
    assert again.json["layers"] == first.json["layers"]
    assert contents(target) == expected
    assert os.listdir(target.parent) == ["ternary"]


def test_killed_while_it_writes_the_config(run: Run, model: Path, target: Path, expected: dict[str, bytes]) -> None:
    interrupt_after(3, model, target)
    (target.with_name("ternary.partial") / "out" / "config.json.123.new").write_text("{")
    resume(run, model, target)
    assert contents(target) == expected


def test_without_resume_a_rerun_begins_anew_and_leaves_no_orphan(
    run: Run, model: Path, target: Path, expected: dict[str, bytes]
) -> None:
    interrupt_after(3, model, target)
    (target.with_name("ternary.partial") / "stray").write_text("of an older version")
    assert run("convert", model, target, *OPTIONS).code == 0
    assert contents(target) == expected
    assert os.listdir(target.parent) == ["ternary"]


def test_resuming_nothing_is_a_whole_run(run: Run, model: Path, target: Path, expected: dict[str, bytes]) -> None:
    resume(run, model, target)
    assert contents(target) == expected


def interrupt_after(tensors: int, model: Path, target: Path, error: type[BaseException] = KeyboardInterrupt) -> None:
    """Convert until so many tensors are in the journal, which on a slow disk lags behind the work."""
    calls = itertools.count(1)  # at least one for a tensor, two for the one that is done again

    def progress(weights: int) -> None:
        if next(calls) > tensors + 2:
            wait_until(lambda: finished_tensors(target) >= tensors)
            raise error

    settings = Settings("planes", 3, shard_bytes=30_000)
    with pytest.raises(error):
        convert(plan_conversion(model, settings), target, progress, jobs=1)
    assert not target.exists()
    assert finished_tensors(target) >= tensors


def test_what_is_finished_is_not_done_again(
    run: Run, model: Path, target: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(5, model, target)
    done = finished_tensors(target)
    real = convert_module.quantize
    names: set[str] = set()

    def counting(weight: object, *args: object, name: str, **kwargs: object) -> object:
        names.add(name)
        return real(weight, *args, name=name, **kwargs)  # type: ignore[arg-type]

    plan = plan_conversion(model, Settings("planes", 3, shard_bytes=30_000))
    convert(plan, target, resume=True, quantizer=counting)  # type: ignore[arg-type]
    assert contents(target) == expected
    assert 0 < len(names) <= len(plan.recipes) - done


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_what_is_finished_and_says_how_to_go_on(
    run: Run, model: Path, target: Path, expected: dict[str, bytes], number: signal.Signals, code: int
) -> None:
    # A shell starts what runs in the background with SIGINT ignored, and children inherit that.
    process = start(model, target, *OPTIONS, preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))
    wait_until(lambda: finished_tensors(target) > 0)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == code
    assert "interrupted; what is finished is kept in" in err
    assert "--resume" in err
    assert not target.exists()
    resume(run, model, target)
    assert contents(target) == expected


def test_other_settings_or_another_source_do_not_resume(run: Run, model: Path, target: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    interrupt_after(3, copy, target)
    result = run("convert", copy, target, "--resume")
    assert result.code == 1
    assert "begun with other settings" in result.err
    assert finished_tensors(target) >= 3
    os.utime(copy / "model.safetensors", (0, 0))
    result = run("convert", copy, target, *OPTIONS, "--resume")
    assert result.code == 1
    assert f"{copy / 'model.safetensors'}: changed since" in result.err
    assert finished_tensors(target) >= 3


def touch(file: Path) -> None:
    os.utime(file, (0, 0))


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 50_000)


@pytest.mark.parametrize(("change", "message"), [(touch, "changed"), (Path.unlink, "vanished"), (truncate, "shrank")])
def test_a_source_that_changes_meanwhile_leaves_nothing(
    model: Path, target: Path, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    changes = iter([lambda: change(copy / "model.safetensors")])

    def progress(weights: int) -> None:
        next(changes, lambda: None)()

    with pytest.raises(SourceChangedError, match=f"model.safetensors.*{message}"):
        convert(plan_conversion(copy, Settings()), target, progress, jobs=1)
    assert os.listdir(tmp_path) == ["copy"]


def test_two_conversions_to_one_target(run: Run, model: Path, target: Path) -> None:
    with WorkFolder(target) as first:
        first.begin("work", {}, resume=False)
        result = run("convert", model, target)
        assert result.code == 1
        assert f"a conversion to {target} is going on already (by process {os.getpid()})" in result.err
        assert (first.path / "work.json").exists()
    assert run("convert", model, target).code == 0
    assert os.listdir(target.parent) == ["ternary"]


def test_a_target_that_cannot_be_written(run: Run, model: Path) -> None:
    result = run("convert", model, "/sys/ternary")
    assert result.code == 1
    assert "/sys/ternary.partial" in result.err


def test_a_target_inside_of_the_source(run: Run, model: Path) -> None:
    before = contents(model)
    result = run("convert", model, model / "ternary")
    assert result.code == 1
    assert "choose a place outside" in result.err
    assert contents(model) == before


def limit_file_size() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def test_a_file_that_cannot_grow_leaves_nothing(model: Path, target: Path) -> None:
    process = start(model, target, "--jobs", "2", preexec_fn=limit_file_size)
    _, err = process.communicate()
    assert process.returncode == 1
    assert f"File too large: '{target}.partial/files/model.safetensors.partial'" in err
    assert os.listdir(target.parent) == []


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk; a file that cannot grow is tested without")
    yield folder
    subprocess.run(["umount", folder], check=True)


LATE = """
import sys
import ternfmt.writer
from ternfmt.cli import main
ternfmt.writer._reserve = lambda descriptor, size: None  # a file system that cannot reserve space
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("when", ["early", "late"])
def test_a_full_disk_keeps_what_is_finished(
    run: Run, model: Path, disk: Path, expected: dict[str, bytes], when: str
) -> None:
    (disk / "ballast").write_bytes(bytes(290_000))
    program = ["-c", LATE] if when == "late" else ["-m", "ternfmt"]
    command = [sys.executable, *program, "convert", str(model), str(disk / "ternary"), *OPTIONS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "No space left on device" in done.stderr
    assert ".partial" in done.stderr
    assert "--resume goes on" in done.stderr
    assert finished_tensors(disk / "ternary") > 0
    (disk / "ballast").unlink()
    resume(run, model, disk / "ternary")
    assert contents(disk / "ternary") == expected
    assert os.listdir(disk) == ["ternary"]


def test_a_weight_that_is_not_finite_leaves_nothing_of_earlier_tensors(run: Run, tmp_path: Path) -> None:
    tensors = {f"blocks.{i}.weight": np.ones((8, 8), np.float32) for i in range(3)}
    tensors["blocks.2.weight"][3, 2] = np.nan
    save_file(tensors, tmp_path / "dense.safetensors")
    result = run("convert", tmp_path / "dense.safetensors", tmp_path / "ternary.safetensors")
    assert result.code == 1
    assert "'blocks.2.weight'" in result.err
    assert os.listdir(tmp_path) == ["dense.safetensors"]


@pytest.mark.parametrize("jobs", [1, 2, 7])
def test_same_bytes_for_any_number_of_jobs(
    run: Run, model: Path, target: Path, expected: dict[str, bytes], jobs: int
) -> None:
    assert run("convert", model, target, *OPTIONS[:-1], str(jobs)).code == 0
    assert contents(target) == expected


def test_a_json_summary_of_what_was_made(run: Run, model: Path, target: Path) -> None:
    result = run("convert", model, target, *OPTIONS, "--json").json
    assert result["scales_in_f32"] == ["blocks.4.tiny.weight"]
    assert (
        result["bytes"] == json.loads((target / "model.safetensors.index.json").read_text())["metadata"]["total_size"]
    )
    assert [layer["name"] for layer in result["layers"]] == sorted(result["ternary"])
    assert result["peak_rss_bytes"] > 0
