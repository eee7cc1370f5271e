"""What data depends on: the checkpoint as it is on the disk, and the prompts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from random import Random
from typing import Any

from ..plan import Plan
from ..source.checkpoint import pipeline_components
from .prompts import make_prompts, read_prompts, split_prompts

_PLACES, _PIECE = 64, 1 << 16
"""Of a file, so many pieces of so many bytes are looked at: its header, and rows of most of its tensors."""

_LOADED = (".json", ".safetensors", ".bin", ".model", ".txt", ".py")
"""Ends of the names of files that a model or a pipeline is loaded from."""


class DataError(ValueError):
    """A checkpoint lacks what is needed to run it on prompts or texts."""


def prompts_for(path: Path | None, kind: str, split: str, wanted: int, seed: int) -> list[str]:
    """Prompts of a split: all of the file's, shuffled, or as many as are wanted of the templates'."""
    if path is None:
        return make_prompts(kind, split, wanted, seed)
    chosen = split_prompts(read_prompts(path), split, path)
    Random(seed).shuffle(chosen)  # a file is often in order
    return chosen


def data_digest(plan: Plan, *settings: Any) -> str:
    """Of the files of a checkpoint and of the pipeline that it is part of, wherever they lie, and of settings.

    Of each file its size and some of its bytes are looked at: all would take as long as reading the checkpoint.
    """
    checkpoint = plan.checkpoint
    files, folders = set(checkpoint.files), [checkpoint.folder] if checkpoint.folder else []
    if checkpoint.pipeline:  # not all that lies in it: what is made may, too
        folders += [checkpoint.pipeline / name for name in ("", *pipeline_components(checkpoint.pipeline))]
    for folder in folders:
        files |= {path for path in folder.glob("*") if path.suffix in _LOADED and path.is_file()}
    what = [sorted(map(_looks, files)), *settings]
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _looks(path: Path) -> tuple[str, int, str]:
    size, digest = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as file:
        for place in range(_PLACES):
            file.seek(max(size - _PIECE, 0) * place // (_PLACES - 1))
            digest.update(file.read(_PIECE))
    return path.name, size, digest.hexdigest()
