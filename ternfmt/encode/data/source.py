"""What data depends on: the checkpoint as it is on the disk, and the prompts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from random import Random
from typing import Any

from ..plan import Plan
from .model import LoadedModel
from .prompts import make_prompts, read_prompts, split_prompts


class DataError(ValueError):
    """A checkpoint lacks what is needed to run it on prompts or texts."""


def prompts_for(path: Path | None, kind: str, split: str, wanted: int, seed: int) -> list[str]:
    """Prompts of a split: all of the file's, shuffled, or as many as are wanted of the templates'."""
    if path is None:
        return make_prompts(kind, split, wanted, seed)
    chosen = split_prompts(read_prompts(path), split, path)
    Random(seed).shuffle(chosen)  # a file is often in order
    return chosen


def data_digest(plan: Plan, loaded: LoadedModel, *settings: Any) -> str:
    """Of a checkpoint's files as they are, and of settings."""
    what = [{n: list(s) for n, s in plan.stamps.items()}, str(loaded.dtype), *settings]
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:12]
