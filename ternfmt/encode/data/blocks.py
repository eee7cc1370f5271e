"""A model's repeated blocks: the units that are made ternary one after another.

A block is an entry of the model's outermost numbered lists that holds a ternary linear: ``transformer_blocks.0``,
``encoder.layer.3``, ``model.layers.7``. A ternary linear outside of every such list is a block of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .calls import map_tensors, to_device


class BlockError(ValueError):
    """Blocks do not run one after another, each once."""


@dataclass(frozen=True, eq=False)
class Block:
    """A part of a model that runs as one.

    Attributes:
        name: path of the module: ``transformer_blocks.0``.
        module: the module.
        linears: the ternary ones inside, by the tensor's name in the checkpoint, in the order of registration.
    """

    name: str
    module: nn.Module
    linears: Mapping[str, nn.Linear]

    @property
    def list_name(self) -> str:
        """Path of the list that the block is an entry of; its own name if it is of none."""
        head, _, last = self.name.rpartition(".")
        return head if last.isdigit() else self.name


def find_blocks(model: nn.Module, linears: Mapping[str, nn.Linear]) -> tuple[Block, ...]:
    """The blocks that hold the ternary linears, in the order of registration.

    For the known architectures that is the order of execution; `in_order` finds the order where it is not.

    Args:
        model: the model.
        linears: its ternary linears by the tensor's name in the checkpoint.
    """
    names = {module: name for name, module in model.named_modules()}
    paths = {tensor: names[linear] for tensor, linear in linears.items()}
    lists = [name for name, module in model.named_modules() if isinstance(module, (nn.ModuleList, nn.Sequential))]
    homes: dict[str, dict[str, nn.Linear]] = {}
    for tensor, path in paths.items():
        homes.setdefault(_home(path, lists), {})[tensor] = linears[tensor]
    order = [name for name, _ in model.named_modules() if name in homes]
    return tuple(Block(name, model.get_submodule(name), homes[name]) for name in order)


def in_order(model: nn.Module, blocks: Sequence[Block], call: Mapping[str, Any]) -> tuple[Block, ...]:
    """The blocks in the order in which one forward call enters them.

    Args:
        model: the model; runs once, without gradients.
        blocks: its blocks.
        call: keyword arguments of the call.

    Raises:
        BlockError: a block was entered not at all, or more than once (its weights are shared by several depths).
    """
    entered: list[str] = []
    with ExitStack() as stack, torch.no_grad():
        for block in blocks:
            module = model.get_submodule(block.name)
            hook = module.register_forward_pre_hook(lambda *_, name=block.name: entered.append(name))
            stack.callback(hook.remove)
        model(**to_device(call, *place_of(model)))
    counts = Counter(entered)
    for block in blocks:
        if counts[block.name] != 1:
            raise BlockError(
                f"block {block.name!r}: expected it to run once in a forward call, it ran {counts[block.name]} times: "
                "exclude its linears, or use a method that needs no calibration"
            )
    return tuple(sorted(blocks, key=lambda block: entered.index(block.name)))


def place_of(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and floating-point dtype of a model's first parameter of floating point."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return parameter.device, parameter.dtype
    raise ValueError("the model has no parameter of floating point")


def _home(path: str, lists: Sequence[str]) -> str:
    """The entry of the outermost list around a module; an entry that is the module itself does not count."""
    inside = [name for name in lists if path.startswith(f"{name}.")]
    for name in sorted(inside, key=len):
        entry = f"{name}.{path[len(name) + 1 :].partition('.')[0]}"
        if entry != path:
            return entry
    return path


@contextmanager
def forward_of(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Another ``forward`` for a while."""
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before


@contextmanager
def runs_on(modules: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Modules on another device for a while; their arguments follow them, and their answers come back.

    Args:
        modules: all on one device; they may share parameters.
        device: where they run.
    """
    home = next(modules[0].parameters()).device
    if home == device:
        yield
        return

    def there(real: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = map_tensors(lambda t: t.to(device), (args, kwargs))
            return map_tensors(lambda t: t.to(home), real(*args, **kwargs))

        return forward

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.to, home)
            module.to(device)
            stack.enter_context(forward_of(module, there(module.forward)))
        yield
