"""A run's state on disk: whole or not at all, and refused by a run it does not belong to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or is of another run."""


def save(path: Path, state: dict[str, Any], run: str) -> None:
    """Write a checkpoint in place of the one before.

    Args:
        path: the file.
        state: tensors and numbers, nested.
        run: what the run is made of; `load` compares it.
    """
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save({"run": run, "state": state}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def load(path: Path, run: str) -> dict[str, Any] | None:
    """Read the checkpoint of a run; None if there is none.

    Raises:
        CheckpointError: the file is damaged, or of a run with other settings.
    """
    if not path.exists():
        return None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        of_run, state = found["run"], found["state"]
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({error}); remove it to start anew") from error
    if of_run != run:
        raise CheckpointError(
            f"{path}: expected a checkpoint of {run}, got one of {of_run}; "
            f"use the settings of that run, or another work folder, or remove the file"
        )
    result: dict[str, Any] = state
    return result
