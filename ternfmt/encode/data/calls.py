"""Forward calls of a model as data: keyword arguments, made anew from a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

LATENT, TIME = "hidden_states", "timestep"
"""Arguments of a diffusion transformer that differ from step to step; everything else is conditioning."""

Progress = Callable[[str, float], None]
"""Called with what is being done and the part of it that is done, 0 to 1."""

Check = Callable[[dict[str, Any]], None]
"""Looks at a call of the model, and refuses the model by raising."""


class Calls(Protocol):
    """Arguments of forward calls of one model: reproducible, endless, without padding."""

    def call(self, number: int, size: int) -> dict[str, Any]:
        """Keyword arguments of one forward call.

        Args:
            number: which call, from 0 on; it is a function of (seed, number, size) alone.
            size: rows of the batch.

        Returns:
            What the model's ``forward`` takes; tensors are on the CPU, float32 or integers.
        """


class CallList(Sequence[dict[str, Any]]):
    """The first calls of an endless source as a sequence; each is made when it is asked for, and not kept.

    Args:
        calls: the source.
        count: how many.
        size: rows of each.
    """

    def __init__(self, calls: Calls, count: int, size: int) -> None:
        self._calls, self._count, self._size = calls, count, size

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(self._count))]
        if not -self._count <= number < self._count:
            raise IndexError(f"call {number} of {self._count}")
        return self._calls.call(number % self._count, self._size)


def to_device(call: Mapping[str, Any], device: torch.device | str, dtype: torch.dtype) -> dict[str, Any]:
    """A call with its tensors on a device, those of floating point cast to ``dtype``."""

    def move(value: Tensor) -> Tensor:
        return value.to(device, dtype) if value.is_floating_point() else value.to(device)

    return {name: map_tensors(move, value) for name, value in call.items()}


def output_of(result: Any) -> Tensor:
    """A model's answer as one tensor: ``sample``, ``logits``, ``last_hidden_state``, or the first of a tuple.

    Raises:
        TypeError: there is none of these.
    """
    if isinstance(result, Tensor):
        return result
    for name in ("sample", "logits", "last_hidden_state"):
        value = getattr(result, name, None)
        if isinstance(value, Tensor):
            return value
    if isinstance(result, (tuple, list)) and result and isinstance(result[0], Tensor):
        return result[0]
    raise TypeError(f"expected sample, logits, last_hidden_state or a tuple of tensors, got {type(result).__name__}")


def map_tensors(function: Any, value: Any) -> Any:
    """``value`` with ``function`` applied to every tensor in its tuples, lists and dicts; the rest as it is."""
    if isinstance(value, Tensor):
        return function(value)
    if type(value) in (tuple, list):
        return type(value)(map_tensors(function, part) for part in value)
    if type(value) is dict:
        return {name: map_tensors(function, part) for name, part in value.items()}
    return value


def tensors_in(value: Any, name: str = "") -> list[tuple[str, Tensor]]:
    """Every tensor in nested tuples, lists and dicts, with a name that says where: ``hidden_states``, ``[1]``."""
    found: list[tuple[str, Tensor]] = []
    if isinstance(value, Tensor):
        found.append((name or "the tensor", value))
    elif isinstance(value, (tuple, list)):
        for number, part in enumerate(value):
            found += tensors_in(part, f"{name}[{number}]")
    elif isinstance(value, Mapping):
        for key, part in value.items():
            found += tensors_in(part, f"{name}.{key}" if name else str(key))
    return found
