"""End to end: the student learns, goes on where it was stopped, and writes what was evaluated."""

from __future__ import annotations

import copy
import json
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from ternfmt.encode.data import disk
from ternfmt.encode.data.calls import output_of
from ternfmt.encode.data.disk import DiskError
from ternfmt.encode.data.model import make_loaded
from ternfmt.encode.distilled import checkpoint
from ternfmt.encode.distilled.log import Log, duration
from ternfmt.encode.distilled.losses import NotFiniteError
from ternfmt.encode.distilled.settings import DistilledSettings, SettingsError
from ternfmt.encode.distilled.solve import distill
from ternfmt.encode.distilled.start import add_planes
from ternfmt.encode.distilled.student import make_student, put_in
from ternfmt.encode.distilled.train import Trainer, train
from ternfmt.encode.quantize import quantize
from ternfmt.encode.run.solution import Solution
from ternfmt.tensor import LowRank, TernaryTensor
from tests.encode.distilled import tiny
from tests.encode.distilled.tiny import Noise

SETTINGS = DistilledSettings(steps=6, batch=8, validate_every=2, validation_calls=1, checkpoint_seconds=0.0)
LONGER = replace(SETTINGS, steps=60, validate_every=60, muon_lr=5e-3, adam_lr=5e-3, checkpoint_seconds=100.0)


def quiet(what: str, share: float) -> None:
    assert 0 <= share <= 1


def run(folder, settings=SETTINGS, planes=1, kind="velocity", start=None, calls=None, progress=quiet, **layer):
    model = tiny.loaded(kind)
    solution = Solution(folder / "solution")
    arguments = (tiny.layers(model, planes, **layer), solution, settings, folder / "work", progress)
    distill(model, calls or Noise(1), Noise(2), *arguments, tiny.dense_dtypes(model), start)
    return model, solution


def log_of(folder):
    return [json.loads(line) for line in (folder / "work" / "log.jsonl").read_text().splitlines()]


def error_of(model, solution, settings=SETTINGS):
    student = copy.deepcopy(model.model)
    put_in(student, {path: solution[name] for path, name in model.names.items() if name in solution})
    call = Noise(2).call(0, settings.batch)
    ours, theirs = output_of(student(**call)), output_of(model.model(**call))
    return ((ours - theirs).square().sum() / theirs.square().sum()).item()


@pytest.mark.parametrize("kind", ["velocity", "logits", "last_hidden_state"])
def test_training_lowers_the_error_on_calls_it_has_not_seen(tmp_path, kind):
    run(tmp_path, LONGER, kind=kind)
    log = log_of(tmp_path)
    assert log[-1]["error"] < 0.4 * log[0]["error"]


@pytest.mark.parametrize(
    ("changes", "planes", "low_rank"),
    [
        ({}, 1, 0),
        ({}, 2, 0),
        ({}, 1, 2),
        ({"train_codes": False}, 1, 2),
        ({"train_dense": "biases"}, 1, 0),
        ({"soft": 0.5}, 1, 0),
        ({"soft": 1.0}, 2, 0),
        ({"feature_weight": 1.0, "recompute": True, "micro_batch": 4, "validation_calls": 2}, 1, 0),
    ],
)
def test_what_is_written_is_what_was_evaluated(tmp_path, changes, planes, low_rank):
    model, solution = run(tmp_path, replace(SETTINGS, **changes), planes, low_rank=low_rank)
    last = log_of(tmp_path)[-1]
    assert last["written"]
    assert error_of(model, solution) == pytest.approx(last["error"], rel=1e-4)
    assert all(isinstance(solution[name], TernaryTensor) for name in model.linears)
    assert all(len(solution[name].planes) == planes for name in model.linears)
    dense = {name for name in solution if not isinstance(solution[name], TernaryTensor)}
    assert all(solution[name].dtype.name == "bfloat16" for name in dense)
    expected = set(tiny.dense_dtypes(model))
    if changes.get("train_dense") == "biases":
        expected = {name for name in expected if name.startswith("blocks.")}
    assert dense == expected


def test_embedding_tables_stay_as_they_are():
    model = tiny.Tiny()
    model.table = nn.Embedding(3, 4)
    whole = make_loaded(model, ["blocks.0.up.weight"])
    student = make_student(whole, tiny.layers(whole), SETTINGS, tiny.dense_dtypes(whole))
    assert "table.weight" not in student.dense
    assert not student.model.table.weight.requires_grad
    assert {"embed.weight", "blocks.0.norm.weight", "blocks.1.up.weight"} <= set(student.dense)


def test_only_what_is_trained_goes_on_from_the_start():
    whole = tiny.loaded()
    start = {name: np.full(whole.model.get_parameter(name).shape, 7, np.float32) for name in tiny.dense_dtypes(whole)}
    settings = replace(SETTINGS, train_dense="biases")
    student = make_student(whole, tiny.layers(whole), settings, tiny.dense_dtypes(whole), start)
    parameters = dict(student.model.named_parameters())
    for name in start:
        assert (parameters[name] == 7).all() == (name in student.dense), name


@pytest.mark.parametrize("low_rank", [0, 2])
def test_a_start_with_another_rank_is_refused(low_rank):
    whole = tiny.loaded()
    name = next(iter(whole.linears))
    tensor = quantize(whole.linears[name].weight.numpy())
    ranked = replace(tensor, low_rank=LowRank(np.zeros((1, tensor.k), np.float16), np.zeros((tensor.n, 1), np.float16)))
    layers = tiny.layers(whole, low_rank=low_rank)
    with pytest.raises(SettingsError, match=f"of rank {low_rank}, got rank 1" if low_rank else "got rank 1"):
        make_student(whole, layers, SETTINGS, tiny.dense_dtypes(whole), {name: ranked})


def test_written_tensors_give_the_students_outputs_to_the_bit(tmp_path):
    model, solution = run(tmp_path)
    student = make_student(model, tiny.layers(model), SETTINGS, tiny.dense_dtypes(model), solution)
    plain = copy.deepcopy(model.model)
    put_in(plain, {path: solution[name] for path, name in model.names.items()})
    call = Noise(9).call(0, 8)
    assert output_of(student.model(**call)).equal(output_of(plain(**call)))


class Killed(Noise):
    def call(self, number, size):
        if self.seed == 1 and number == 3:
            raise KeyboardInterrupt
        return super().call(number, size)


@pytest.mark.parametrize(("changes", "low_rank"), [({}, 0), ({"codes_from": 0.3, "feature_weight": 0.5}, 1)])
def test_a_run_that_was_killed_goes_on_to_the_bit(tmp_path, changes, low_rank):
    settings = replace(SETTINGS, **changes)
    _, whole = run(tmp_path / "whole", settings, low_rank=low_rank)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "twice", settings, calls=Killed(1), low_rank=low_rank)
    assert not Solution(tmp_path / "twice" / "solution").parts()
    _, again = run(tmp_path / "twice", settings, low_rank=low_rank)
    for name in whole:
        ours, theirs = again[name], whole[name]
        if isinstance(ours, TernaryTensor):
            assert ours.codes.tobytes() == theirs.codes.tobytes(), name
            assert ours.scale.tobytes() == theirs.scale.tobytes(), name
        else:
            assert ours.tobytes() == theirs.tobytes(), name
    strip = lambda lines: [{k: v for k, v in line.items() if k != "seconds"} for line in lines]  # noqa: E731
    assert strip(log_of(tmp_path / "whole")) == strip(log_of(tmp_path / "twice"))


def test_the_checkpoint_that_is_there_needs_no_room_again(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, calls=Killed(1))
    there = tmp_path / "work" / "checkpoint.pt"
    free = 0.5 * there.stat().st_size
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    run(tmp_path)
    shutil.rmtree(tmp_path / "solution")
    there.unlink()
    with pytest.raises(DiskError, match=r"two checkpoints need about .*: choose another disk$"):
        run(tmp_path)


def test_a_finished_run_is_not_run_again(tmp_path):
    run(tmp_path)

    class Never:
        def call(self, number, size):
            raise AssertionError

    run(tmp_path, calls=Never())


def test_micro_batches_add_up(tmp_path):
    _, whole = run(tmp_path / "8")
    _, parts = run(tmp_path / "4", replace(SETTINGS, micro_batch=4))
    for name, ours in whole.items():
        values = (t.dequantize() if isinstance(t, TernaryTensor) else t.astype(np.float32) for t in (ours, parts[name]))
        np.testing.assert_allclose(*values, rtol=0.01, atol=1e-4, err_msg=name)


def test_codes_wait_for_their_turn(tmp_path):
    model, solution = run(tmp_path, replace(SETTINGS, codes_from=1.0))
    for name, linear in model.linears.items():
        start = quantize(linear.weight.numpy())
        assert start.codes.tobytes() == solution[name].codes.tobytes()
        assert start.scale.tobytes() != solution[name].scale.tobytes()


def test_a_start_is_gone_on_from(tmp_path):
    model, first = run(tmp_path / "first")
    settings = replace(SETTINGS, start="calibrated", muon_lr=1e-9, adam_lr=1e-9, steps=1)
    _, second = run(tmp_path / "second", settings, start=first)
    for name in model.linears:
        assert first[name].codes.tobytes() == second[name].codes.tobytes()
    assert error_of(model, second) == pytest.approx(error_of(model, first), rel=0.02)


def test_a_start_that_is_missing_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="'calibrated' needs tensors to start from"):
        run(tmp_path, replace(SETTINGS, start="calibrated"))


def test_planes_that_a_start_lacks_are_added(tmp_path):
    model, first = run(tmp_path / "first")
    settings = replace(SETTINGS, start="calibrated", muon_lr=1e-9, adam_lr=1e-9, steps=1)
    _, second = run(tmp_path / "second", settings, planes=2, start=first)
    for name in model.linears:
        np.testing.assert_array_equal(second[name].unpack(0), first[name].unpack())
        assert not second[name].unpack(1).any()
    _, trained = run(tmp_path / "third", replace(SETTINGS, start="calibrated"), planes=2, start=first)
    assert error_of(model, trained) < error_of(model, first)


@pytest.mark.parametrize("planes", [1, 2, 4])
def test_added_planes_change_nothing(planes):
    tensor = quantize(np.random.default_rng(0).normal(size=(5, 37)).astype(np.float32))
    added = add_planes(tensor, planes)
    assert len(added.planes) == planes
    np.testing.assert_array_equal(added.dequantize(), tensor.dequantize())


def test_a_start_of_more_planes_is_refused(tmp_path):
    _, first = run(tmp_path / "first", planes=2)
    with pytest.raises(SettingsError, match=r"'blocks\.0\.up\.weight': expected at most 1 planes of \[24, 16\]"):
        run(tmp_path / "second", replace(SETTINGS, start="calibrated"), start=first)


def test_another_runs_checkpoint_is_refused(tmp_path):
    model = tiny.loaded()
    student = make_student(model, tiny.layers(model), SETTINGS, tiny.dense_dtypes(model))
    trainer = Trainer(model, student, Noise(1), SETTINGS)
    train(trainer, Noise(2), tmp_path / "work", quiet, tiny.dense_dtypes(model), "another")
    with pytest.raises(checkpoint.CheckpointError, match="got one of another"):
        run(tmp_path)


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "checkpoint.pt").write_bytes(b"half of it")
    with pytest.raises(checkpoint.CheckpointError, match=r"checkpoint\.pt: cannot be read"):
        run(tmp_path)


def test_nan_in_a_call_is_refused(tmp_path):
    class Broken(Noise):
        def call(self, number, size):
            made = super().call(number, size)
            if number == 1:
                made["hidden_states"][0, 0, 0] = float("nan")
            return made

    with pytest.raises(NotFiniteError, match="step 1: expected a finite loss, got nan"):
        run(tmp_path, calls=Broken(1))


def test_nan_in_a_weight_is_refused():
    model = tiny.loaded()
    model.linears["blocks.0.up.weight"].weight[0, 0] = float("nan")
    with pytest.raises(SettingsError, match=r"'blocks\.0\.up\.weight': a weight is NaN or Inf"):
        make_student(model, tiny.layers(model), SETTINGS, {})


def test_a_layer_that_never_runs_is_named():
    model = tiny.loaded()

    class Skips(nn.Module):
        def forward(self, hidden, *, time):
            return hidden

    block = model.model.blocks[1]
    block.forward = Skips().forward
    student = make_student(model, tiny.layers(model), SETTINGS, tiny.dense_dtypes(model))
    with pytest.raises(SettingsError, match=r"'blocks\.1\.up\.weight': no call came through this layer"):
        Trainer(model, student, Noise(1), SETTINGS).train_step()


def test_the_teacher_is_not_changed(tmp_path):
    before = copy.deepcopy(tiny.loaded().model.state_dict())
    model, _ = run(tmp_path, replace(SETTINGS, feature_weight=1.0))
    assert all(value.equal(before[name]) for name, value in model.model.state_dict().items())
    assert not any(block.module._forward_hooks for block in model.blocks)


def test_one_seed_one_result(tmp_path):
    _, first = run(tmp_path / "1", low_rank=2)
    _, second = run(tmp_path / "2", low_rank=2)
    files = [sorted((s.folder).glob("*.safetensors")) for s in (first, second)]
    assert [f.read_bytes() for f in files[0]] == [f.read_bytes() for f in files[1]]


def test_every_step_tells_the_latest_error_and_the_time_left(tmp_path):
    told = []
    run(tmp_path, progress=lambda what, share: told.append(what))
    first, second, third = told[:3]
    assert re.fullmatch(r"step 1 of 6, held-out error \S+, \d+ (s|min) left", first)
    assert re.fullmatch(r"step 2 of 6, loss \S+, held-out error \S+, \d+ (s|min) left", second)
    assert third.split(", ")[1:3] == second.split(", ")[1:3]
    assert told[-1] == f"held-out error {log_of(tmp_path)[-1]['error']:.4g} of what is written"


def test_half_a_line_of_a_killed_run_is_dropped(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 3}\n{"st')
    Log(path, 2).add(step=2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    path.write_text('{"step": 1}\n{"st')
    Log(path, float("inf")).add(step=2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize(("value", "text"), [(3.2, "3 s"), (90, "90 s"), (600, "10 min"), (12_000, "3 h 20 min")])
def test_durations(value, text):
    assert duration(value) == text


def test_autograd_mode_is_left_as_it_was(tmp_path):
    run(tmp_path)
    assert torch.is_grad_enabled()
