import dataclasses
import json

import pytest
import torch
from torch import nn

from sample_flux.muon import Muon, orthogonalise
from sample_flux.prompts import split
from sample_flux.text_encoder import tokenize
from sample_flux.training import Phase, Settings, Trainer, make_batch
from tests.examples.sample_flux.conftest import TINY
from train import train

PHASES = (Phase(3, 1.0, 3.0, (1 / 6,) * 6), Phase(6, 0.0, 5.0, (0, 0, 0, 0, 0.5, 0.5)))
SETTINGS = Settings(PHASES, batch=4)


def test_a_run_that_was_stopped_goes_on_exactly(tmp_path):
    whole = Trainer(SETTINGS, **TINY)
    losses = [whole.train_step() for _ in range(6)]

    first = Trainer(SETTINGS, **TINY)
    assert [first.train_step() for _ in range(4)] == losses[:4]
    first.save(tmp_path / "checkpoint.pt")
    second = Trainer(SETTINGS, **TINY)
    second.load(tmp_path / "checkpoint.pt")
    assert [second.train_step() for _ in range(2)] == losses[4:]
    weights = second.models.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in whole.models.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_the_learning_rate_rises_stays_and_falls():
    settings = Settings((Phase(500, 1.0, 3.0, ()), Phase(900, 0.5, 3.0, ()), Phase(1000, 0.0, 3.0, ())))
    rates = [settings.rate(step) for step in (0, 49, 300, 500, 700, 900, 950, 999)]
    assert rates == pytest.approx([0.01, 0.5, 1, 1, 0.75, 0.5, 0.25, 0.005])
    assert settings.steps == 1000


def test_phases_choose_categories():
    tokens = make_batch(SETTINGS, 4).tokens
    assert set((tokens != 0).sum(1).tolist()) <= {0, 7, 8}  # words of positions and attributions, or none


def test_batches_are_of_the_training_split():
    texts = [prompt.text for prompts in split("train").values() for prompt in prompts]
    known = {tuple(row) for row in tokenize([*texts, ""]).tolist()}
    assert all(tuple(row) in known for row in make_batch(dataclasses.replace(SETTINGS, batch=200), 0).tokens.tolist())


def test_half_coloured_pairs_take_their_share_of_two_objects():
    def share(phase_share):
        phase = Phase(1, 1.0, 3.0, (0, 1, 0, 0, 0, 0), phase_share)
        tokens = make_batch(Settings((phase,), batch=400), 0).tokens
        words = (tokens != 0).sum(1)
        assert set(words.tolist()) <= {0, 5, 6}  # a circle and a square, a red circle and a square
        return float((words == 6).sum() / (words > 0).sum())

    assert share(0.0) == 0
    assert share(0.5) == pytest.approx(0.5, abs=0.1)


def test_batches_follow_from_the_step():
    batch = make_batch(SETTINGS, 0)
    assert batch.clean.shape == batch.noise.shape == (4, 36, 48)
    assert ((batch.times > 0) & (batch.times < 1)).all()
    assert batch.clean.equal(make_batch(SETTINGS, 0).clean)
    assert not batch.clean.equal(make_batch(SETTINGS, 1).clean)


def test_train_leaves_a_log_a_curve_and_a_model(tmp_path):
    settings = dataclasses.replace(SETTINGS, phases=PHASES[:1], batch=2)
    train(Trainer(settings), tmp_path)
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 3
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "model" / "model_index.json").exists()


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 24), (2, 24, 8)])
def test_orthogonalise_evens_out_the_singular_values(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_muon_agrees_with_pytorch():
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(8, 24)) for _ in range(2))
    mine = Muon([ours], lr=0.01)
    reference = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        ours.grad = torch.randn(8, 24)
        theirs.grad = ours.grad.clone()
        mine.step()
        reference.step()
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)  # PyTorch's rounds to bf16 on the way
