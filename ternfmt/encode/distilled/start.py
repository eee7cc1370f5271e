"""A ternary model that distillation goes on from: for more steps, or with more planes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ...limits import PLANES_MAX
from ...pack import pack
from ...reader import Model, open_model
from ...tensor import Plane, TernaryTensor
from ..calibration import STARTS
from ..plan import Plan
from .settings import SettingsError


def open_start(path: Path, plan: Plan) -> Model:
    """Open the model, and refuse one that the plan's layers cannot start from.

    Args:
        path: a file or a folder of a ternary model, or of the pipeline that it is part of.
        plan: what is trained.

    Raises:
        SettingsError: it is not there; a layer is not ternary there, has another shape, more planes, groups, or
            another low-rank term.
        FormatError: it is no ternary model.
        OSError: it cannot be read.
    """
    if not path.exists():
        raise SettingsError(f"--start {path}: no such file or folder: expected {', '.join(STARTS)} or a ternary model")
    part = path / (plan.checkpoint.component or "")
    model = open_model(part if part.is_dir() else path)
    for name, layer in plan.layers.items():
        entry = model.document.entries.get(name)
        most = layer.planes if plan.dial is None else PLANES_MAX
        ranks = (None, layer.low_rank or None)
        shape = plan.recipes[name].shape
        if entry is not None and tuple(entry.shape) != shape:
            model.close()
            raise SettingsError(
                f"{path}: {name!r}: expected shape {list(shape)}, to start from, got {list(entry.shape)}"
            )
        term = f"a low-rank term of rank {layer.low_rank} or none" if layer.low_rank else "no low-rank term"
        if entry is None or entry.planes > most or entry.group_size is not None or entry.low_rank not in ranks:
            found = "none"
            if entry is not None:
                found = f"{entry.planes} planes, group size {entry.group_size}, rank {entry.low_rank}"
            model.close()
            raise SettingsError(
                f"{path}: {name!r}: expected at most {most} planes without groups, and {term}, to start from, got "
                f"{found}; give the options that it was made with, or another --start"
            )
    return model


def add_planes(tensor: TernaryTensor, planes: int) -> TernaryTensor:
    """Append planes whose codes are zeros, so that nothing changes; each has a third of the scale before it.

    A third is where the levels of two planes lie at equal distances.
    """
    made = list(tensor.planes)
    while len(made) < planes:
        codes = pack(np.zeros((tensor.n, tensor.k), np.int8))
        made.append(Plane(codes, made[-1].scale / made[-1].scale.dtype.type(3)))
    return replace(tensor, planes=tuple(made))
