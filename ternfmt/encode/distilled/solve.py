"""Distils a model: `distill` is what `ternfmt convert --method distilled` calls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.calls import Calls, Progress
from ..data.disk import check_disk
from ..data.own_sampling import OwnSampling
from ..run.solution import Solution, Solved
from ..run.work_folder import write_json
from ..settings import LayerSettings
from .accounting import check_memory, choose_blockwise, inventory
from .blockwise import solve_blocks
from .parallel import Ranks, ranks
from .settings import DistilledSettings, SettingsError, check_layers
from .student import make_student
from .train import CHECKPOINT, Trainer, micro_batch, train

if TYPE_CHECKING:
    from ..data.model import LoadedModel

PART = "distilled"
"""The one part of the solution of a run from end to end."""

DECIDED = "blockwise.json"
"""In the work folder: what was decided by the memory there was, for a run that is resumed."""


def distill(
    loaded: LoadedModel,
    calls: Calls,
    held_out: Calls,
    layers: Mapping[str, LayerSettings],
    solution: Solution,
    settings: DistilledSettings,
    work: Path,
    progress: Progress,
    dense_dtypes: Mapping[str, str],
    start: Mapping[str, Solved] | None = None,
    *,
    blockwise: bool | None = None,
) -> None:
    """Train a ternary student to answer as the teacher does, and put it into the solution.

    A run that was killed goes on when it is started again with the same arguments: end to end from its last
    checkpoint with the numbers it would have had, block-wise from the first block that is not solved. Under
    ``torchrun`` (see `parallel`) all ranks call this; the first one writes.

    Args:
        loaded: the teacher, which is not changed.
        calls: to train with.
        held_out: to validate with; prompts that ``calls`` has not.
        layers: settings of the ternary tensors: planes, scale dtype.
        solution: takes a `TernaryTensor` for each, and the dense tensors that changed.
        settings: of the training.
        work: a folder for checkpoints, caches and ``log.jsonl``.
        progress: is told what is going on, and which share is done.
        dense_dtypes: dtype in the checkpoint of every dense tensor; those that are not named are not trained.
        start: tensors to start from, unless ``settings.start`` is ``exact``.
        blockwise: what `check_distilled` has said, before there was data; None asks it now.

    Raises:
        SettingsError: something is asked for that cannot be; a layer takes part in no call.
        NotFiniteError: the loss is NaN or Inf.
        CheckpointError: the work folder belongs to another run.
        DiskError: there is no room for two checkpoints.
    """
    if settings.start != "exact" and start is None:
        raise SettingsError(f"start: {settings.start!r} needs tensors to start from, and there are none")
    here = ranks(loaded.device)
    if PART in solution.parts():
        return
    if blockwise is None:
        own = isinstance(calls, OwnSampling)
        blockwise = check_distilled(loaded, layers, settings, work, dense_dtypes, own_sampling=own)
    work.mkdir(parents=True, exist_ok=True)
    if settings.blockwise is None and here.size == 1:
        write_json(work / DECIDED, {"blockwise": blockwise})
    if blockwise:
        if settings.blockwise is None:
            progress("block by block: there is no memory for the whole student beside its teacher", 0.0)
        solve_blocks(loaded, calls, held_out, layers, solution, settings, work, progress, dense_dtypes, start)
        return
    student = make_student(loaded, layers, settings, dense_dtypes, start)
    trainer = Trainer(loaded, student, calls, settings, here)
    train(trainer, held_out, work, progress, dense_dtypes, describe_run(layers, settings))
    if here.is_first:
        solution.add(PART, student.solved(dense_dtypes))
    here.wait()


def check_distilled(
    loaded: LoadedModel,
    layers: Mapping[str, LayerSettings],
    settings: DistilledSettings,
    work: Path,
    dense_dtypes: Mapping[str, str],
    *,
    own_sampling: bool,
) -> bool:
    """Refuse what can be seen to be wrong without data; arguments are those of `distill`. Nothing is written.

    Returns:
        True to train block by block.

    Raises:
        SettingsError, DiskError: as for `distill`; there is too little memory.
    """
    check_layers(layers, loaded.linears)
    if not layers:
        raise SettingsError("distilled: expected at least one ternary layer, got none")
    here = ranks(loaded.device)
    micro_batch(settings, here)
    blockwise = _is_blockwise(loaded, layers, settings, work, here)
    if blockwise and own_sampling:
        raise SettingsError(
            "block by block there is no student that could sample before the last block is solved: "
            "leave --own-sampling out, or --block-device; without, there must be memory for the whole student"
        )
    if blockwise and settings.feature_weight:
        raise SettingsError(
            "block by block blocks' outputs are all there is to the loss: leave --feature-weight out, or, for training "
            "from end to end, --block-device"
        )
    if blockwise and here.size > 1:
        raise SettingsError(f"block by block there is one process, but torchrun has started {here.size}")
    check_memory(loaded, layers, settings, blockwise=blockwise)
    if not blockwise:
        _check_disk(loaded, layers, settings, work, dense_dtypes)
    return blockwise


def describe_run(layers: Mapping[str, LayerSettings], settings: DistilledSettings) -> str:
    """What checkpoints are compared by: all that has a bearing on the numbers."""
    own = asdict(settings)
    for name in ("checkpoint_seconds", "validate_every", "validation_calls", "compile", "recompute"):
        del own[name]
    return json.dumps({"settings": own, "layers": {n: layer.to_json() for n, layer in layers.items()}}, sort_keys=True)


def _is_blockwise(
    loaded: LoadedModel,
    layers: Mapping[str, LayerSettings],
    settings: DistilledSettings,
    work: Path,
    here: Ranks,
) -> bool:
    """Whether to distil a block at a time. What was once decided by the memory there was stays so in this folder."""
    if settings.blockwise is not None:
        return settings.blockwise
    if here.size > 1:
        return False
    decided = work / DECIDED
    if decided.exists():
        return bool(json.loads(decided.read_bytes())["blockwise"])
    return choose_blockwise(loaded, layers, settings)


def _check_disk(
    loaded: LoadedModel,
    layers: Mapping[str, LayerSettings],
    settings: DistilledSettings,
    work: Path,
    dense_dtypes: Mapping[str, str],
) -> None:
    """A checkpoint is written beside the one before, so that two must fit: what is trained, and the optimizer's."""
    memory = inventory(loaded, layers, settings, dense_dtypes).memory(settings, teacher_bytes=0)
    there = work / CHECKPOINT
    needed = 2 * (memory.gradients + memory.optimizer) - (there.stat().st_size if there.exists() else 0)
    check_disk(work, needed, "two checkpoints", "choose another disk")
