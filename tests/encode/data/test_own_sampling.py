"""Calls of whole steps of sampling, at the teacher's states and at a student's own."""

from __future__ import annotations

import importlib.util
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ternfmt.encode.data.mixing import Mixing
from ternfmt.encode.data.recorder import TrajectoryError
from ternfmt.encode.data.trajectories import Trajectories, record_trajectories

if importlib.util.find_spec("diffusers") is None:
    pytest.skip("needs diffusers", allow_module_level=True)

from ternfmt.encode.data.own_sampling import OwnSampling
from tests.encode.data.fake_pipelines import CHANNELS, TOKENS, Pipeline

PROMPTS = ["a red fox", "two green birds", "a lamp", "an old door", "rain", "three cups and a plate"]
MIX = {"doubled": (-1.0, 2.0), "two": (2.0, -1.0), "embedded": (1.0,)}


def own_sampling(pipeline, folder, **arguments):
    record_trajectories(pipeline, pipeline.transformer, PROMPTS, 6, folder / "train", batch=3)
    return OwnSampling(Trajectories(folder, **arguments))


def test_what_guidance_makes_of_answers_is_seen(tmp_path):
    for kind, mix in MIX.items():
        assert own_sampling(Pipeline(kind), tmp_path / kind).mix == mix


@given(
    st.lists(st.floats(-8, 8).map(lambda x: round(x, 3)), min_size=1, max_size=3).filter(lambda m: max(map(abs, m)) > 1)
)
def test_the_numbers_of_any_sum_are_found(numbers):
    generator, mixing = torch.Generator().manual_seed(0), Mixing()
    for _ in range(3):
        answers = torch.randn(2 * len(numbers), 40, generator=generator)
        mixing.add([answers], sum(x * part for x, part in zip(numbers, answers.chunk(len(numbers)), strict=True)))
    assert mixing.found() == pytest.approx(numbers, abs=2e-3)


def test_what_is_no_sum_is_not_taken_for_one():
    answers, mixing = torch.randn(4, 40), Mixing()
    mixing.add([answers], answers[:2] + 0.1 * answers[2:] ** 2)
    assert mixing.found() is None
    other_shape = Mixing()
    other_shape.add([answers], answers[:2, :20])
    assert other_shape.found() is None
    assert Mixing().found() is None


def test_guidance_that_changes_between_steps_is_refused(tmp_path):
    pipeline = Pipeline("doubled")
    pipeline.rising = 2.0
    with pytest.raises(TrajectoryError, match=r"no sum of the transformer's answers.*leave --own-sampling out"):
        own_sampling(pipeline, tmp_path)


@pytest.mark.parametrize("kind", MIX)
def test_a_call_asks_all_that_a_step_asks(kind, tmp_path):
    pipeline = Pipeline(kind)
    pipeline.extra = 2
    calls = own_sampling(pipeline, tmp_path)
    rows = len(calls.mix)
    call = calls.call(0, 4 * rows)
    hidden = call["hidden_states"][..., :CHANNELS]
    assert hidden.shape == (4 * rows, TOKENS, CHANNELS)
    assert all(torch.equal(part, hidden[:4]) for part in hidden.chunk(rows))
    assert all(torch.equal(part, call["timestep"][:4]) for part in call["timestep"].chunk(rows))
    told = [part.mean((1, 2)) for part in call["encoder_hidden_states"].chunk(rows)]
    assert len(told) == 1 or not torch.equal(*told)
    (answers,) = pipeline.transformer(**call)
    expected = sum(x * part for x, part in zip(calls.mix, answers.chunk(rows), strict=True))
    torch.testing.assert_close(calls.mixed(answers), expected)


@pytest.mark.parametrize("kind", MIX)
def test_squares_of_answers_weigh_as_the_noise_levels(kind, tmp_path):
    pipeline = Pipeline(kind)
    pipeline.scale = 1000.0
    calls = own_sampling(pipeline, tmp_path)
    rows = len(calls.mix)
    call = calls.call(0, 4 * rows)
    weights = calls.by_level(torch.ones(4 * rows, TOKENS, CHANNELS), call).square()
    torch.testing.assert_close(weights, (call["timestep"] / 1000).view(-1, 1, 1).expand_as(weights))


def test_noise_levels_are_as_dense_as_the_steps(tmp_path):
    pipeline = Pipeline("embedded", shift=3.0)
    calls = own_sampling(pipeline, tmp_path)
    levels = pipeline.scheduler.sigmas[:-1]  # three of them
    found = calls.call(0, 600)["timestep"].sort().values
    assert found[0] == pytest.approx(levels[-1].item())
    assert found[-1] == pytest.approx(levels[0].item())
    for low, high in pairwise(levels.flip(0).tolist()):
        assert ((found > low) & (found < high)).sum() == pytest.approx(200, abs=2)


@pytest.mark.parametrize("kind", MIX)
def test_half_of_the_states_are_those_that_the_student_gets_to(kind, tmp_path):
    pipeline = Pipeline(kind)
    pipeline.extra = 2
    calls = own_sampling(pipeline, tmp_path)
    rows, seen = len(calls.mix), []

    def student(call):
        seen.append(call)
        return pipeline.transformer(**call)

    calls.draw(student, 0, 6 * rows)
    levels = pipeline.scheduler.sigmas.tolist()
    assert [call["timestep"][0].item() for call in seen] == pytest.approx(levels[:-1])
    states = [call["hidden_states"][:6, :, :CHANNELS] for call in seen]
    for number, call in enumerate(seen[:-1]):
        (answers,) = pipeline.transformer(**call)
        moved = states[number] + (levels[number + 1] - levels[number]) * calls.mixed(answers)
        torch.testing.assert_close(states[number + 1], moved)
    call = calls.call(5, 8 * rows)
    for hidden, level in zip(call["hidden_states"][4:8, :, :CHANNELS], call["timestep"][4:8], strict=True):
        (step,) = [n for n, x in enumerate(levels) if x == pytest.approx(level.item())]
        assert any(torch.equal(hidden, state) for state in states[step])
    for hidden in call["hidden_states"][:4, :, :CHANNELS]:
        assert not any(torch.equal(hidden, state) for state in torch.cat(states))


def test_a_call_follows_from_its_number_and_what_was_drawn(tmp_path):
    pipeline = Pipeline("doubled")
    one = own_sampling(pipeline, tmp_path)
    two = OwnSampling(Trajectories(tmp_path))
    for calls in (one, two):
        calls.draw(lambda call: pipeline.transformer(**call), 3, 8)
    first, second, other = one.call(7, 8), two.call(7, 8), one.call(8, 8)
    assert all(torch.equal(first[name], second[name]) for name in first if isinstance(first[name], torch.Tensor))
    assert not torch.equal(first["hidden_states"], other["hidden_states"])


def test_batches_hold_rows_of_one_shape(tmp_path):
    pipeline = Pipeline("embedded")
    pipeline.unequal = True
    record_trajectories(pipeline, pipeline.transformer, PROMPTS, 6, tmp_path / "train", batch=1)
    calls = OwnSampling(Trajectories(tmp_path))
    calls.draw(lambda call: pipeline.transformer(**call), 0, 2)
    lengths = {calls.call(n, 4)["encoder_hidden_states"].shape[1] for n in range(40)}
    assert lengths == {len(prompt.split()) for prompt in PROMPTS}


def test_a_batch_of_half_a_state_is_refused(tmp_path):
    with pytest.raises(TrajectoryError, match="--batch: 5 rows in a process, expected a multiple of 2, the rows"):
        own_sampling(Pipeline("doubled"), tmp_path).call(0, 5)
