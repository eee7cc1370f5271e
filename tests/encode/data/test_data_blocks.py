"""Which parts of a model are blocks, and in which order they run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ternfmt.encode.data.blocks import BlockError, in_order
from ternfmt.encode.data.model import ModelError, make_loaded

EXPECTED = {
    "flux": [f"{prefix}transformer_blocks.{n}" for prefix in ("", "single_") for n in range(2)],
    "bert": [f"encoder.layer.{n}" for n in range(3)],
    "llama": [f"model.layers.{n}" for n in range(3)],
}


def test_blocks_are_entries_of_the_outermost_lists(load, kind):
    loaded = load(kind)
    assert [block.name for block in loaded.blocks] == EXPECTED[kind]
    held = [name for block in loaded.blocks for name in block.linears]
    assert held == list(loaded.linears)
    for block in loaded.blocks:
        assert all(name.startswith(f"{block.name}.") for name in block.linears)


def test_linears_outside_of_lists_are_blocks_of_their_own(load, calls_of):
    loaded = load("flux", everything=True)
    blocks = in_order(loaded.model, loaded.blocks, calls_of("flux")[0])
    names = [block.name for block in blocks]
    assert names[0] in ("x_embedder", "time_text_embed.timestep_embedder.linear_1")
    assert names[-2:] == ["norm_out.linear", "proj_out"]
    assert [name for name in names if name in EXPECTED["flux"]] == EXPECTED["flux"]
    assert sorted(names) == sorted(block.name for block in loaded.blocks)


def test_register_order_is_execution_order_in_known_models(load, calls_of, kind):
    loaded = load(kind)
    assert in_order(loaded.model, loaded.blocks, calls_of(kind)[0]) == loaded.blocks


class Sequence(nn.Module):
    """A list without lists: steps 0 and 2 of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 3), nn.GELU(), nn.Linear(3, 3))

    def forward(self, x: Tensor, times: int = 1) -> Tensor:
        for _ in range(times):
            x = self.net(x)
        return x


def test_a_step_of_a_sequence_is_its_own_block():
    model = Sequence()
    loaded = make_loaded(model, ["net.0.weight", "net.2.weight"])
    assert [block.name for block in loaded.blocks] == ["net.0", "net.2"]


@pytest.mark.parametrize("times", [0, 2])
def test_a_block_that_does_not_run_once_is_refused(times):
    loaded = make_loaded(Sequence(), ["net.0.weight", "net.2.weight"])
    with pytest.raises(BlockError, match=rf"'net.0': expected it to run once .* it ran {times} times"):
        in_order(loaded.model, loaded.blocks, {"x": torch.zeros(1, 3), "times": times})


def test_a_tensor_that_is_no_linear_is_named(load):
    model = load("bert").model
    with pytest.raises(ModelError, match=r"embeddings\.word_embeddings\.weight: .*--exclude"):
        make_loaded(model, ["embeddings.word_embeddings.weight", "encoder.layer.0.output.dense.weight"])


def test_a_model_is_frozen_and_keeps_no_keys(load):
    model = load("llama").model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.config.use_cache is False
