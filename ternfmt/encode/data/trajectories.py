"""Calls of a diffusion transformer, made from the teacher's own pictures.

The teacher draws pictures once, with its own steps and guidance: their latents z_0 and the conditioning are kept. A
call takes some of them, fresh noise and fresh noise levels (`noise_schedule`). So the states are those that the model
was trained on, and nobody's pictures are needed (1.58-bit FLUX, arXiv:2412.18653, uses prompts alone, too).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..run.lock import FileLock
from .calls import LATENT, TIME, Progress, tensors_in
from .disk import check_disk
from .noise_schedule import draw_levels, noisy
from .prompts import SPLITS
from .recorder import TrajectoryError, probe, record
from .shards import EXTRA, Row, read_shard, samples_of, write_shard

ELEMENTS_PER_RUN = 1 << 20
"""Of latents, at most, in one run of a pipeline: 4 pictures of 1024 x 1024 of FLUX.1, 64 of the sample model."""

PICTURES_PER_RUN = 64
MEMORY = 2 << 30
"""Default limit on the bytes of a bank that is read into memory; a larger one is mapped."""


def record_trajectories(
    pipeline: Any,
    component: nn.Module,
    prompts: Sequence[str],
    count: int,
    folder: Path,
    *,
    options: Mapping[str, Any] | None = None,
    batch: int | None = None,
    seed: int = 0,
    check: Callable[[Sequence[tuple[Row, ...]]], None] = lambda samples: None,
    progress: Progress = lambda what, part: None,
) -> None:
    """Let the teacher draw pictures for prompts, and store what calls are made of; goes on where a run was killed.

    Args:
        pipeline: of diffusers, with one of the `SCHEDULERS`, on its device.
        component: its transformer.
        prompts: for picture k prompt k, from the beginning again where they end.
        count: pictures, at least; the last run is a full one, too.
        folder: one file a run; those that are there are kept, so it belongs to these arguments alone.
        options: further arguments of the pipeline's call.
        batch: pictures in a run; None fits them to the size of the latents.
        seed: of the noise.
        check: called with the samples of the first run before the others; refuses them by raising.
        progress: called after each run.

    Raises:
        DiskError: the files would not fit on the disk.
        BusyError: another process draws to this folder.
        TrajectoryError: as for `recorder.record`; the prompts are refused by the pipeline.
        OSError: writing fails.
    """
    options = dict(options or {})
    one, two = (first_call(pipeline, component, [prompts[n % len(prompts)] for n in range(k)], options) for k in (1, 2))
    for name, value in one.items():
        if isinstance(value, tuple) and not _equal_shapes(value, two.get(name)):
            raise TrajectoryError(f"argument {name!r}: a tuple of tensors that depend on the prompts cannot be stored")
    row_arguments = {name for name in one if _row_count(one[name]) != _row_count(two.get(name))}
    if batch is None:
        batch = max(1, min(PICTURES_PER_RUN, ELEMENTS_PER_RUN // one[LATENT][0].numel(), count))
    runs = math.ceil(count / batch)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:05}.safetensors" for number in range(runs)]
    missing = [path for path in paths if not path.is_file()]
    size = sum(tensor.nbytes for _, tensor in tensors_in(one))
    check_disk(folder, len(missing) * batch * size, f"{len(missing) * batch} pictures' latents and conditioning")
    with FileLock(folder / "lock", f"drawing pictures to {folder}") if missing else nullcontext():
        for number, path in enumerate(paths):
            if path in missing:
                chosen = [prompts[n % len(prompts)] for n in range(number * batch, (number + 1) * batch)]
                with _refusals(pipeline, options):
                    made = record(pipeline, component, chosen, options, _seed(seed, number))
                write_shard(path, made, chosen, row_arguments)
            if number == 0:
                check(samples_of(read_shard(path, in_memory=False)))
            progress(f"pictures of the teacher {(number + 1) * batch} of {runs * batch}", (number + 1) / runs)


def first_call(
    pipeline: Any, component: nn.Module, prompts: Sequence[str], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of the transformer's first call for some prompts.

    Raises:
        TrajectoryError: as for `recorder.probe`; the prompts are refused by the pipeline.
    """
    with _refusals(pipeline, options):
        return probe(pipeline, component, prompts, options)


class Trajectories:
    """Calls from recorded sampling.

    Args:
        folder: holds a folder for each split, as `record_trajectories` fills them.
        split: ``train`` or ``held-out``.
        seed: of noise, noise levels and choice.
        unconditioned: part of the rows whose conditioning is no prompt's (the empty prompt of guidance); None keeps
            the part that sampling has, one half with classifier-free guidance.
        shift: of a flow's noise levels: t = sigmoid(normal + log shift); None is the scheduler's.
        memory: bytes; a larger bank is mapped, not read.
        count: samples, at least; None takes all. The folder may hold more, for another conversion.

    Attributes:
        seed, stream: of what is drawn: the second one depends on the split.
        samples: the rows of each recorded sample.
        prompts: that the samples were drawn for.

    Raises:
        TrajectoryError: nothing is recorded there, or no row is (un)conditioned though a part is asked for.
    """

    def __init__(
        self,
        folder: Path,
        split: str = "train",
        *,
        seed: int = 0,
        unconditioned: float | None = None,
        shift: float | None = None,
        memory: int = MEMORY,
        count: int | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"no split {split!r}: expected one of {', '.join(SPLITS)}")
        paths = sorted((folder / split).glob("*.safetensors"))
        if not paths:
            raise TrajectoryError(f"{folder / split}: nothing is recorded there")
        in_memory = sum(path.stat().st_size for path in paths) <= memory
        rows: list[Row] = []
        self.samples: list[tuple[Row, ...]] = []
        for path in paths:
            if count is not None and len(self.samples) >= count:
                break
            of_file = read_shard(path, in_memory=in_memory)
            rows += of_file
            self.samples += samples_of(of_file)
        self.seed, self.stream, self._shift = seed, SPLITS.index(split), shift
        self._groups = _group(rows, unconditioned)
        weights = np.array([len(conditioned) + len(empty) for conditioned, empty, _ in self._groups], np.float64)
        self._ends = np.cumsum(weights / weights.sum())
        self.prompts = tuple(dict.fromkeys(row.prompt for row in rows))

    def call(self, number: int, size: int) -> dict[str, Any]:
        """As `Calls.call`; ``hidden_states`` and ``timestep`` are fresh, everything else is as the pipeline gave it."""
        rng = np.random.default_rng([self.seed, self.stream, number, size])
        group = min(int(np.searchsorted(self._ends, rng.random(), side="right")), len(self._groups) - 1)
        rows = _choose(rng, *self._groups[group], size)
        shift, signal = rows[0].shift if self._shift is None else self._shift, rows[0].signal
        levels = torch.from_numpy(draw_levels(rng, size, shift, signal))
        return call_of(rows, noisy(stack([row.latent for row in rows]), levels, rng, signal), levels)


def call_of(rows: Sequence[Row], states: Tensor, levels: Tensor) -> dict[str, Any]:
    """The call in which rows that are alike are asked about latents ``[B, ...]`` at noise levels ``[B]``."""
    first = rows[0]
    call: dict[str, Any] = {**first.values}
    call.update((name, stack([row.tensors[name] for row in rows])) for name in first.tensors)
    call.update((name, [row.lists[name] for row in rows]) for name in first.lists)
    call.update((name, _on_its_own(value)) for name, value in first.shared.items())
    if EXTRA in call:
        states = torch.cat([states, call.pop(EXTRA)], first.dimension)
    factor, offset = first.scale
    told = levels * factor + offset
    if first.signal is not None:
        told = told.round(decimals=3)  # whole steps, or thousandths
    return {**call, LATENT: states, TIME: told}


Group = tuple[list[Row], list[Row], float]
"""Rows that fit into one batch: those with a prompt's conditioning, those without, and the part of the latter."""


def _group(rows: Sequence[Row], unconditioned: float | None) -> list[Group]:
    prompts: dict[str, set[str]] = {}
    for row in rows:
        prompts.setdefault(row.conditioning, set()).add(row.prompt)
    groups: dict[str, tuple[list[Row], list[Row]]] = {}
    for row in rows:
        groups.setdefault(row.alike, ([], []))[len(prompts[row.conditioning]) > 1].append(row)
    part = unconditioned
    if part is None:
        return [(with_, without, len(without) / len(with_ + without)) for with_, without in groups.values()]
    if not 0 <= part <= 1:
        raise ValueError(f"unconditioned: expected a part from 0 to 1, got {part}")
    found = [(w, o, part) for w, o in groups.values() if (w or part == 1) and (o or part == 0)]
    if not found:
        raise TrajectoryError(f"unconditioned {part}: sampling has no such rows")
    return found


def _choose(rng: np.random.Generator, conditioned: list[Row], empty: list[Row], part: float, size: int) -> list[Row]:
    """Rows of a batch, none twice where there are enough."""
    without = int(part * size + rng.random())  # the right number on average

    def some(rows: list[Row], count: int) -> list[Row]:
        return [rows[n] for n in rng.choice(len(rows), count, replace=count > len(rows))] if count else []

    without = min(max(without, 0 if conditioned else size), size if empty else 0)
    return some(empty, without) + some(conditioned, size - without)


def stack(rows: Sequence[Tensor]) -> Tensor:
    """A batch of rows; numbers that are not whole as F32."""
    stacked = torch.stack(list(rows))
    return stacked.float() if stacked.is_floating_point() else stacked


def _on_its_own(value: Any) -> Any:
    """A copy that a call's receiver may change; numbers that are not whole as F32."""
    if isinstance(value, tuple):
        return tuple(map(_on_its_own, value))
    return value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)


@contextmanager
def _refusals(pipeline: Any, options: Mapping[str, Any]) -> Iterator[None]:
    """What a pipeline says of its prompts and options, as a TrajectoryError."""
    try:
        yield
    except TrajectoryError:
        raise
    except (ValueError, TypeError) as error:
        raise TrajectoryError(
            f"{type(pipeline).__name__} fails with a prompt, or with the options {dict(options)}: {error}: "
            "a pipeline that does not know every word needs --prompts"
        ) from error


def _equal_shapes(one: tuple[Any, ...], other: Any) -> bool:
    """Whether the tensors of two tuples, if they hold any, have equal shapes."""
    shapes = [[tuple(t.shape) for _, t in tensors_in(value)] for value in (one, other)]
    return shapes[0] == shapes[1]


def _row_count(value: Any) -> int | None:
    if isinstance(value, Tensor):
        return len(value) if value.ndim else None
    return len(value) if isinstance(value, (list, tuple)) else None


def _seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)
