"""A ternary model that distillation goes on from: one that another run has made, with more steps to come."""

from __future__ import annotations

from pathlib import Path

from ...reader import Model, open_model
from ..plan import Plan
from .settings import SettingsError


def open_start(path: Path, plan: Plan) -> Model:
    """Open the model, and refuse one that the plan's layers cannot start from.

    Args:
        path: a file or a folder of a ternary model, or of the pipeline that it is part of.
        plan: what is trained.

    Raises:
        SettingsError: a layer is not ternary there, has another number of planes, or groups; or planes are not known
            before the dial is turned.
        FormatError: it is no ternary model.
        OSError: it cannot be read.
    """
    if plan.dial is not None:
        raise SettingsError(f"--ratio chooses planes anew, which those of --start {path} would not fit")
    part = path / (plan.checkpoint.component or "")
    model = open_model(part if part.is_dir() else path)
    for name, layer in plan.layers.items():
        entry = model.document.entries.get(name)
        if entry is None or entry.planes != layer.planes or entry.group_size is not None:
            found = "none" if entry is None else f"{entry.planes} planes, group size {entry.group_size}"
            model.close()
            raise SettingsError(
                f"{path}: {name!r}: expected {layer.planes} planes without groups to start from, got {found}; "
                f"give the options that it was made with, or another --start"
            )
    return model
