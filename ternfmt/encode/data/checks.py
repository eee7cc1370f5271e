"""Look whether a model can be calibrated at all, with one call, before hours are spent."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .blocks import Block, in_order, place_of
from .calls import LATENT, tensors_in, to_device
from .disk import check_disk
from .model import LoadedModel
from .replay import ActivationError, check_replay


class NeverRanError(ValueError):
    """A ternary layer has no part in the model's answer, so nothing can be learned about it."""


def check_layers_run(loaded: LoadedModel, call: dict[str, Any]) -> None:
    """Run a call and look whether every ternary layer has a part in it.

    Raises:
        NeverRanError: some never ran; names them.
        ActivationError: a layer's or the model's output is NaN or Inf; names the first.
    """
    ran: set[str] = set()
    bad: list[str] = []

    def look(name: str, output: Any) -> None:
        ran.add(name)
        if not all(bool(torch.isfinite(t).all()) for _, t in tensors_in(output) if t.is_floating_point()):
            bad.append(name)

    with ExitStack() as stack, torch.no_grad():
        for name, linear in loaded.linears.items():
            hook = linear.register_forward_hook(lambda _, __, output, name=name: look(name, output))
            stack.callback(hook.remove)
        result = loaded.model(**to_device(dict(call), *place_of(loaded.model)))
    answer = result.values() if isinstance(result, Mapping) else [result]
    if not bad and any(not bool(torch.isfinite(t).all()) for _, t in tensors_in(list(answer)) if t.is_floating_point()):
        bad.append("the model")
    if bad:
        raise ActivationError(
            f"{bad[0]}: its output has NaN or Inf in {place_of(loaded.model)[1]}: run in float32, or mend the weights"
        )
    missing = [name for name in loaded.linears if name not in ran]
    if missing:
        raise NeverRanError(
            f"{len(missing)} of {len(loaded.linears)} ternary layers never ran: {', '.join(missing[:5])}"
            f"{' ...' if len(missing) > 5 else ''}: keep them dense with --exclude, or use a method without calibration"
        )


def check_activation_disk(
    loaded: LoadedModel, call: dict[str, Any], samples: int, work: Path, *, with_samples: bool
) -> None:
    """Look whether what lies on disk between blocks will fit.

    For each sample that is what `Replay` keeps, in the teacher and in the student: a block's outputs, and those of the
    last block of each list.

    Args:
        loaded: the model.
        call: one, of which the sizes for one sample are taken; texts may be longer later.
        samples: how many there will be.
        work: where activations will lie; those of an earlier run make room for new ones.
        with_samples: a block's inputs and answers are kept beside, which `distilled` does block by block.

    Raises:
        DiskError: they will not fit.
    """
    outputs: dict[str, int] = {}
    both: dict[str, int] = {}
    rows = len(call[LATENT] if LATENT in call else next(iter(call.values())))

    def look(block: Block, args: Any, kwargs: Any, output: Any) -> None:
        outputs[block.name] = sum(t.nbytes for _, t in tensors_in(output)) // rows
        both[block.name] = outputs[block.name] + sum(t.nbytes for _, t in tensors_in((args, kwargs))) // rows

    with ExitStack() as stack, torch.no_grad():
        for block in loaded.blocks:
            hook = block.module.register_forward_hook(
                lambda _, args, kwargs, output, block=block: look(block, args, kwargs, output), with_kwargs=True
            )
            stack.callback(hook.remove)
        loaded.model(**to_device(dict(call), *place_of(loaded.model)))
    last = {block.list_name: outputs[block.name] for block in loaded.blocks}
    one = 2 * (max(outputs.values()) + sum(last.values())) + with_samples * max(both.values())
    there = sum(path.stat().st_size for path in work.rglob("*.pt"))
    check_disk(work, samples * one - there, f"activations of {samples} samples")


def prepare_blocks(loaded: LoadedModel, call: dict[str, Any]) -> LoadedModel:
    """The model with its blocks in the order of execution, after a test that it can be replayed block by block.

    Raises:
        BlockError: it cannot.
        ActivationError: an activation is NaN or Inf.
    """
    blocks = in_order(loaded.model, loaded.blocks, call)
    check_replay(loaded.model, blocks, call)
    return replace(loaded, blocks=blocks)
