"""FLUX.1-dev's size: the checkpoint that the full-size run is made with, at small size, and bounded memory."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import ternfmt
from ternfmt.container import build_header, nbytes
from ternfmt.encode.convert import convert
from ternfmt.encode.plan import plan_conversion
from ternfmt.encode.settings import LayerSettings, Settings

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    """The script, which is no part of a package."""
    spec = spec_from_file_location("make_flux_checkpoint", ROOT / "bench" / "make_flux_checkpoint.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_names_and_shapes_are_those_of_the_original(maker: ModuleType) -> None:
    shapes = dict(maker.flux_tensors(3072, 19, 38))
    assert len(shapes) == 1160
    assert sum(nbytes("BF16", shape) for shape in shapes.values()) == 23_802_816_640
    sizes = [sum(nbytes("BF16", shapes[name]) for name in names) for names in maker.split(shapes, maker.SHARD_BYTES)]
    assert [round(size / 1e9, 1) for size in sizes] == [10.0, 9.9, 3.9]
    blocks = {n: s for n, s in shapes.items() if "transformer_blocks." in n and len(s) == 2}
    assert (len(blocks), sum(map(math.prod, blocks.values()))) == (494, 11_834_228_736)
    stored = [LayerSettings().stored(name, shape) for name, shape in blocks.items()]
    after = sum(nbytes(*info) for parts in stored for info in parts.values())
    after += sum(nbytes("BF16", shape) for name, shape in shapes.items() if name not in blocks)
    assert after == 3_098_986_624
    assert 23_802_816_640 / after > 7.68


def test_a_small_one_converts_block_linears_only(maker: ModuleType, tmp_path: Path) -> None:
    total = maker.make_checkpoint(tmp_path / "flux", hidden=128, double=1, single=2, shard_bytes=1_500_000)
    assert len(list((tmp_path / "flux").glob("*.safetensors"))) > 1
    plan = plan_conversion(tmp_path / "flux", Settings())
    assert plan.policy == "flux1"
    assert plan.source_bytes == total
    assert len(plan.ternary) == 14 + 2 * 6
    result = convert(plan, tmp_path / "ternary")
    assert result.files == ("diffusion_pytorch_model.safetensors",)
    assert ternfmt.validate(tmp_path / "ternary", digests=True).uncovered == 0
    config = json.loads((tmp_path / "ternary" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "ternfmt"
    assert all(6.8 < layer.snr_db < 7.6 for layer in result.layers)  # Gaussian rows: 7.21 in the limit


def test_memory_does_not_grow_with_the_tensor(tmp_path: Path) -> None:
    rows = 1 << 14
    stored = {"a.weight": ("BF16", (rows, 8192)), "embed.weight": ("BF16", (rows, 512))}
    header = build_header(stored, {"format": "pt"})
    with (tmp_path / "dense.safetensors").open("wb") as stream:
        stream.write(header)
        stream.truncate(len(header) + sum(nbytes(*info) for info in stored.values()))  # zeros that take no space
    command = [sys.executable, "-m", "ternfmt", "convert", "dense.safetensors", "ternary.safetensors", "--json"]
    done = subprocess.run(
        [*command, "--jobs", "2"], cwd=tmp_path, capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["ternary"] == ["a.weight"]
    assert 0 < summary["peak_rss_bytes"] < 200e6  # the tensor has 268 MB
    with ternfmt.open(tmp_path / "ternary.safetensors") as model:
        assert not np.any(model["a.weight"].scale)
