"""The roofline: its committed tables, and what must hold of any."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ternfmt_kernels.bench import flux, roofline, roofline_report
from ternfmt_kernels.bench.__main__ import main
from ternfmt_kernels.bench.devices import DEVICES, Device
from ternfmt_kernels.bench.roofline import BF16, INT8, METHODS, W2A8, W2A16

COMMITTED = Path(__file__).parents[2] / "kernels" / "bench" / "ROOFLINE.md"


def test_committed_file_is_what_the_script_prints(tmp_path: Path) -> None:
    assert main(["roofline", "--markdown", str(tmp_path / "made.md")]) == 0
    assert COMMITTED.read_text(encoding="utf-8") == (tmp_path / "made.md").read_text(encoding="utf-8")


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["roofline", "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["steps"]) == len(DEVICES) * len(METHODS)
    assert len(document["layers"]) == len(DEVICES) * len(METHODS) * len(flux.LAYERS)


def test_layers_are_those_of_flux() -> None:
    assert sum(layer.count for layer in flux.LAYERS) == 494
    assert flux.weights() == 11_834_228_736
    assert flux.outputs() == 3_035_136
    assert roofline.resident(BF16) == 23_802_816_640
    assert roofline.resident(W2A16) == 3_098_986_624


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: d.name)
def test_what_physics_allows(device: Device) -> None:
    for n, k in flux.SHAPES:
        for m in flux.ROWS:
            base = roofline.limit(BF16, device, m, n, k)
            ours = roofline.limit(W2A16, device, m, n, k)
            assert base.seconds / ours.seconds < 8
            assert base.seconds >= base.operations / device.bf16
            if m >= 512:  # operations decide: packed weights gain nothing
                assert base.bound == "operations"
                assert ours.seconds >= base.seconds
                assert roofline.limit(W2A8, device, m, n, k).seconds < base.seconds
        assert roofline.limit(BF16, device, 1, n, k).seconds / roofline.limit(W2A16, device, 1, n, k).seconds > 7
    assert roofline.step(W2A16, device).seconds > roofline.step(BF16, device).seconds
    assert roofline.step(W2A8, device).seconds <= roofline.step(INT8, device).seconds


def test_best_rows_is_where_the_gain_ends() -> None:
    for device in DEVICES:
        m = roofline.best_rows(device, 12288, 3072)
        gains = [
            roofline.limit(BF16, device, x, 12288, 3072).seconds / roofline.limit(W2A16, device, x, 12288, 3072).seconds
            for x in (m, m + 1)
        ]
        assert gains[0] >= 1.1 > gains[1]


def test_every_number_has_a_source() -> None:
    text = roofline_report.markdown()
    for device in DEVICES:
        assert device.source in text
