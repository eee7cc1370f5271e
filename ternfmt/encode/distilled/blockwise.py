"""A block at a time, for models that do not fit: each learns to turn the student's inputs into the teacher's outputs.

What a block is called with in the student, whose earlier blocks are ternary already, and what it answers in the
teacher lie on disk. One model is enough for both: only the blocks differ, and finished ones are not run again
(`data.replay`). In the memory of the accelerator is one block with its gradients and optimizer (``block_device``).
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..data.blocks import Block, runs_on
from ..data.calls import Calls, Progress, map_tensors, tensors_in
from ..data.checks import prepare_blocks
from ..data.disk import check_disk
from ..data.replay import Replay
from ..run.solution import Solution, Solved
from ..settings import LayerSettings
from .log import Log, duration
from .losses import check_finite, feature_loss
from .optimizers import Optimizers
from .schedule import hardness
from .settings import DistilledSettings
from .student import Student, make_student, put_in

if TYPE_CHECKING:
    from ..data.model import LoadedModel

PREFIX = "block-"
"""Parts of the solution are named this and the number of the block."""

Sample = tuple[tuple[Any, ...], dict[str, Any], list[torch.Tensor]]
"""Arguments of a block in the student, and the tensors that it answers in the teacher."""


class BlockCalls(Sequence[dict[str, Any]]):
    """Calls to train with, then calls to validate with, in batches of one size."""

    def __init__(self, calls: Calls, held_out: Calls, settings: DistilledSettings) -> None:
        """Count them; they are made when they are asked for."""
        self.size = settings.micro_batch or settings.batch
        self.training = -(-settings.samples // self.size)
        self._calls, self._held_out, self._validation = calls, held_out, settings.validation_calls

    def __len__(self) -> int:
        return self.training + self._validation

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(f"call {number} of {len(self)}")
        if number < self.training:
            return self._calls.call(number, self.size)
        return self._held_out.call(number - self.training, self.size)


def solve_blocks(
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
) -> None:
    """Solve every block that is not in the solution yet; a part of it holds one block.

    Raises:
        BlockError: the model's blocks do not run one after another, each once.
        ActivationError, NotFiniteError: an activation or the loss is NaN or Inf.
        DiskError: activations would not fit on the disk.
    """
    together = BlockCalls(calls, held_out, settings)
    blocks = [b for b in prepare_blocks(loaded, together[0]).blocks if not layers.keys().isdisjoint(b.linears)]
    if solution.parts() >= {_part(number) for number in range(len(blocks))}:
        return
    teacher = Replay(loaded.model, blocks, together, work / "teacher", resume=True)
    student = Replay(loaded.model, blocks, together, work / "student", resume=True)
    log = Log(work / "log.jsonl", float("inf"))
    began, done_before = time.monotonic(), len(solution.parts())

    def tell(number: int, what: str, share: float) -> None:
        done = number + share
        left = (time.monotonic() - began) / (done - done_before) * (len(blocks) - done)
        which = f"block {number + 1} of {len(blocks)}: {blocks[number].name}"
        progress(f"{which}, {what}, {duration(left)} left", done / len(blocks))

    for number, block in enumerate(blocks):
        part = _part(number)
        if part not in solution.parts():
            with runs_on([block.module], loaded.block_place(settings.block_device)):
                samples = keep_samples(loaded.model, block, number, len(together), student, teacher, work / "samples")
            solved, before, after = solve_block(
                loaded,
                block,
                samples,
                together.training,
                layers,
                settings,
                dense_dtypes,
                start,
                number,
                partial(tell, number),
            )
            solution.add(part, solved)
            log.add(step=number, block=block.name, error_before=before, error=after)
            tell(number, f"held-out error {before:.4g} -> {after:.4g}", 1.0)
        finish_block(loaded, block, number, student, teacher, solution, settings)
    shutil.rmtree(work / "samples", ignore_errors=True)
    for folder in ("teacher", "student"):
        shutil.rmtree(work / folder, ignore_errors=True)


def _part(number: int) -> str:
    return f"{PREFIX}{number:03d}"


def keep_samples(
    model: nn.Module, block: Block, number: int, count: int, student: Replay, teacher: Replay, folder: Path
) -> list[Path]:
    """Write what a block gets in the student and answers in the teacher, a file for each of ``count`` calls.

    Raises:
        DiskError: the first one is too large for the others to fit.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files = []
    with torch.no_grad():
        for index, ((args, kwargs), (inputs, options)) in enumerate(
            zip(student.inputs(number), teacher.inputs(number), strict=True)
        ):
            target = [t for _, t in tensors_in(model.get_submodule(block.name)(*inputs, **options))]
            files.append(folder / f"{index}.pt")
            torch.save(map_tensors(_own, (args, kwargs, target)), files[-1])
            if index == 0:
                needed = (count - 1) * files[0].stat().st_size
                check_disk(folder, needed, f"inputs and answers of block {block.name!r} in {count} calls")
    return files


def solve_block(
    loaded: LoadedModel,
    block: Block,
    samples: Sequence[Path],
    training: int,
    layers: Mapping[str, LayerSettings],
    settings: DistilledSettings,
    dense_dtypes: Mapping[str, str],
    start: Mapping[str, Solved] | None,
    number: int,
    progress: Progress = lambda what, share: None,
) -> tuple[dict[str, Solved], float, float]:
    """Train block ``number`` with the first ``training`` of its samples, which `keep_samples` has written.

    Progress is told step and loss.

    Returns:
        Its solved tensors, and its relative error on the other samples before training and as written.
    """
    student = block_student(loaded, block, layers, settings, dense_dtypes, start)
    device = loaded.block_place(settings.block_device)
    student.model.to(device)
    optimizers = Optimizers(student, settings)
    micros = settings.batch // (settings.micro_batch or settings.batch)
    rng = np.random.default_rng([settings.seed, number])
    order: list[int] = []
    before = _validate(student, samples[training:], device)
    for step in range(settings.steps):
        optimizers.train_codes(step)
        student.soften(hardness(settings, step))
        total = 0.0
        for _ in range(micros):
            if not order:
                order = rng.permutation(training).tolist()
            loss = block_loss(student.model, _load(samples[order.pop()], device), device)
            check_finite(loss, step)
            (loss / micros).backward()  # type: ignore[no-untyped-call]
            total += loss.item() / micros
        optimizers.step(step)
        student.soften(1.0)
        progress(f"step {step + 1} of {settings.steps}, loss {total:.4g}", (step + 1) / settings.steps)
    inside = {name: dense_dtypes[name] for name in student.dense}
    student.round_dense(inside)
    return student.solved(inside), before, _validate(student, samples[training:], device)


def block_loss(module: nn.Module, sample: Sample, device: torch.device) -> torch.Tensor:
    """Mean relative squared error of a block's answers."""
    args, kwargs, target = sample
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        output = module(*args, **kwargs)
    return feature_loss([tensor for _, tensor in tensors_in(output)], target)


def block_student(
    loaded: LoadedModel,
    block: Block,
    layers: Mapping[str, LayerSettings],
    settings: DistilledSettings,
    dense_dtypes: Mapping[str, str],
    start: Mapping[str, Solved] | None,
) -> Student:
    """A student of one block."""
    return make_student(loaded.alone(block), layers, settings, dense_dtypes, start)


def finish_block(
    loaded: LoadedModel,
    block: Block,
    number: int,
    student: Replay,
    teacher: Replay,
    solution: Solution,
    settings: DistilledSettings,
) -> None:
    """Let both replays pass a block: the teacher's as it is, the student's with what was solved."""
    device = loaded.block_place(settings.block_device)
    if teacher.finished == number:
        with runs_on([block.module], device):
            teacher.finish(number)
    if student.finished == number:
        names = {f"{block.name}.{path}": path for path, _ in block.module.named_parameters()}
        solved = {}
        for name, path in names.items():
            tensor = loaded.names.get(name, name)
            if tensor in solution:
                solved[path] = solution[tensor]
        module = copy.deepcopy(block.module)
        put_in(module, solved)
        with _in_place(loaded.model, block.name, module), runs_on([module], device):
            student.finish(number)


@contextmanager
def _in_place(model: nn.Module, name: str, module: nn.Module) -> Iterator[None]:
    """Another module under a name for a while."""
    before = model.get_submodule(name)
    model.set_submodule(name, module)
    try:
        yield
    finally:
        model.set_submodule(name, before)


@torch.no_grad()
def _validate(student: Student, samples: Sequence[Path], device: torch.device) -> float:
    losses = [block_loss(student.model, _load(path, device), device).item() for path in samples]
    return sum(losses) / len(losses)


def _load(path: Path, device: torch.device) -> Sample:
    sample: Sample = map_tensors(
        lambda t: t.to(device, torch.float32) if t.is_floating_point() else t.to(device),
        torch.load(path, weights_only=True),
    )
    return sample


def _own(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().clone()
