"""``ternfmt convert`` with ``--ratio``, ``--overrides``, ``--report`` and ``--device``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import ternfmt
from ternfmt.encode.run import dial

from .conftest import Run

HEAVY, MIDDLE, BELL = "blocks.0.heavy.weight", "blocks.1.middle.weight", "blocks.2.bell.weight"


def layers() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    tails = {HEAVY: 2.5, MIDDLE: 5, BELL: 1e9}
    return {n: (rng.standard_t(df, (64, 256)) * 0.02).astype(ml_dtypes.bfloat16) for n, df in tails.items()}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "dense.safetensors"
    save_file({**layers(), "norm.weight": np.ones(64, np.float32)}, path)
    return path


def planes(path: Path) -> dict[str, int]:
    with ternfmt.open(path) as opened:
        return {name: info.planes for name, info in opened.tensors.items() if info.ternary}


def rules(folder: Path, value: Any) -> Path:
    path = folder / "rules.json"
    path.write_text(json.dumps(value))
    return path


@pytest.mark.parametrize(
    ("ratio", "expected"), [(7.7, (1, 1, 1)), (5.5, (2, 1, 1)), (4.6, (2, 2, 1)), (3.87, (2, 2, 2)), (3.0, (3, 2, 2))]
)
def test_a_ratio_is_spent_on_the_noisiest_layers(
    run: Run, model: Path, ratio: float, expected: tuple[int, ...]
) -> None:
    destination = model.with_name("ternary.safetensors")
    said = run("convert", model, destination, "--ratio", str(ratio), "--json").json
    assert said["block_ratio"] >= ratio
    assert planes(destination) == dict(zip((HEAVY, MIDDLE, BELL), expected, strict=True))
    ternfmt.validate(destination, digests=True)
    with ternfmt.open(destination) as opened:
        for name, weight in layers().items():
            count = opened.tensors[name].planes
            alone = ternfmt.quantize(weight, "exact" if count == 1 else "planes", planes=count)
            assert all(np.array_equal(a.codes, b.codes) for a, b in zip(opened[name].planes, alone.planes, strict=True))
        assert opened.document.ancillary["encoder"]["ratio"] == str(ratio)


def test_a_dry_run_turns_the_dial_too(run: Run, model: Path) -> None:
    foretold = run("convert", model, "--ratio", "5.5", "--dry-run", "--json").json
    done = run("convert", model, model.with_name("t"), "--ratio", "5.5", "--json").json
    assert foretold["block_ratio"] == done["block_ratio"]
    assert foretold["bytes"] == done["bytes"]
    assert "2 planes" in run("convert", model, "--ratio", "5.5", "--dry-run").out


def test_the_dial_measures_a_sample_and_any_number_of_jobs_gives_the_same_bytes(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial, "SAMPLE_WEIGHTS", 32 * 256)
    for jobs in ("1", "3"):
        assert run("convert", model, model.with_name(jobs), "--ratio", "4.6", "--jobs", jobs).code == 0
    assert model.with_name("1").read_bytes() == model.with_name("3").read_bytes()


def test_an_interrupted_measuring_pass_is_resumed(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("convert", model, model.with_name("whole"), "--ratio", "4.6").code == 0
    measured: list[str] = []
    measure = dial.measure

    def interrupted(name: str, *args: Any) -> Any:
        measured.append(name)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return measure(name, *args)

    monkeypatch.setattr(dial, "measure", interrupted)
    assert run("convert", model, model.with_name("t"), "--ratio", "4.6", "--jobs", "1").code == 130
    assert run("convert", model, model.with_name("t"), "--ratio", "4.6", "--jobs", "1", "--resume").code == 0
    assert measured == [HEAVY, MIDDLE, BELL, BELL]
    assert model.with_name("t").read_bytes() == model.with_name("whole").read_bytes()


def test_a_ratio_out_of_reach_names_the_range_and_leaves_nothing(run: Run, model: Path) -> None:
    result = run("convert", model, model.with_name("t"), "--ratio", "9")
    assert result.code == 1
    assert "ratio: expected 1.9394 to 7.7575 for these layers, got 9" in result.err
    assert [p.name for p in model.parent.iterdir()] == [model.name]


def test_overrides_beat_the_dial_which_spends_on_the_others(run: Run, model: Path) -> None:
    file = rules(model.parent, {"*.heavy.*": {"planes": 1}, "*.bell.*": {"scale_dtype": "BF16"}})
    destination = model.with_name("t")
    said = run("convert", model, destination, "--ratio", "4.6", "--overrides", file, "--json").json
    assert said["block_ratio"] >= 4.6
    assert planes(destination) == {HEAVY: 1, MIDDLE: 2, BELL: 2}
    with ternfmt.open(destination) as opened:
        assert {name: info.dtype for name, info in opened.tensors.items() if info.ternary}[BELL] == "BF16"


def test_overrides_beat_the_method_and_keep_layers_dense(run: Run, model: Path) -> None:
    file = rules(model.parent, {"*.heavy.*": {"dense": True}, "*.bell.*": {"method": "exact", "group_size": 64}})
    destination = model.with_name("t")
    assert run("convert", model, destination, "--method", "planes", "--overrides", file).code == 0
    assert planes(destination) == {MIDDLE: 2, BELL: 1}
    with ternfmt.open(destination) as opened:
        assert np.array_equal(opened[HEAVY], layers()[HEAVY])
        assert opened.tensors[BELL].group_size == 64


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"typo.*": {"planes": 2}}, "'typo.*' matches none of the 3 tensors that become ternary"),
        ({"norm.weight": {"planes": 2}}, "'norm.weight' matches none of the 3 tensors that become ternary"),
        ({"*": {"planes": 9}}, "rules.json: '*': 'planes': expected 1 to 4, got 9"),
    ],
)
def test_faulty_overrides_are_refused_before_work(run: Run, model: Path, value: Any, message: str) -> None:
    result = run("convert", model, model.with_name("t"), "--overrides", rules(model.parent, value))
    assert result.code == 1
    assert message in result.err
    assert not model.with_name("t").exists()


def test_the_report_is_a_page_about_every_layer(run: Run, model: Path) -> None:
    page = model.with_name("report.html")
    said = run("convert", model, model.with_name("t"), "--ratio", "5.5", "--report", page, "--json").json
    text = page.read_text(encoding="utf-8")
    assert all(name in text for name in (HEAVY, MIDDLE, BELL))
    assert f"{said['snr_db']:.2f} dB" in text
    assert f"{said['block_ratio']:.2f}×" in text
    assert text.rstrip().endswith("</html>")


def test_a_report_that_cannot_be_written_is_known_before_the_work(run: Run, model: Path) -> None:
    result = run("convert", model, model.with_name("t"), "--report", model.parent / "none" / "report.html")
    assert result.code == 1
    assert "none" in result.err
    assert [p.name for p in model.parent.iterdir()] == [model.name]


def test_layers_are_listed_with_what_was_measured(run: Run, model: Path) -> None:
    result = run("convert", model, model.with_name("t"), "--ratio", "5.5", "--layers")
    row = next(line for line in result.out.splitlines() if line.startswith(HEAVY))
    assert "2 planes" in row


def test_a_device_that_is_not_there_is_an_error(run: Run, model: Path) -> None:
    result = run("convert", model, model.with_name("t"), "--device", "cuda:77")
    assert result.code == 1
    assert "cuda:77" in result.err
    assert [p.name for p in model.parent.iterdir()] == [model.name]


def test_a_device_without_torch_says_what_to_install(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ternfmt.encode.device", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    result = run("convert", model, model.with_name("t"), "--device", "cuda")
    assert result.code == 1
    assert "pip install 'ternfmt[runtime]'" in result.err


def test_torch_on_the_cpu_gives_the_same_file(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ternfmt.cli import convert
    from ternfmt.encode.device import quantizer

    assert run("convert", model, model.with_name("numpy")).code == 0
    monkeypatch.setattr(convert, "_quantizer", lambda device: quantizer("cpu"))
    assert run("convert", model, model.with_name("torch")).code == 0
    assert model.with_name("numpy").read_bytes() == model.with_name("torch").read_bytes()
