"""Two ranks do what one process does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ternfmt.encode.distilled.parallel import Ranks, ranks
from ternfmt.encode.distilled.settings import DistilledSettings, SettingsError
from ternfmt.encode.distilled.student import make_student
from ternfmt.encode.distilled.train import Trainer
from tests.encode.distilled import tiny

SETTINGS = DistilledSettings(steps=3, batch=8, validation_calls=2, adam_lr=1e-3, muon_lr=1e-3)
ROOT = Path(__file__).parents[3]

SCRIPT = """
import sys, torch
from ternfmt.encode.distilled.parallel import ranks
from tests.encode.distilled.test_distilled_parallel import trained
here = ranks(torch.device("cpu"))
assert here.size == 2
weights = trained(here)
if here.is_first:
    torch.save(weights, sys.argv[1])
torch.distributed.destroy_process_group()
"""


def trained(here: Ranks) -> dict[str, torch.Tensor]:
    model = tiny.loaded(seed=here.rank)  # the first rank's weights count
    student = make_student(model, tiny.layers(model), SETTINGS, tiny.dense_dtypes(model))
    model.model.load_state_dict(tiny.loaded().model.state_dict())
    here.same_weights(student.model.parameters())
    trainer = Trainer(model, student, tiny.Noise(1), SETTINGS, here)
    for _ in range(SETTINGS.steps):
        trainer.train_step()
    error = trainer.validate(tiny.Noise(2))
    weights = {name: value.detach() for name, value in student.model.named_parameters()}
    return {**weights, "error": torch.tensor(error)}


def test_two_ranks_give_the_weights_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path / "two.pt")],
            cwd=ROOT,
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    two, one = torch.load(tmp_path / "two.pt", weights_only=True), trained(Ranks())
    assert two.keys() == one.keys()
    for name, value in one.items():
        if name != "error":  # one process validates with calls of 8, each rank with calls of 4
            torch.testing.assert_close(two[name], value, rtol=1e-3, atol=2e-5, msg=name)
    assert two["error"] == pytest.approx(one["error"].item(), rel=0.5)


def test_alone_there_is_one_rank(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert ranks(torch.device("cpu")) == Ranks(0, 1)


def test_a_batch_that_ranks_cannot_share_is_refused():
    model = tiny.loaded()
    settings = DistilledSettings(steps=1, batch=9)
    student = make_student(model, tiny.layers(model), settings, tiny.dense_dtypes(model))
    with pytest.raises(SettingsError, match="batch: expected a multiple of 2 ranks times micro_batch 4, got 9"):
        Trainer(model, student, tiny.Noise(1), settings, Ranks(0, 2))
