"""Losses are zero for the teacher itself, and refuse NaN."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ternfmt.encode.distilled.losses import (
    Features,
    NotFiniteError,
    check_finite,
    feature_loss,
    output_loss,
    relative_error,
)
from tests.encode.distilled import tiny

KINDS = ["logits", "last_hidden_state", "sample"]


def answer(kind: str, value: torch.Tensor) -> SimpleNamespace:
    return SimpleNamespace(**{kind: value})


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_teacher_has_no_loss(kind):
    torch.manual_seed(0)
    theirs, ours = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    assert output_loss(answer(kind, theirs), answer(kind, theirs)).item() == pytest.approx(0, abs=1e-6)
    assert output_loss(answer(kind, ours), answer(kind, theirs)) > 0.1


def test_velocities_have_the_mean_squared_error():
    theirs, ours = torch.randn(2, 3), torch.randn(2, 3)
    torch.testing.assert_close(output_loss((ours,), (theirs,)), (ours - theirs).square().mean())


def test_logits_have_the_divergence_from_the_teacher():
    theirs, ours = torch.randn(2, 3, 7), torch.randn(2, 3, 7)
    p, q = theirs.softmax(-1), ours.softmax(-1)
    expected = (p * (p / q).log()).sum(-1).mean()
    torch.testing.assert_close(output_loss(answer("logits", ours), answer("logits", theirs)), expected)


def test_a_single_logit_is_a_score():
    theirs, ours = torch.randn(4, 1), torch.randn(4, 1)
    loss = output_loss(answer("logits", ours), answer("logits", theirs))
    torch.testing.assert_close(loss, (ours - theirs).square().mean())


def test_relative_error_does_not_depend_on_the_unit():
    theirs, ours = torch.randn(4, 5), torch.randn(4, 5)
    torch.testing.assert_close(relative_error(ours * 8, theirs * 8), relative_error(ours, theirs))
    assert relative_error(torch.zeros(3), torch.zeros(3)) == 0


def test_features_are_the_blocks_outputs():
    model = tiny.Tiny()
    features = Features(list(model.blocks))
    call = tiny.Noise().call(0, 4)
    model(**call)
    hidden = model.embed(call["hidden_states"])
    for found, block in zip(features.take(), model.blocks, strict=True):
        hidden = nn.Module.__call__(block, hidden, time=call["timestep"])
        assert found.equal(hidden)
    features.take()
    features.close()
    model(**call)
    assert features.take() == []


def test_feature_loss_is_the_mean_over_tensors():
    a, b = torch.ones(2), torch.full((3,), 2.0)
    torch.testing.assert_close(feature_loss([a * 0, b], [a, b]), torch.tensor(0.5))


def test_nan_is_refused():
    with pytest.raises(NotFiniteError, match="step 7: expected a finite loss, got nan"):
        check_finite(torch.tensor(float("nan")), 7)
