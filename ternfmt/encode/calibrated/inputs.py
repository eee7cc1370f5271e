"""What the linears of a block read while the block runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class InputGroup:
    """Linears that read the same tensor, and so share their second moments.

    Attributes:
        names: the tensors, in the order in which they run.
        columns: K.
        runs: how often each runs in one call of the block.
        bias: whether they have a bias.
    """

    names: tuple[str, ...]
    columns: int
    runs: int
    bias: bool


class _Seen(BaseException):
    """Everything that was asked for has been seen: the rest of the block need not run."""


@torch.no_grad()
def find_groups(module: nn.Module, linears: Mapping[str, nn.Linear], run: Callable[[], Any]) -> list[InputGroup]:
    """The linears of a block in the order in which they run, those with one input together.

    Inputs are the same where they are the same tensor object, as for query, key and value. Linears that do not run
    are in no group.

    Args:
        module: the block.
        linears: its linears by name.
        run: calls the block once.
    """
    seen: dict[str, list[Tensor]] = {}
    with ExitStack() as stack:
        for name, linear in linears.items():

            def look(_: nn.Module, args: tuple[Any, ...], name: str = name) -> None:
                seen.setdefault(name, []).append(args[0])

            stack.callback(linear.register_forward_pre_hook(look).remove)
        run()
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, inputs in seen.items():  # kept alive in `seen`, so an id stands for one tensor
        key = (*map(id, inputs), linears[name].bias is not None)
        groups.setdefault(key, []).append(name)
    return [
        InputGroup(tuple(names), linears[names[0]].in_features, len(seen[names[0]]), linears[names[0]].bias is not None)
        for names in groups.values()
    ]


@torch.no_grad()
def read_inputs(linear: nn.Linear, runs: int, run: Callable[[], Any]) -> list[Tensor]:
    """What a linear reads in one call of its block, which is cut off then.

    Args:
        linear: the linear.
        runs: how often it runs in the call.
        run: calls the block.
    """
    seen: list[Tensor] = []

    def look(_: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0])
        if len(seen) == runs:
            raise _Seen

    handle = linear.register_forward_pre_hook(look)
    try:
        run()
    except _Seen:
        pass
    finally:
        handle.remove()
    return seen
