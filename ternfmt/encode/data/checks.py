"""Look whether a model can be calibrated at all, with one call, before hours are spent."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch

from .blocks import in_order, place_of
from .calls import tensors_in, to_device
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


def prepare_blocks(loaded: LoadedModel, call: dict[str, Any]) -> LoadedModel:
    """The model with its blocks in the order of execution, after a test that it can be replayed block by block.

    Raises:
        BlockError: it cannot.
        ActivationError: an activation is NaN or Inf.
    """
    blocks = in_order(loaded.model, loaded.blocks, call)
    check_replay(loaded.model, blocks, call)
    return replace(loaded, blocks=blocks)
