"""A whole model: complete, better than without data, resumable, and the model as it was afterwards."""

import copy
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

from ternfmt.encode.calibrated import memory
from ternfmt.encode.calibrated.memory import check_memory, layer_bytes
from ternfmt.encode.calibrated.settings import CalibratedSettings
from ternfmt.encode.calibrated.solve import calibrate, share_parameters
from ternfmt.encode.data.calls import output_of
from ternfmt.encode.data.model import make_loaded
from ternfmt.encode.data_free import data_free
from ternfmt.encode.run.solution import Solution
from ternfmt.encode.settings import LayerSettings
from ternfmt.tensor import TernaryTensor
from tests.encode.calibrated.toy_model import HIDDEN, WIDTH, ToyCalls, is_linear, make_toy

SETTINGS = CalibratedSettings(samples=16, batch=4, rounds=2, sweeps=2)


def layers_of(loaded, planes=1, **settings):
    return {name: LayerSettings("exact" if planes == 1 else "planes", planes, **settings) for name in loaded.linears}


def solve(loaded, folder, *, layers=None, settings=SETTINGS, dtype="F32", progress=lambda what, part: None):
    solution = Solution(folder / "solution")
    dtypes = dict.fromkeys((name for name in loaded.names.values() if not is_linear(name)), dtype)
    layers = layers_of(loaded) if layers is None else layers
    calibrate(loaded, ToyCalls(), layers, solution, settings, folder / "work", progress, dtypes)
    return solution


def as_arrays(solution):
    return {
        name: value.dequantize() if isinstance(value, TernaryTensor) else np.array(value, dtype=np.float32)
        for name, value in solution.items()
    }


@torch.no_grad()
def output_error(loaded, arrays):
    """Squared error of the model's output on calls that calibration has not seen."""
    student = copy.deepcopy(loaded.model)
    for name, value in arrays.items():
        student.state_dict()[name].copy_(torch.from_numpy(value))
    calls = [ToyCalls().call(number, 32) for number in (1000, 1001)]
    return sum(float((output_of(student(**c)) - output_of(loaded.model(**c))).square().sum()) for c in calls)


@pytest.mark.parametrize("planes", [1, 2])
def test_every_layer_is_solved_and_the_model_is_nearer_to_itself(tmp_path, planes):
    loaded = make_toy()
    solved = solve(loaded, tmp_path, layers=layers_of(loaded, planes))
    for name, linear in loaded.linears.items():
        assert solved[name].shape == tuple(linear.weight.shape)
        assert len(solved[name].planes) == planes
    biases = {f"blocks.{n}.{layer}.bias" for n in range(3) for layer in ("up", "down")}
    assert set(solved) == set(loaded.linears) | biases
    plain = {name: data_free(linear.weight, LayerSettings(planes=planes)) for name, linear in loaded.linears.items()}
    assert output_error(loaded, as_arrays(solved)) < 0.6 * output_error(loaded, as_arrays(plain))


def test_the_model_is_as_it_was(tmp_path):
    loaded = make_toy()
    before = copy.deepcopy(loaded.model.state_dict())
    solve(loaded, tmp_path)
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(module._forward_pre_hooks for module in loaded.model.modules())


def test_blocks_on_another_device_come_out_the_same(tmp_path):
    """``cpu:0`` is another name of the one device that every machine has, so that everything is moved there."""
    loaded = make_toy()
    here, there = (
        solve(make_toy(), tmp_path / "here"),
        solve(loaded, tmp_path / "there", settings=replace(SETTINGS, block_device="cpu:0")),
    )
    np.testing.assert_equal(as_arrays(there), as_arrays(here))
    assert not any("forward" in vars(module) for module in loaded.model.modules())


def test_a_layer_that_does_not_fit_is_named_with_what_it_takes(monkeypatch):
    loaded, most = make_toy(), layer_bytes(WIDTH, HIDDEN)
    monkeypatch.setattr(memory, "free_bytes", lambda device: most)
    check_memory(loaded, layers_of(loaded), loaded.device)
    monkeypatch.setattr(memory, "free_bytes", lambda device: most - 1)
    with pytest.raises(ValueError, match=rf"'blocks.0.down.weight': .* \(second moments of {HIDDEN} columns\), but"):
        check_memory(loaded, layers_of(loaded), loaded.device)


def test_same_bytes_again(tmp_path):
    first, second = (solve(make_toy(), tmp_path / run) for run in "ab")
    for part in first.parts():
        assert (first.folder / f"{part}.safetensors").read_bytes() == (
            second.folder / f"{part}.safetensors"
        ).read_bytes()


@pytest.mark.parametrize("stop", [1, 2])
@pytest.mark.parametrize("lost", ["nothing", "activations"])
def test_a_run_that_was_cut_off_goes_on(tmp_path, stop, lost):
    whole = as_arrays(solve(make_toy(), tmp_path / "whole"))
    folder = tmp_path / "cut"

    class Cut(Exception):
        pass

    def cut(what, part):
        if what.startswith(f"block {stop + 1} "):
            raise Cut

    with pytest.raises(Cut):
        solve(make_toy(), folder, progress=cut)
    kept = {path: path.stat().st_mtime_ns for path in (folder / "solution").iterdir()}
    assert len(kept) == stop
    if lost == "activations":
        (folder / "work").rename(folder / "gone")
    again = as_arrays(solve(make_toy(), folder))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert whole.keys() == again.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(again[name], value)


def test_activations_of_a_lost_solution_are_not_used(tmp_path):
    whole = as_arrays(solve(make_toy(), tmp_path))
    (tmp_path / "solution").rename(tmp_path / "gone")
    again = as_arrays(solve(make_toy(), tmp_path))
    for name, value in whole.items():
        np.testing.assert_array_equal(again[name], value)


def test_layers_that_are_not_asked_for_stay(tmp_path):
    loaded = make_toy()
    wanted = {name: LayerSettings() for name in loaded.linears if name.startswith("blocks.1") and "up" in name}
    assert set(solve(loaded, tmp_path, layers=wanted)) == {"blocks.1.up.weight", "blocks.1.up.bias"}


def test_biases_stay_where_that_is_asked(tmp_path):
    loaded = make_toy()
    settings = CalibratedSettings(samples=8, batch=4, rounds=1, bias=False)
    assert set(solve(loaded, tmp_path, settings=settings)) == set(loaded.linears)


def test_biases_have_the_checkpoints_dtype(tmp_path):
    solved = solve(make_toy(1), tmp_path, dtype="BF16")
    assert solved["blocks.0.up.bias"].dtype == ml_dtypes.bfloat16


def test_corrected_biases_keep_the_mean_output(tmp_path):
    """The first block's `up` reads the same in teacher and student, so its mean output must be the same."""
    loaded = make_toy(1)
    solved = solve(loaded, tmp_path)
    seen = []
    with torch.no_grad():
        for number in range(4):
            x = loaded.model.enter(ToyCalls().call(number, 4)["x"])
            seen.append(loaded.model.blocks[0].norm(x).reshape(-1, WIDTH))
    x = torch.cat(seen)
    up = loaded.model.blocks[0].up
    ternary = torch.from_numpy(solved["blocks.0.up.weight"].dequantize())
    bias = torch.from_numpy(np.array(solved["blocks.0.up.bias"]))
    torch.testing.assert_close((x @ ternary.T + bias).mean(0), up(x).mean(0), atol=1e-5, rtol=1e-5)


def test_a_linear_outside_every_list_is_a_block_of_its_own(tmp_path):
    loaded = make_toy(1)
    loaded = make_loaded(loaded.model, [*loaded.linears, "enter.weight", "leave.weight"])
    solved = solve(loaded, tmp_path)
    assert {"enter.weight", "leave.weight", "enter.bias", "leave.bias"} <= set(solved)


class IdleBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.used(x)


class IdleModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([IdleBlock()])

    def forward(self, x):
        return self.blocks[0](x)


def test_a_linear_that_does_not_run_gets_the_data_free_rule(tmp_path):
    torch.manual_seed(0)
    model = IdleModel()
    solved = solve(make_loaded(model, ["blocks.0.used.weight", "blocks.0.idle.weight"]), tmp_path)
    plain = data_free(model.blocks[0].idle.weight, LayerSettings())
    np.testing.assert_array_equal(solved["blocks.0.idle.weight"].codes, plain.codes)
    assert "blocks.0.idle.bias" not in solved


def test_progress_counts_blocks(tmp_path):
    said = []
    solve(make_toy(), tmp_path, progress=lambda what, part: said.append((what, part)))
    assert said[0] == ("block 1 of 3: blocks.0", 0.0)
    assert said[-1][1] == 1.0
    assert [part for _, part in said] == sorted(part for _, part in said)


def test_groups_are_refused(tmp_path):
    loaded = make_toy(1)
    with pytest.raises(ValueError, match=r"'blocks.0.down.weight': expected one scale a row, got groups of 16"):
        solve(loaded, tmp_path, layers=layers_of(loaded, group_size=16))


def test_low_rank_terms_are_refused(tmp_path):
    loaded = make_toy(1)
    with pytest.raises(ValueError, match=r"'blocks.0.down.weight': expected no low-rank term, got rank 2"):
        solve(loaded, tmp_path, layers=layers_of(loaded, low_rank=2))


def test_unknown_layers_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'no.weight': expected the weight of a linear of ToyModel"):
        solve(make_toy(1), tmp_path, layers={"no.weight": LayerSettings()})


def test_inputs_that_are_not_finite_are_refused(tmp_path):
    loaded = make_toy(1)
    with torch.no_grad():
        loaded.model.blocks[0].up.bias[0] = torch.inf
    with pytest.raises(ValueError, match=r"blocks.0.down.weight: expected finite inputs"):
        solve(loaded, tmp_path, layers={"blocks.0.down.weight": LayerSettings()})


def test_the_students_parameters_are_the_teachers():
    model = make_toy().model
    student = share_parameters(model)
    assert all(a is b for a, b in zip(model.parameters(), student.parameters(), strict=True))
    assert all(a is not b for a, b in zip(model.modules(), student.modules(), strict=True))
