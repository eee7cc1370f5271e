"""Recorded sampling on disk: one safetensors file for each run of the pipeline.

A file holds ``z_0`` ``[B, ...]`` and, for each call of the transformer in a step, its conditioning: arguments that
have a row for each row of the batch (each different row once, so the empty prompt of guidance is there once), arguments
that all rows share, and plain values. What is no tensor stands in the metadata as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .calls import LATENT, TIME
from .recorder import Recording, TrajectoryError, extra_dimension, time_scale

EXTRA = "extra channels"
"""Conditioning that is part of ``hidden_states``; stored as an argument of rows."""

_LATENTS = "z_0"


@dataclass(frozen=True, eq=False)
class Row:
    """One row of a call: a sample's latent and what the transformer was told.

    Attributes:
        latent: z_0, ``[...]``.
        tensors: arguments of rows, each ``[...]``.
        lists: arguments of rows that are no tensors.
        shared: arguments that all rows of the batch share: tensors, or tuples of them.
        values: plain arguments.
        dimension: of a batch of latents, along which `EXTRA` is appended.
        scale: (factor, offset) of what the transformer is told of a noise level.
        shift: of noise levels.
        signal: of a diffusion, `noise_schedule.signal_of`; None for a flow.
        levels: noise level of every step of sampling, and 0, where it ends.
        mix: what its answer is multiplied with in what sampling goes by (`Recording.mix`), or None.
        sample: which sample of its file it is of.
        prompt: what the sample was drawn for.
        conditioning: digest of everything of this row but the latent.
        alike: rows with equal ones fit into one batch.
    """

    latent: Tensor
    tensors: Mapping[str, Tensor]
    lists: Mapping[str, Any]
    shared: Mapping[str, Tensor | tuple[Tensor, ...]]
    values: Mapping[str, Any]
    dimension: int
    scale: tuple[float, float]
    shift: float
    signal: tuple[float, ...] | None
    levels: tuple[float, ...]
    mix: float | None
    sample: int
    prompt: str
    conditioning: str
    alike: str


def write_shard(path: Path, made: Recording, prompts: list[str], row_arguments: Collection[str]) -> None:
    """Write a run, so that the file is there whole or not at all.

    Args:
        path: the file.
        made: the run.
        prompts: its B prompts.
        row_arguments: names of the arguments that have a row for each row of the batch.

    Raises:
        TrajectoryError: the run is not of the kind that `Trajectories` can make calls of.
        OSError: writing fails.
    """
    assert made.final is not None
    assert made.samples is not None
    tensors: dict[str, Tensor] = {_LATENTS: made.final.contiguous()}
    calls: list[dict[str, Any]] = []
    for number, call in enumerate(made.calls):
        dimension, extra = extra_dimension(call[LATENT], made.samples)
        rows = len(call[LATENT])
        arguments = {name: value for name, value in call.items() if name not in (LATENT, TIME, "return_dict")}
        if extra is not None:
            arguments[EXTRA] = extra
        told: dict[str, Any] = {"rows": rows, "dimension": dimension}
        told.update((kind, {}) for kind in ("of_rows", "lists", "shared", "shared_tuples", "values"))
        for name, value in arguments.items():
            key = f"{number}.{name}"
            of_rows = name in row_arguments or name == EXTRA
            if of_rows and isinstance(value, (Tensor, list, tuple)) and len(value) not in (1, rows):
                raise TrajectoryError(
                    f"argument {name!r}: {len(value)} rows, expected one, or {rows} as {LATENT!r} has"
                )
            if isinstance(value, Tensor) and of_rows:
                different, which, digests = _different(value)
                which *= rows // len(value)  # one row is broadcast
                tensors[key] = different
                told["of_rows"][name] = {"which": which, "digests": digests}
            elif isinstance(value, Tensor):
                tensors[key] = value.contiguous()
                told["shared"][name] = _digest(value)
            elif isinstance(value, (list, tuple)) and of_rows:
                told["lists"][name] = list(value) * (rows // len(value))
            elif isinstance(value, tuple) and value and all(isinstance(part, Tensor) for part in value):
                # Such as the cosines and sines of rotary embeddings.
                tensors.update((f"{key}.{place}", part.contiguous()) for place, part in enumerate(value))
                told["shared_tuples"][name] = [_digest(part) for part in value]
            else:
                told["values"][name] = value
        calls.append(told)
    header = {"prompts": prompts, "scale": time_scale(made.times), "shift": made.shift, "calls": calls}
    header |= {"levels": made.levels, "mix": made.mix, "signal": made.signal}
    try:
        text = json.dumps(header)
    except TypeError as error:
        raise TrajectoryError(f"the transformer is called with something that cannot be stored: {error}") from error
    part = path.with_name(f"{path.name}.{os.getpid()}.partial")
    save_file(tensors, part, {"recording": text})
    os.replace(part, path)


def read_shard(path: Path, *, in_memory: bool) -> list[Row]:
    """The rows of a file; they share its tensors, which are mapped unless they are to be ``in_memory``.

    Raises:
        TrajectoryError: it is not such a file.
        OSError: it cannot be read.
    """
    try:
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["recording"])
            levels, mix = header["levels"], header["mix"]  # recordings of earlier versions have none
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (KeyError, TypeError, ValueError) as error:
        raise TrajectoryError(f"{path}: not a recording of sampling: {error!r}: remove it") from error
    if in_memory:
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    found, samples, parts = [], len(header["prompts"]), 0
    signal = tuple(header["signal"]) if header.get("signal") else None
    for number, told in enumerate(header["calls"]):
        for row in range(told["rows"]):
            part, sample = divmod(row, samples)
            of_rows = {
                name: tensors[f"{number}.{name}"][entry["which"][row]] for name, entry in told["of_rows"].items()
            }
            digests = {name: entry["digests"][entry["which"][row]] for name, entry in told["of_rows"].items()}
            lists = {name: value[row] for name, value in told["lists"].items()}
            shared: dict[str, Any] = {name: tensors[f"{number}.{name}"] for name in told["shared"]}
            tuples = told.get("shared_tuples", {})
            for name, digests_of in tuples.items():
                shared[name] = tuple(tensors[f"{number}.{name}.{place}"] for place in range(len(digests_of)))
            latent = tensors[_LATENTS][sample]
            alike = [
                list(latent.shape),
                {name: list(value.shape) for name, value in of_rows.items()},
                told["shared"],
                tuples,
                told["values"],
                sorted(lists),
                told["dimension"],
                header["scale"],
                header["shift"],
                levels,
            ]
            found.append(
                Row(
                    latent=latent,
                    tensors=of_rows,
                    lists=lists,
                    shared=shared,
                    values=told["values"],
                    dimension=told["dimension"],
                    scale=tuple(header["scale"]),
                    shift=header["shift"],
                    signal=signal,
                    levels=tuple(levels),
                    mix=mix[parts + part] if mix else None,
                    sample=sample,
                    prompt=header["prompts"][sample],
                    conditioning=json.dumps([digests, lists, told["shared"], tuples, told["values"]], sort_keys=True),
                    alike=json.dumps(alike, sort_keys=True),
                )
            )
        parts += told["rows"] // samples
    return found


def samples_of(rows: Sequence[Row]) -> list[tuple[Row, ...]]:
    """The rows of each sample of one file: what the transformer is asked about one state, call after call."""
    samples: dict[int, list[Row]] = {}
    for row in rows:
        samples.setdefault(row.sample, []).append(row)
    return [tuple(of_sample) for of_sample in samples.values()]


def _different(rows: Tensor) -> tuple[Tensor, list[int], list[str]]:
    """The different rows of a tensor, which of them each row is, and their digests."""
    places: dict[str, int] = {}
    first: list[int] = []
    which = []
    for number, row in enumerate(rows):
        digest = _digest(row)
        if digest not in places:
            places[digest] = len(first)
            first.append(number)
        which.append(places[digest])
    return rows[first].contiguous(), which, list(places)


def _digest(tensor: Tensor) -> str:
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode() + raw.tobytes()).hexdigest()[:16]
