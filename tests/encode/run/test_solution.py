"""Solved tensors wait on disk, a file a part, and are written into the output as they are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import ternfmt
from ternfmt.encode.calibration import Calibration
from ternfmt.encode.convert import convert, run_shard
from ternfmt.encode.overrides import Override
from ternfmt.encode.plan import Plan, plan_conversion
from ternfmt.encode.report.layer_report import LayerReport
from ternfmt.encode.run import stream
from ternfmt.encode.run.solution import Solution
from ternfmt.encode.settings import Settings
from ternfmt.tensor import LowRank, TernaryTensor

WEIGHT, TINY, BIAS, NORM = "blocks.0.a.weight", "blocks.1.b.weight", "blocks.0.a.bias", "norm.weight"


def dense(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        WEIGHT: rng.standard_normal((24, 40)).astype(ml_dtypes.bfloat16),
        TINY: (rng.standard_normal((8, 20)) * 1e-9).astype(np.float32),
        BIAS: rng.standard_normal(24).astype(ml_dtypes.bfloat16),
        NORM: np.ones(8, np.float32),
    }


def solved(method: str = "exact", rank: int = 0) -> dict[str, Any]:
    """What a method might find: from other weights than the source's, so that the two cannot be confused."""
    rng = np.random.default_rng(2)
    found: dict[str, Any] = {}
    for name, weight in dense(seed=1).items():
        if name in (WEIGHT, TINY):
            tensor = ternfmt.quantize(weight, method)
            factors = [rng.standard_normal(shape).astype(np.float16) for shape in ((rank, tensor.k), (tensor.n, rank))]
            low_rank = LowRank(factors[0], factors[1]) if rank else None
            found[name] = TernaryTensor(tensor.shape, tensor.planes, low_rank=low_rank)
    return {**found, BIAS: dense(seed=1)[BIAS]}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, TernaryTensor):
        return np.array_equal(a.dequantize(), b.dequantize()) and a.scale.dtype == b.scale.dtype
    return a.dtype == b.dtype and np.array_equal(a, b)


def test_parts_are_there_when_the_folder_is_opened_again(tmp_path: Path) -> None:
    tensors = solved()
    Solution(tmp_path).add("block-0", {WEIGHT: tensors[WEIGHT], BIAS: tensors[BIAS]})
    again = Solution(tmp_path)
    assert again.parts() == {"block-0"}
    again.add("block-1", {TINY: tensors[TINY]})
    assert sorted(again) == sorted(tensors)
    assert all(same(Solution(tmp_path)[name], tensor) for name, tensor in tensors.items())


def test_a_part_that_is_solved_again_replaces_itself_and_no_other(tmp_path: Path) -> None:
    solution = Solution(tmp_path)
    solution.add("block-0", {BIAS: np.zeros(3, np.float32)})
    solution.add("block-0", {BIAS: np.ones(3, np.float32)})
    assert solution[BIAS].sum() == 3
    with pytest.raises(ValueError, match="is in part 'block-0' already, not 'block-1'"):
        solution.add("block-1", {BIAS: np.ones(3, np.float32)})


def make_plan(tmp_path: Path, planes: int, rank: int) -> Plan:
    save_file(dense(), tmp_path / "dense.safetensors")
    return plan_conversion(
        tmp_path / "dense.safetensors", Settings("distilled", planes, calibration=Calibration(low_rank=rank))
    )


@pytest.mark.parametrize("block_weights", [1, 300, 1 << 22])
@pytest.mark.parametrize(("method", "rank"), [("exact", 0), ("planes", 0), ("exact", 3)])
def test_what_is_solved_is_written_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_weights: int, method: str, rank: int
) -> None:
    monkeypatch.setattr(stream, "BLOCK_WEIGHTS", block_weights)
    tensors = solved(method, rank)
    plan = make_plan(tmp_path, len(tensors[WEIGHT].planes), rank)

    def solve(plan: Plan, folder: Path, tell: Any) -> tuple[Plan, Solution]:
        solution = Solution(folder / "distilled")
        solution.add("all", tensors)
        return plan, solution

    monkeypatch.setitem(
        __import__("sys").modules, "ternfmt.encode.solve", SimpleNamespace(check_plan=lambda plan: None, solve=solve)
    )
    result = convert(plan, tmp_path / "made.safetensors", jobs=1)
    ternfmt.validate(tmp_path / "made.safetensors", digests=True)
    with ternfmt.open(tmp_path / "made.safetensors") as made:
        assert sorted(made) == sorted(dense())
        assert all(same(made[name], tensors.get(name, value)) for name, value in dense().items())
        assert made.document.ancillary["encoder"]["method"] == "distilled"
    assert result.scales_in_f32 == (TINY,)
    by_name = {layer.name: layer for layer in result.layers}
    assert_measured(by_name[WEIGHT], tensors[WEIGHT])
    assert result.stored_bytes == sum(t.nbytes for t in {**dense(), **tensors}.values())


def assert_measured(report: LayerReport, tensor: TernaryTensor) -> None:
    """The report compares with the source's weights, low-rank term included."""
    weight = dense()[WEIGHT].astype(np.float64)
    assert report.squared_error == pytest.approx(((weight - tensor.dequantize()) ** 2).sum(), rel=1e-5)
    assert report.stored_bytes == tensor.nbytes


def test_what_is_solved_together_is_no_work_for_many_machines(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="solves all layers together"):
        run_shard(make_plan(tmp_path, 1, 0), tmp_path / "made", 1, 1)


def test_a_plan_remembers_how_to_calibrate(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, 1, 4)
    again = Plan.from_json(plan.to_json())
    assert again.calibration == plan.calibration == Calibration(low_rank=4)
    assert again.layers == plan.layers


def test_groups_and_calibration_exclude_each_other(tmp_path: Path) -> None:
    save_file(dense(), tmp_path / "dense.safetensors")
    with pytest.raises(ValueError, match="method 'calibrated' has one scale a row"):
        plan_conversion(tmp_path / "dense.safetensors", Settings("calibrated", group_size=16))
    one = Override(WEIGHT, {"group_size": 16})
    with pytest.raises(ValueError, match=r"'blocks\.0\.a\.weight': method 'distilled' has one scale a row"):
        plan_conversion(tmp_path / "dense.safetensors", Settings("distilled", overrides=(one,)))
