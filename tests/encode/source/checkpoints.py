"""Small checkpoints in the shapes that people have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

TENSORS: dict[str, Any] = {
    "blocks.0.q.weight": np.arange(24, dtype=np.float32).reshape(4, 6),
    "blocks.0.q.bias": np.arange(4, dtype=np.float16),
    "blocks.1.q.weight": -np.arange(24, dtype=np.float32).reshape(4, 6),
    "head.weight": np.ones((3, 4), np.float32),
}


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_model(
    folder: Path,
    stem: str = "diffusion_pytorch_model",
    config: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Any] = TENSORS,
) -> Path:
    """A model folder with one file."""
    write_json(folder / "config.json", config if config is not None else {"_class_name": "TinyModel"})
    save_file(dict(tensors), folder / f"{stem}.safetensors", metadata={"format": "pt"})
    return folder


def write_sharded(folder: Path, stem: str = "diffusion_pytorch_model", variant: str = "") -> Path:
    """Weights in two shards and an index."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(TENSORS)
    weight_map = {}
    for number, part in enumerate((names[:2], names[2:]), start=1):
        file = f"{stem}{variant}-0000{number}-of-00002.safetensors"
        save_file({name: TENSORS[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    write_json(folder / f"{stem}.safetensors.index{variant}.json", {"metadata": {}, "weight_map": weight_map})
    return folder


def write_pipeline(folder: Path) -> Path:
    """A pipeline of a transformer, a text encoder and a tokenizer, as a Hub repository has it."""
    parts = {
        "transformer": ["diffusers", "TinyModel"],
        "text_encoder": ["transformers", "TinyEncoder"],
        "tokenizer": ["transformers", "TinyTokenizer"],
        "safety_checker": [None, None],
    }
    write_json(folder / "model_index.json", {"_class_name": "TinyPipeline", **parts})
    write_model(folder / "transformer")
    write_model(folder / "text_encoder", "model", {"architectures": ["TinyEncoder"]})
    write_json(folder / "tokenizer" / "vocab.json", {"a": 0})
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n")
    (folder / "LICENSE").write_text("the licence")
    save_file(TENSORS, folder / "tiny-in-one.safetensors")
    return folder
