"""A tensor in blocks of rows is the tensor at once: bytes, digests, reports, F32 scales, errors."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import ternfmt
from ternfmt.encode.convert import convert
from ternfmt.encode.plan import plan_conversion
from ternfmt.encode.run import stream
from ternfmt.encode.settings import Settings
from ternfmt.encode.weights import WeightError


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    late = rng.standard_normal((40, 37), np.float32)
    late[33] *= 1e-9  # F16 does not hold this scale; 33 rows are written before that shows
    return {
        "blocks.0.plain.weight": rng.standard_normal((64, 96)).astype(ml_dtypes.bfloat16),
        "blocks.1.late.weight": late,
        "blocks.1.bias": rng.standard_normal(64, np.float32),
        "blocks.2.huge.weight": np.full((3, 8), 1e6, np.float32),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 3), np.float16),
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save_file(tensors(), tmp_path / "dense.safetensors", metadata={"format": "pt", "note": "kept"})
    return tmp_path / "dense.safetensors"


@pytest.mark.parametrize("block_weights", [1, 100, 1000, 1 << 22])
@pytest.mark.parametrize(("method", "group_size", "scale_dtype"), [("exact", None, None), ("planes", 16, "BF16")])
def test_blocks_do_not_show(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    block_weights: int,
    method: str,
    group_size: int | None,
    scale_dtype: str | None,
) -> None:
    monkeypatch.setattr(stream, "BLOCK_WEIGHTS", block_weights)
    settings = Settings(method, group_size=group_size, scale_dtype=scale_dtype)
    made = tmp_path / "made.safetensors"
    ticks: list[int] = []
    plan = plan_conversion(source, settings)
    result = convert(plan, made, ticks.append, jobs=1)
    assert sum(ticks) == plan.weights
    whole = {
        name: ternfmt.quantize(tensor, method, group_size=group_size, scale_dtype=scale_dtype and ml_dtypes.bfloat16)
        if name.endswith(".weight")
        else tensor
        for name, tensor in tensors().items()
    }
    metadata = {"format": "pt", "note": "kept"}
    ternfmt.save(tmp_path / "whole", whole, ancillary={"encoder": settings.to_json()}, metadata=metadata)
    assert made.read_bytes() == (tmp_path / "whole").read_bytes()
    assert result.scales_in_f32 == (("blocks.1.late.weight", "blocks.2.huge.weight") if scale_dtype is None else ())
    assert result.stored_bytes == sum(t.nbytes for t in whole.values())
    assert [layer.name for layer in result.layers] == [name for name in sorted(whole) if name.endswith(".weight")]


def test_an_error_names_the_row_of_the_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BLOCK_WEIGHTS", 16)
    weight = np.ones((20, 8), np.float32)
    weight[13, 5] = np.inf
    save_file({"x.weight": weight}, tmp_path / "dense.safetensors")
    with pytest.raises(WeightError) as caught:
        convert(plan_conversion(tmp_path / "dense.safetensors", Settings()), tmp_path / "made")
    assert (caught.value.name, caught.value.row, caught.value.column) == ("x.weight", 13, 5)
