"""A block at a time: better than the start, resumable, and what is written is what later blocks have seen."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace

import pytest
import torch

from ternfmt.encode.data.blocks import runs_on
from ternfmt.encode.data.calls import output_of
from ternfmt.encode.data.disk import DiskError
from ternfmt.encode.distilled import accounting, blockwise
from ternfmt.encode.distilled.settings import DistilledSettings, SettingsError
from ternfmt.encode.distilled.solve import distill
from ternfmt.encode.distilled.student import put_in
from ternfmt.encode.quantize import quantize
from ternfmt.encode.run.solution import Solution
from ternfmt.tensor import TernaryTensor
from tests.encode.distilled import tiny
from tests.encode.distilled.tiny import Noise

SETTINGS = DistilledSettings(
    steps=30, batch=8, samples=32, blockwise=True, validation_calls=1, muon_lr=5e-3, adam_lr=5e-3
)


def run(folder, settings=SETTINGS, progress=lambda what, share: None, calls=None, **layer):
    model = tiny.loaded()
    solution = Solution(folder / "solution")
    distill(
        model, calls or Noise(1), Noise(2), tiny.layers(model, **layer), solution, settings, folder / "work", progress,
        tiny.dense_dtypes(model),
    )  # fmt: skip
    return model, solution


def error_of(model, tensors):
    student = copy.deepcopy(model.model)
    put_in(student, tensors)
    call = Noise(3).call(0, 32)
    ours, theirs = output_of(student(**call)), output_of(model.model(**call))
    return ((ours - theirs).square().sum() / theirs.square().sum()).item()


def test_blocks_are_solved_one_after_another(tmp_path):
    told = []
    before = tiny.loaded()
    model, solution = run(tmp_path, progress=lambda what, share: told.append((what, share)))
    assert solution.parts() == {"block-000", "block-001"}
    assert [share for _, share in told] == sorted(share for _, share in told)
    assert len(told) == 2 * (SETTINGS.steps + 1)
    first = rf"block 1 of 2: blocks.0, step 1 of {SETTINGS.steps}, loss [\d.e-]+, \d+ (s|min) left"
    assert re.fullmatch(first, told[0][0])
    assert "block 1 of 2: blocks.0, held-out error" in told[SETTINGS.steps][0]
    log = [json.loads(line) for line in (tmp_path / "work" / "log.jsonl").read_text().splitlines()]
    assert [line["block"] for line in log] == ["blocks.0", "blocks.1"]
    assert all(line["error"] < line["error_before"] for line in log)
    exact = {name: quantize(linear.weight.numpy()) for name, linear in model.linears.items()}
    assert error_of(model, solution) < 0.6 * error_of(model, exact)
    assert {name for name in solution if isinstance(solution[name], TernaryTensor)} == set(model.linears)
    assert all(name.startswith("blocks.") for name in solution)
    # the model is as it was, and the caches are gone
    assert all(value.equal(model.model.state_dict()[name]) for name, value in before.model.state_dict().items())
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["log.jsonl"]


def test_a_disk_that_a_blocks_samples_do_not_fit_is_refused(tmp_path, monkeypatch):
    def small(folder, needed, what):
        raise DiskError(f"{what} need {needed} bytes")

    monkeypatch.setattr(blockwise, "check_disk", small)
    with pytest.raises(DiskError, match=r"inputs and answers of block 'blocks.0' in \d+ calls need [1-9]\d{4,} bytes"):
        run(tmp_path)


def test_a_run_that_was_killed_goes_on_with_the_next_block(tmp_path):
    _, whole = run(tmp_path / "whole")

    class Killed(KeyboardInterrupt):
        pass

    def kill(what, share):
        if "held-out" in what:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "twice", progress=kill)
    assert Solution(tmp_path / "twice" / "solution").parts() == {"block-000"}
    told = []
    _, again = run(tmp_path / "twice", progress=lambda what, share: told.append(what))
    assert all(what.startswith("block 2 of 2") for what in told)
    for part in ("block-000", "block-001"):
        ours, theirs = ((s.folder / f"{part}.safetensors").read_bytes() for s in (again, whole))
        assert ours == theirs


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
    run(tmp_path)
    told = []
    monkeypatch.delattr(blockwise, "Replay")
    run(tmp_path, progress=lambda what, share: told.append(share))
    assert told == []


MUCH = 1 << 40
LITTLE = accounting.student_bytes(tiny.loaded(), tiny.layers(tiny.loaded()), SETTINGS)  # a block, but not with headroom


@pytest.mark.parametrize(("before", "after"), [(MUCH, LITTLE), (LITTLE, MUCH)])
def test_a_run_goes_on_in_the_way_it_was_begun_whatever_memory_there_is(tmp_path, monkeypatch, before, after):
    settings = replace(SETTINGS, steps=2, blockwise=None)
    monkeypatch.setattr(accounting, "free_bytes", lambda device: before)
    told = []
    _, solution = run(tmp_path, settings, progress=lambda what, share: told.append(what))
    parts = solution.parts()
    assert parts == ({"distilled"} if before > after else {"block-000", "block-001"})
    assert any("no memory for the whole student" in what for what in told) == (before < after)
    monkeypatch.setattr(accounting, "free_bytes", lambda device: after)
    _, solution = run(tmp_path, settings)
    assert solution.parts() == parts


def test_a_block_that_does_not_fit_is_refused_with_both_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(accounting, "free_bytes", lambda device: 1000)
    with pytest.raises(SettingsError, match=r"block 'blocks\.\d' takes \S+ GB of cpu while it is .* 1e-06 GB are free"):
        run(tmp_path)


def test_a_student_that_does_not_fit_is_refused_where_blocks_are_not_wanted(tmp_path, monkeypatch):
    monkeypatch.setattr(accounting, "free_bytes", lambda device: LITTLE - 1)
    with pytest.raises(SettingsError, match="the whole student takes"):
        run(tmp_path, replace(SETTINGS, blockwise=False))


def test_blocks_on_another_device_come_out_the_same(tmp_path):
    """``cpu:0`` is another name of the one device that every machine has, so that everything is moved there."""
    few = replace(SETTINGS, steps=2)
    _, here = run(tmp_path / "here", few)
    model, there = run(tmp_path / "there", replace(few, block_device="cpu:0"))
    for name in here:
        ours, theirs = (s[name].codes if isinstance(s[name], TernaryTensor) else s[name] for s in (here, there))
        assert ours.tobytes() == theirs.tobytes(), name
    assert all("forward" not in vars(block.module) for block in model.blocks)


def test_low_rank_and_frozen_codes_work_too(tmp_path):
    settings = DistilledSettings(
        steps=4, batch=8, samples=16, blockwise=True, train_codes=False, micro_batch=4, validation_calls=1
    )
    model, solution = run(tmp_path, settings, low_rank=2)
    for name, linear in model.linears.items():
        assert solution[name].codes.tobytes() == quantize(linear.weight.numpy()).codes.tobytes()
        assert solution[name].low_rank.down.shape == (2, linear.in_features)


def test_blocks_outputs_beside_themselves_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="leave --feature-weight out"):
        run(tmp_path, replace(SETTINGS, feature_weight=0.1))


def test_ranks_are_refused(tmp_path, monkeypatch):
    from ternfmt.encode.distilled import solve
    from ternfmt.encode.distilled.parallel import Ranks

    monkeypatch.setattr(solve, "ranks", lambda device: Ranks(0, 2))
    with pytest.raises(SettingsError, match="block by block there is one process, but torchrun has started 2"):
        run(tmp_path)


def test_a_block_on_another_device_takes_and_gives_tensors_where_it_was():
    seen = []

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def to(self, device):
            seen.append(f"block to {device}")
            return self

        def forward(self, hidden, *, time):
            seen.append(f"input on {hidden.device} and {time.device}")
            return torch.ones(2), (torch.zeros(2),)

    block = Block()
    with runs_on([block], torch.device("meta")):
        answer = block(torch.ones(3), time=torch.ones(3))
    assert seen == ["block to meta", "input on meta and meta", "block to cpu"]
    assert answer[0].device.type == answer[1][0].device.type == "cpu"
    assert "forward" not in vars(block)
