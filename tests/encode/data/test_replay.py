"""Blocks see in a replay what they see in a plain forward pass."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import torch
from torch import Tensor, nn

from ternfmt.encode.data import checks
from ternfmt.encode.data import replay as module
from ternfmt.encode.data.blocks import Block, BlockError
from ternfmt.encode.data.calls import output_of, tensors_in
from ternfmt.encode.data.checks import check_activation_disk
from ternfmt.encode.data.disk import DiskError
from ternfmt.encode.data.model import make_loaded
from ternfmt.encode.data.replay import ActivationError, Replay, check_replay
from tests.encode.calibrated.toy_model import ToyCalls, make_toy


def plain_inputs(model, blocks, call):
    """What hooks see in a plain pass: block's name -> (args, kwargs)."""
    seen = {}
    hooks = [
        model.get_submodule(block.name).register_forward_pre_hook(
            lambda _, args, kwargs, name=block.name: seen.update({name: (args, kwargs)}), with_kwargs=True
        )
        for block in blocks
    ]
    with torch.no_grad():
        model(**call)
    for hook in hooks:
        hook.remove()
    return seen


def assert_same(found, expected):
    pairs = list(zip(tensors_in(found), tensors_in(expected), strict=True))
    assert pairs
    for (name, one), (other_name, other) in pairs:
        assert name == other_name
        assert one.dtype == other.dtype
        assert torch.equal(one, other), name


@pytest.mark.parametrize(("with_samples", "size"), [(False, 4 * 72 * 4), (True, 4 * 72 * 4 + 2 * 72 * 4 + 4)])
def test_what_lies_on_disk_between_blocks_is_known_beforehand(tmp_path, monkeypatch, with_samples, size):
    """Of a sample, 72 numbers of 4 bytes, in teacher and student: the block at hand, and the last one of the list."""
    needed = []
    monkeypatch.setattr(checks, "check_disk", lambda folder, bytes_needed, what: needed.append(bytes_needed))
    check_activation_disk(make_toy(), ToyCalls().call(0, 2), 100, tmp_path, with_samples=with_samples)
    (tmp_path / "left.pt").write_bytes(bytes(1000))
    check_activation_disk(make_toy(), ToyCalls().call(0, 2), 100, tmp_path, with_samples=with_samples)
    assert needed == [100 * size, 100 * size - 1000]


def test_inputs_are_those_of_a_plain_pass(load, calls_of, kind, tmp_path):
    loaded, calls = load(kind), calls_of(kind)
    expected = [plain_inputs(loaded.model, loaded.blocks, call) for call in calls]
    replay = Replay(loaded.model, loaded.blocks, calls, tmp_path / "work")
    for number, block in enumerate(loaded.blocks):
        found = list(replay.inputs(number))
        assert len(found) == len(calls)
        for call, plain in zip(found, expected, strict=True):
            assert_same(list(call), list(plain[block.name]))
        replay.finish(number)


def test_a_student_sees_what_its_changed_blocks_make(load, calls_of, kind, tmp_path):
    loaded, calls = load(kind), calls_of(kind)
    student = copy.deepcopy(loaded.model)
    replay = Replay(student, loaded.blocks, calls, tmp_path / "work")
    for number, block in enumerate(loaded.blocks):
        found = list(replay.inputs(number))
        # Blocks before this one are changed already, those after it are not: it is all the same to its input.
        for call, (args, kwargs) in zip(calls, found, strict=True):
            assert_same([args, kwargs], list(plain_inputs(student, loaded.blocks, call)[block.name]))
        for name, parameter in student.get_submodule(block.name).named_parameters():
            if name.endswith("weight") and parameter.ndim == 2:
                parameter.copy_(parameter.sign() * parameter.abs().mean())
        replay.finish(number)
    with torch.no_grad():
        assert not torch.equal(output_of(student(**calls[0])), output_of(loaded.model(**calls[0])))


def test_linears_outside_of_lists_can_be_replayed(load, calls_of):
    from ternfmt.encode.data.blocks import in_order

    loaded, call = load("flux", everything=True), calls_of("flux")[0]
    check_replay(loaded.model, in_order(loaded.model, loaded.blocks, call), call)


def test_the_model_is_left_as_it_was(load, calls_of, tmp_path):
    loaded, calls = load("flux"), calls_of("flux")
    before = output_of(loaded.model(**calls[0]))
    replay = Replay(loaded.model, loaded.blocks, calls, tmp_path / "work")
    list(replay.inputs(0))
    replay.finish(0)
    next(replay.inputs(1))  # and the rest of the iterator is dropped
    assert all("forward" not in block.module.__dict__ for block in loaded.blocks)
    assert torch.equal(output_of(loaded.model(**calls[0])), before)


def test_only_the_last_outputs_of_each_list_are_kept(load, calls_of, tmp_path):
    loaded, calls = load("flux"), calls_of("flux")
    replay = Replay(loaded.model, loaded.blocks, calls, tmp_path / "work")
    kept = []
    for number in range(4):
        replay.finish(number)
        kept.append(sorted(path.name for path in (tmp_path / "work").iterdir() if path.is_dir()))
    assert kept == [["0"], ["1"], ["1", "2"], ["1", "3"]]
    assert not list((tmp_path / "work").rglob("*.partial"))


def test_a_killed_run_goes_on(load, calls_of, kind, tmp_path, monkeypatch):
    loaded, calls = load(kind), calls_of(kind)
    expected = [plain_inputs(loaded.model, loaded.blocks, call) for call in calls]
    first = Replay(loaded.model, loaded.blocks, calls, tmp_path / "work")
    first.finish(0)
    first.finish(1)
    real = module._save

    def dies(value, path):
        if path.name.startswith("1"):
            raise KeyboardInterrupt
        real(value, path)

    monkeypatch.setattr(module, "_save", dies)
    with pytest.raises(KeyboardInterrupt):
        first.finish(2)
    monkeypatch.undo()
    again = Replay(loaded.model, loaded.blocks, calls, tmp_path / "work", resume=True)
    assert again.finished == 2
    again.finish(0)  # nothing
    for call, plain in zip(again.inputs(2), expected, strict=True):
        assert_same(list(call), list(plain[loaded.blocks[2].name]))
    again.finish(2)
    assert again.finished == 3


def test_what_other_calls_left_does_not_count(load, calls_of, tmp_path):
    loaded, calls = load("bert"), calls_of("bert")
    Replay(loaded.model, loaded.blocks, calls, tmp_path / "work").finish(0)
    assert Replay(loaded.model, loaded.blocks, calls[:2], tmp_path / "work", resume=True).finished == 0
    Replay(loaded.model, loaded.blocks, calls, tmp_path / "work").finish(0)
    assert Replay(loaded.model, loaded.blocks, calls, tmp_path / "work").finished == 0
    (tmp_path / "work" / "replay.json").write_text(json.dumps({"finished": 1}))
    assert Replay(loaded.model, loaded.blocks, calls, tmp_path / "work", resume=True).finished == 0


def test_blocks_are_asked_for_in_order(load, calls_of, tmp_path):
    loaded = load("bert")
    replay = Replay(loaded.model, loaded.blocks, calls_of("bert"), tmp_path / "work")
    with pytest.raises(ValueError, match="block 1 of 3: expected block 0"):
        next(replay.inputs(1))
    with pytest.raises(ValueError, match="block 1 of 3: expected block 0"):
        replay.finish(1)
    replay.finish(0)
    with pytest.raises(ValueError, match="block 0 of 3: expected block 1"):
        next(replay.inputs(0))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_activation_that_is_not_finite_is_named(load, calls_of, tmp_path, value):
    loaded, calls = load("flux"), calls_of("flux")
    calls[1]["hidden_states"][0, 1, 2] = value
    replay = Replay(loaded.model, loaded.blocks, calls, tmp_path / "work")
    inputs = replay.inputs(0)
    next(inputs)
    with pytest.raises(ActivationError, match=r"input of block 'transformer_blocks.0' in call 1: .*hidden_states"):
        next(inputs)
    next(iter(loaded.blocks[0].linears.values())).weight[0, 0] = value
    with pytest.raises(ActivationError, match=r"output of block 'transformer_blocks.0' in call 0: .*float32"):
        replay.finish(0)


class Chain(nn.Module):
    """Blocks of one linear, run in some order; with ``skip`` the first one's output is used after the second."""

    def __init__(self, order=(0, 1, 2), skip=False, wrap=lambda x: x) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleDict({"linear": nn.Linear(4, 4)}) for _ in range(3))
        for layer in self.layers:
            layer.forward = lambda x, layer=layer: wrap(layer["linear"](x))
        self.order, self.skip = order, skip

    def forward(self, x: Tensor) -> Tensor:
        seen = []
        for number in self.order:
            x = self.layers[number](x)
            seen.append(x)
            if self.skip and number == 1:
                x = x + seen[0]
        return x


def chain(**arguments):
    loaded = make_loaded(Chain(**arguments), [f"layers.{n}.linear.weight" for n in range(3)])
    return loaded.model, loaded.blocks


def test_an_instance_with_a_forward_of_its_own_gets_it_back():
    model, blocks = chain()
    before = [block.module.__dict__["forward"] for block in blocks]
    check_replay(model, blocks, {"x": torch.randn(2, 4)})
    assert [block.module.__dict__["forward"] for block in blocks] == before


def test_skip_connections_between_blocks_are_found_out():
    model, blocks = chain(skip=True)
    with pytest.raises(BlockError, match=r"'layers.2': its input depends on more than the block before"):
        check_replay(model, blocks, {"x": torch.randn(2, 4)})


def test_a_block_that_runs_twice_is_found_out(tmp_path):
    model, blocks = chain(order=(0, 0, 1, 2))
    call = {"x": torch.randn(2, 4)}
    with pytest.raises(BlockError, match=r"'layers.0' runs more than once"):
        check_replay(model, blocks, call)
    replay = Replay(model, blocks, [call], tmp_path / "work")
    replay.finish(0)
    with pytest.raises(BlockError, match=r"'layers.0' runs more than once"):
        list(replay.inputs(1))


def test_blocks_in_another_order_than_they_run_are_refused(tmp_path):
    model, blocks = chain(order=(1, 0, 2))
    with pytest.raises(BlockError, match=r"'layers.1' runs before 'layers.0': .*in_order"):
        list(Replay(model, blocks, [{"x": torch.randn(2, 4)}], tmp_path / "work").inputs(0))


def test_a_block_that_does_not_run_is_refused(tmp_path):
    model, blocks = chain(order=(0, 2))
    replay = Replay(model, (blocks[1],), [{"x": torch.randn(2, 4)}], tmp_path / "work")
    with pytest.raises(BlockError, match=r"'layers.1' does not run in call 0"):
        list(replay.inputs(0))


def test_an_answer_that_cannot_be_stored_is_refused(tmp_path):
    model, blocks = chain(wrap=lambda x: {"x", "y"})
    with pytest.raises(BlockError, match=r"'layers.0': expected a tensor, .*got set"):
        Replay(model, blocks, [{"x": torch.randn(2, 4)}], tmp_path / "work").finish(0)


def test_a_full_disk_is_foreseen(load, calls_of, tmp_path, monkeypatch):
    loaded = load("bert")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(DiskError, match=r"outputs of block 'encoder.layer.0' in 3 calls need about"):
        Replay(loaded.model, loaded.blocks, calls_of("bert"), tmp_path / "work").finish(0)


def test_a_block_says_which_list_it_is_of():
    linear = nn.Linear(1, 1)
    assert Block("a.blocks.3", linear, {}).list_name == "a.blocks"
    assert Block("proj_out", linear, {}).list_name == "proj_out"
