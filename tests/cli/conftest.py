"""Small checkpoints, and the command line called in process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from ternfmt.cli import main


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Call ``ternfmt ARGS...``."""

    def call(*args: str | Path) -> Result:
        capsys.readouterr()
        try:
            code = main([str(a) for a in args])
        except SystemExit as stop:  # argparse reports usage errors so
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


def dense_tensors(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)

    def gaussian(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(ml_dtypes.bfloat16)

    return {
        "blocks.0.attn.to_q.weight": gaussian(24, 30),
        "blocks.0.attn.to_q.bias": gaussian(24),
        "blocks.0.norm1.linear.weight": gaussian(16, 24),
        "blocks.0.norm2.weight": gaussian(24),
        "blocks.1.proj.weight": gaussian(8, 33),
        "embed_tokens.weight": gaussian(40, 24),
        "conv.weight": gaussian(4, 3, 2, 2),
        "position_ids": np.arange(5).reshape(1, 5),
    }


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """One dense safetensors file."""
    path = tmp_path / "dense.safetensors"
    save_file(dense_tensors(), path, metadata={"format": "pt", "modelspec.title": "a title"})
    return path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A folder of two shards with index, config and a tokenizer file, plus weights of another format."""
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    tensors = dense_tensors()
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[:4], names[4:]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    total = sum(t.nbytes for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    (folder / "config.json").write_text(json.dumps({"model_type": "x", "limit": float("inf")}))
    (folder / "sub" / "tokenizer.txt").write_text("kept")
    (folder / "pytorch_model.bin").write_bytes(b"weights of another format")
    return folder
