"""Run a model block by block over calibration calls, with nothing but the blocks' outputs kept between.

The model's own ``forward`` does everything between blocks: embeddings, rotary tables, concatenations. Blocks that are
finished are stubs which answer from disk; the pass is cut off where the block that is asked for begins. So any model
works whose blocks run one after another. What a stub answers is the output of the last finished block of its list:
what earlier ones would have answered only goes into later stubs, which do not look. `check_replay` tests that a model
is so.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import Block, BlockError, forward_of, place_of
from .calls import map_tensors, tensors_in, to_device
from .disk import check_disk

BlockCall = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of one call of a block."""

_STATE = "replay.json"


class ActivationError(ValueError):
    """An activation is NaN or Inf."""


class _CutOff(BaseException):
    """Ends a forward pass; not an Exception, so that no model's own handler catches it."""


class Replay:
    """The inputs of a model's blocks, one block after another.

    Disk: the outputs of one block for all calls, and of the last block of each list. Memory: one call.

    Args:
        model: the model; its floating-point inputs are cast to its dtype. Its blocks' weights may change between
            calls of `finish`, their modules too: they are looked up by name.
        blocks: its blocks in the order of execution (`blocks.in_order`).
        calls: keyword arguments of forward calls; read again for every block.
        folder: for the outputs; made if it is not there.
        resume: go on with what an earlier Replay of the same calls has finished in this folder. The caller sees to it
            that the weights of the finished blocks are what they were then. Else the folder is emptied.

    Attributes:
        finished: how many blocks are finished.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[Block],
        calls: Sequence[dict[str, Any]],
        folder: Path,
        *,
        resume: bool = False,
    ) -> None:
        self._model, self._blocks, self._calls, self._folder = model, tuple(blocks), calls, folder
        self._place = place_of(model)  # now: a block may be elsewhere for a while
        self._work = _fingerprint(self._blocks, calls)
        self.finished = self._finished_before() if resume else 0
        if not self.finished:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)

    def inputs(self, number: int) -> Iterator[BlockCall]:
        """What block ``number`` is called with, for each call in order, on the model's device.

        Raises:
            ActivationError: a value is NaN or Inf.
            BlockError: the pass did not come to this block, or to a later one before it.
            ValueError: another block is next.
        """
        self._expect(number)
        block = self._blocks[number]
        for index in range(len(self._calls)):
            entered: list[BlockCall] = []

            def enter(*args: Any, entered: list[BlockCall] = entered, **kwargs: Any) -> Any:
                entered.append((args, kwargs))
                raise _CutOff

            self._run(number, index, enter)
            args, kwargs = entered[0]
            _check_finite({"": args, **kwargs}, f"the input of block {block.name!r} in call {index}")
            yield args, kwargs

    def finish(self, number: int) -> None:
        """Run block ``number`` as its module is now and keep its outputs; drop what is not needed any more.

        Nothing is done for a block that a resumed run had finished.

        Raises:
            ActivationError, BlockError, ValueError: as for `inputs`.
            DiskError: the outputs would not fit on the disk.
            OSError: writing fails.
        """
        if number < self.finished:
            return
        self._expect(number)
        block = self._blocks[number]
        module = self._model.get_submodule(block.name)
        real = module.forward
        (self._folder / str(number)).mkdir(exist_ok=True)
        for index in range(len(self._calls)):
            left: list[Any] = []

            def run(*args: Any, left: list[Any] = left, **kwargs: Any) -> Any:
                left.append(real(*args, **kwargs))
                raise _CutOff

            self._run(number, index, run)
            _check_finite(left[0], f"the output of block {block.name!r} in call {index}")
            if index == 0:
                _check_kind(left[0], block.name)
                size = sum(tensor.nbytes for _, tensor in tensors_in(left[0])) * len(self._calls)
                check_disk(self._folder, size, f"the outputs of block {block.name!r} in {len(self._calls)} calls")
            _save(left[0], self._file(number, index))
        self._write_state(number + 1)
        for before in range(number):
            if self._answering(before, number + 1) != before:
                shutil.rmtree(self._folder / str(before), ignore_errors=True)

    def _run(self, number: int, index: int, forward: Callable[..., Any]) -> None:
        """One pass over call ``index``: stubs before block ``number``, ``forward`` in its place."""
        answered: set[int] = set()

        def stub(before: int) -> Callable[..., Any]:
            def answer(*args: Any, **kwargs: Any) -> Any:
                if before in answered:
                    raise BlockError(f"block {self._blocks[before].name!r} runs more than once in a forward call")
                answered.add(before)
                return outputs[self._answering(before, number)]

            return answer

        def too_early(later: int) -> Callable[..., Any]:
            def refuse(*args: Any, **kwargs: Any) -> Any:
                raise BlockError(
                    f"block {self._blocks[later].name!r} runs before {self._blocks[number].name!r}: "
                    "expected the blocks in the order of execution (`blocks.in_order`)"
                )

            return refuse

        last_ones = {self._answering(before, number) for before in range(number)}
        outputs = {last: self._load(last, index) for last in last_ones}
        with ExitStack() as stack, torch.no_grad():
            for other, block in enumerate(self._blocks):
                stand_in = forward if other == number else stub(other) if other < number else too_early(other)
                stack.enter_context(forward_of(self._model.get_submodule(block.name), stand_in))
            try:
                self._model(**to_device(self._calls[index], *self._place))
            except _CutOff:
                return
        raise BlockError(f"block {self._blocks[number].name!r} does not run in call {index}")

    def _answering(self, number: int, finished: int) -> int:
        """Which block's outputs a finished block answers with: the last finished one of its list."""
        name = self._blocks[number].list_name
        return max(other for other in range(finished) if self._blocks[other].list_name == name)

    def _expect(self, number: int) -> None:
        if number != self.finished or number >= len(self._blocks):
            raise ValueError(
                f"block {number} of {len(self._blocks)}: expected block {self.finished}, "
                "because blocks are asked for in order and finished one after another"
            )

    def _file(self, number: int, index: int) -> Path:
        return self._folder / str(number) / f"{index}.pt"

    def _load(self, number: int, index: int) -> Any:
        return torch.load(self._file(number, index), map_location=self._place[0], weights_only=True)

    def _write_state(self, finished: int) -> None:
        path = self._folder / _STATE
        part = path.with_suffix(".partial")
        part.write_text(json.dumps({"work": self._work, "finished": finished}))
        os.replace(part, path)
        self.finished = finished

    def _finished_before(self) -> int:
        try:
            state = json.loads((self._folder / _STATE).read_text())
            return int(state["finished"]) if state["work"] == self._work else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0


def check_replay(model: nn.Module, blocks: Sequence[Block], call: dict[str, Any]) -> None:
    """Test that `Replay` is right for a model: its blocks get the inputs that they get in a plain forward pass.

    Costs about three forward passes of one call; make it a small one. A model whose blocks' outputs are used later
    than by the next block (skip connections between distant blocks) fails.

    Raises:
        BlockError: they do not.
        ActivationError: an activation is NaN or Inf.
    """
    seen: dict[str, str] = {}
    with ExitStack() as stack, torch.no_grad():
        for block in blocks:

            def look(module: nn.Module, args: Any, kwargs: Any, name: str = block.name) -> None:
                if name in seen:
                    raise BlockError(f"block {name!r} runs more than once in a forward call")
                seen[name] = _digest((args, kwargs))

            hook = model.get_submodule(block.name).register_forward_pre_hook(look, with_kwargs=True)
            stack.callback(hook.remove)
        model(**to_device(call, *place_of(model)))
    with TemporaryDirectory(prefix="ternfmt-") as folder:
        replay = Replay(model, blocks, [call], Path(folder))
        for number, block in enumerate(blocks):
            ((args, kwargs),) = replay.inputs(number)
            if seen.get(block.name) != _digest((args, kwargs)):
                raise BlockError(
                    f"block {block.name!r}: its input depends on more than the block before it (a skip connection?): "
                    "this model cannot be calibrated block by block"
                )
            replay.finish(number)


def _check_finite(value: Any, what: str) -> None:
    """Refuse NaN anywhere, and Inf except in masks."""
    for name, tensor in tensors_in(value):
        if not tensor.is_floating_point() or bool(torch.isfinite(tensor).all()):
            continue
        if "mask" in name and not bool(torch.isnan(tensor).any()):
            continue
        bad = int((~torch.isfinite(tensor)).sum())
        raise ActivationError(
            f"{what}: expected finite values, {bad} of {tensor.numel()} in {name} {list(tensor.shape)} are NaN or Inf "
            f"({tensor.dtype}): run in float32, or look at the weights of the blocks before"
        )


def _check_kind(value: Any, block: str) -> None:
    """Refuse an answer that would not come back from the disk as it is."""
    if type(value) in (tuple, list):
        for part in value:
            _check_kind(part, block)
    elif type(value) is dict:
        _check_kind(list(value.values()), block)
    elif not isinstance(value, (Tensor, int, float, str, type(None))):
        raise BlockError(
            f"block {block!r}: expected a tensor, or a tuple, list or dict of them, got {type(value).__name__}"
        )


def _save(value: Any, path: Path) -> None:
    """Write a block's output so that no half of a file is ever found under its name."""
    part = path.with_suffix(".partial")
    torch.save(map_tensors(lambda tensor: tensor.detach().cpu().clone(), value), part)
    os.replace(part, path)


def _digest(value: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors_in(value):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _fingerprint(blocks: Sequence[Block], calls: Sequence[Mapping[str, Any]]) -> str:
    digest = hashlib.sha256(json.dumps([block.name for block in blocks]).encode())
    for call in calls:
        digest.update(_digest(dict(call)).encode())
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
