"""Distillation at states of the student's own sampling, of what guidance makes of its answers."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

if importlib.util.find_spec("diffusers") is None:
    pytest.skip("needs diffusers", allow_module_level=True)

from ternfmt.encode.data.model import make_loaded
from ternfmt.encode.data.own_sampling import OwnSampling
from ternfmt.encode.data.trajectories import Trajectories, record_trajectories
from ternfmt.encode.distilled.losses import PLAIN_SHARE, guided_loss
from ternfmt.encode.distilled.settings import DistilledSettings, SettingsError
from ternfmt.encode.distilled.solve import distill
from ternfmt.encode.distilled.train import REDRAWN
from ternfmt.encode.quantize import quantize
from ternfmt.encode.run.solution import Solution
from tests.encode.data.fake_pipelines import Pipeline
from tests.encode.distilled import tiny

SETTINGS = DistilledSettings(
    steps=2 * REDRAWN + 6, batch=8, validate_every=10, validation_calls=2, checkpoint_seconds=0.0, adam_lr=1e-2
)


class Killed:
    """Calls that end where it is said."""

    def __init__(self, calls: OwnSampling, step: int) -> None:
        self.real, self.step = calls.call, step

    def __call__(self, number, size):
        if number == self.step:
            raise KeyboardInterrupt
        return self.real(number, size)


def calls_of(pipeline, folder):
    for split in ("train", "held-out"):
        record_trajectories(pipeline, pipeline.transformer, ["a red fox", "rain"], 8, folder / "data" / split, batch=4)
    return [OwnSampling(Trajectories(folder / "data", split)) for split in ("train", "held-out")]


def run(folder, settings=SETTINGS, until=None, halved=False):
    pipeline = Pipeline("doubled")
    calls, held_out = calls_of(pipeline, folder)
    if until is not None:
        calls.call = Killed(calls, until)
    model = make_loaded(pipeline.transformer, ["mix.weight"])
    solution = Solution(folder / "solution")
    start = None
    if halved:
        best = quantize(model.linears["mix.weight"].weight.numpy())
        half = replace(best.planes[0], scale=best.planes[0].scale / np.float16(2))
        start, settings = {"mix.weight": replace(best, planes=(half,))}, replace(settings, start="halved")
    arguments = (tiny.layers(model), solution, settings, folder / "work", lambda what, share: None)
    distill(model, calls, held_out, *arguments, tiny.dense_dtypes(model), start)
    return calls, solution


def log_of(folder):
    lines = [json.loads(line) for line in (folder / "work" / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def test_the_error_of_guided_answers_falls(tmp_path):
    run(tmp_path, replace(SETTINGS, steps=150, train_codes=False, adam_lr=2e-2), halved=True)
    log = log_of(tmp_path)
    assert log[-1]["error"] < 0.5 * log[0]["error"]


def test_the_student_samples_now_and_then(tmp_path, monkeypatch):
    drawn, real = [], OwnSampling.draw

    def draw(self, answer, number, size):
        drawn.append((number, size))
        real(self, answer, number, size)

    monkeypatch.setattr(OwnSampling, "draw", draw)
    run(tmp_path)
    assert drawn == [(0, 8), (REDRAWN, 8), (2 * REDRAWN, 8)]


def test_a_run_that_was_killed_goes_on_to_the_bit(tmp_path):
    _, whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "twice", until=REDRAWN + 5)
    state = torch.load(tmp_path / "twice" / "work" / "checkpoint.pt", weights_only=True)["state"]
    assert state["step"] == REDRAWN
    _, again = run(tmp_path / "twice")
    assert again["mix.weight"].codes.tobytes() == whole["mix.weight"].codes.tobytes()
    assert again["mix.weight"].scale.tobytes() == whole["mix.weight"].scale.tobytes()
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "twice")


def test_block_by_block_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="no student that could sample"):
        run(tmp_path, replace(SETTINGS, blockwise=True))


def test_errors_that_guidance_cancels_cost_little(tmp_path):
    calls, _ = calls_of(Pipeline("doubled"), tmp_path)
    assert calls.mix == (-1, 2)
    theirs = torch.zeros(4, 3, 5)
    same, other = torch.ones(2, 3, 5), torch.cat([2 * torch.ones(2, 3, 5), torch.ones(2, 3, 5)])
    call = calls.call(0, 4)
    of_level = calls.by_level(torch.ones(4), call).square().mean().item()
    one = guided_loss((torch.cat([same, same]),), (theirs,), calls, call).item()
    assert one == pytest.approx((1 / 5 + PLAIN_SHARE) * of_level)
    assert guided_loss((other,), (theirs,), calls, call).item() == pytest.approx(PLAIN_SHARE * 2.5 * of_level)
