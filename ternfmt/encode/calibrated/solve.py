"""`calibrated` for a whole model: block by block, and within a block in the order in which its linears run.

Two copies of the model run over the same calls: the teacher with its own weights, and the student, whose linears are
replaced as soon as they are solved. So each linear is solved for the inputs that the ternary linears before it leave,
and aims at what the teacher's linear makes of the teacher's inputs.

Memory beyond the model: the student shares all parameters with the teacher but the linears of the block that is being
solved. For the linears that read one input there are three float32 matrices of K x K (H, its factor, G), and up to
seven while these are made: 6.6 GB at FLUX's largest K, 15,360. For one linear, about six arrays of its size in
float32 (`memory`). All of this and the block are on ``block_device``, while the model may be elsewhere. Activations
wait on disk, those of one call are in memory.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...container import DTYPES
from ...tensor import TernaryTensor
from ..data.blocks import Block, in_order, runs_on
from ..data.calls import CallList, Calls, Progress
from ..data.model import LoadedModel
from ..data.replay import Replay
from ..data_free import data_free
from ..run.solution import Solution, Solved
from ..settings import LayerSettings
from .inputs import InputGroup, find_groups, read_inputs
from .layer import solve_layer
from .second_moments import CalibrationError, Moments, SecondMoments
from .settings import CalibratedSettings
from .target import make_metric

Float32 = npt.NDArray[np.float32]


def calibrate(
    loaded: LoadedModel,
    calls: Calls,
    layers: Mapping[str, LayerSettings],
    solution: Solution,
    settings: CalibratedSettings,
    work: Path,
    progress: Progress,
    dense_dtypes: Mapping[str, str],
) -> None:
    """Solve all ``layers`` and add them to the solution, a part a block.

    Started again with the same folder it goes on with the first block that is not in the solution. Deterministic for
    one machine and number of threads.

    Args:
        loaded: the model; as it was afterwards.
        calls: calibration data.
        layers: the tensors to be ternary; of their settings, planes and scale dtype are used.
        solution: gets the ternary tensors and, with `settings.bias`, the corrected biases.
        settings: how.
        work: a folder for activations.
        progress: called with what is done next and the part of the work that is done.
        dense_dtypes: of the biases in the checkpoint.

    Raises:
        ValueError: a layer asks for groups or a low-rank term, or is not in the model.
        CalibrationError, ActivationError: NaN or Inf on the calibration data.
        BlockError: the model does not run block by block.
        OSError: the disk is full.
    """
    check_layers(loaded, layers)
    data = CallList(calls, math.ceil(settings.samples / settings.batch), settings.batch)
    blocks = in_order(loaded.model, loaded.blocks, data[0])
    student = share_parameters(loaded.model)
    device = loaded.block_place(settings.block_device)
    solved = solution.parts()
    teacher_replay = Replay(loaded.model, blocks, data, work / "teacher", resume=True)
    student_replay = Replay(student, blocks, data, work / "student", resume=True)
    wanted = {block.name: [name for name in block.linears if name in layers] for block in blocks}
    if any(wanted[block.name] and block.name not in solved for block in blocks[: student_replay.finished]):
        # The activations belong to another solution.
        teacher_replay = Replay(loaded.model, blocks, data, work / "teacher")
        student_replay = Replay(student, blocks, data, work / "student")
    for number, block in enumerate(blocks):
        progress(f"block {number + 1} of {len(blocks)}: {block.name}", number / len(blocks))
        names = wanted[block.name]
        pair = _Pair(block, student.get_submodule(block.name), names, loaded, layers, dense_dtypes)
        with runs_on([block.module, pair.student], device):
            if names and block.name not in solved:
                solution.add(block.name, _solve_block(pair, number, teacher_replay, student_replay, settings))
            if number + 1 < len(blocks):
                for name in names:
                    pair.put(name, solution)
                student_replay.finish(number)
                teacher_replay.finish(number)
            pair.restore()
    progress("calibrated", 1.0)


def check_layers(loaded: LoadedModel, layers: Mapping[str, LayerSettings]) -> None:
    """Refuse layers that these methods cannot solve.

    Raises:
        ValueError: a layer asks for groups or a low-rank term, or is not in the model.
    """
    for name, layer in layers.items():
        if name not in loaded.linears:
            raise ValueError(f"{name!r}: expected the weight of a linear of {type(loaded.model).__name__}")
        if layer.group_size is not None:
            raise ValueError(
                f"{name!r}: expected one scale a row, got groups of {layer.group_size}: "
                "use --method exact or planes for groups"
            )
        if layer.low_rank:
            raise ValueError(f"{name!r}: expected no low-rank term, got rank {layer.low_rank}: use --method distilled")


def share_parameters(model: nn.Module) -> nn.Module:
    """A copy of a model with modules of its own but the same parameters and buffers."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


class _Pair:
    """A block of the teacher and the student's copy of it."""

    def __init__(
        self,
        block: Block,
        student: nn.Module,
        names: Sequence[str],
        loaded: LoadedModel,
        layers: Mapping[str, LayerSettings],
        dense_dtypes: Mapping[str, str],
    ) -> None:
        paths = {module: path for path, module in block.module.named_modules()}
        self.block, self.student, self.layers = block, student, layers
        self.teachers = {name: block.linears[name] for name in names}
        self.students: dict[str, nn.Linear] = {}
        self.biases: dict[str, str] = {}
        self.bias_dtypes: dict[str, np.dtype[Any]] = {}
        for name, linear in self.teachers.items():
            found = student.get_submodule(paths[linear])
            assert isinstance(found, nn.Linear)
            self.students[name] = found
            full_path = ".".join(part for part in (block.name, paths[linear]) if part)
            bias = loaded.names.get(f"{full_path}.bias")
            if linear.bias is not None and bias is not None:
                self.biases[name] = bias
                self.bias_dtypes[name] = DTYPES[dense_dtypes[bias]]

    def put(self, name: str, solved: Mapping[str, Solved]) -> None:
        """Give the student's linear its ternary weight, and its bias if that was changed."""
        tensor, linear = solved[name], self.students[name]
        assert isinstance(tensor, TernaryTensor)
        linear.weight = _parameter(tensor.dequantize(), linear.weight)
        bias = self.biases.get(name)
        if bias is not None and bias in solved:
            array = solved[bias]
            assert isinstance(array, np.ndarray)
            linear.bias = _parameter(array.astype(np.float32), linear.weight)

    def restore(self) -> None:
        """Give the student's linears the teacher's parameters again: the ternary ones are not needed any more."""
        for name, teacher in self.teachers.items():
            self.students[name].weight, self.students[name].bias = teacher.weight, teacher.bias


def _solve_block(
    pair: _Pair, number: int, teacher_replay: Replay, student_replay: Replay, settings: CalibratedSettings
) -> dict[str, Solved]:
    """Solve the linears of a block; afterwards the student's copy has them."""
    args, kwargs = next(iter(teacher_replay.inputs(number)))
    groups = find_groups(pair.block.module, pair.teachers, lambda: pair.block.module(*args, **kwargs))
    found: dict[str, Solved] = {}
    for group in groups:
        moments = _moments(pair, group, number, teacher_replay, student_replay, settings)
        free_bias = settings.bias and all(name in pair.biases for name in group.names)
        means = moments.teacher_mean, moments.student_mean
        metric = make_metric(
            moments.centred() if free_bias else moments, damping=settings.damping, act_order=settings.act_order
        )
        del moments
        for name in group.names:
            linear = pair.teachers[name]
            tensor = solve_layer(linear.weight, metric, pair.layers[name], settings, name).tensor
            found[name] = tensor
            if free_bias:
                found[pair.biases[name]] = _bias(linear, tensor, *means).astype(pair.bias_dtypes[name])
            pair.put(name, found)
    for name, linear in pair.teachers.items():
        if name not in found:  # it does not run on the calibration data
            found[name] = data_free(linear.weight, pair.layers[name], name)
            pair.put(name, found)
    return found


def _moments(
    pair: _Pair,
    group: InputGroup,
    number: int,
    teacher_replay: Replay,
    student_replay: Replay,
    settings: CalibratedSettings,
) -> Moments:
    """Second moments of a group's inputs, in the teacher and in the student as it is now."""
    name = group.names[0]
    teacher, student = pair.teachers[name], pair.students[name]
    sums = SecondMoments(group.columns, cross=settings.asymmetric, device=teacher.weight.device)
    both = zip(teacher_replay.inputs(number), student_replay.inputs(number), strict=True)
    for (args, kwargs), (student_args, student_kwargs) in both:
        ours = read_inputs(student, group.runs, partial(pair.student, *student_args, **student_kwargs))
        theirs = read_inputs(teacher, group.runs, partial(pair.block.module, *args, **kwargs))
        if len(theirs) != len(ours):
            raise CalibrationError(
                f"{name}: runs {len(theirs)} times in the full-precision model and {len(ours)} times in the ternary "
                "one: a layer that is chosen by its input cannot be calibrated; keep it dense, or use method exact"
            )
        for x, y in zip(theirs, ours, strict=True):
            sums.add(x, y)
    return sums.finish(group.names)


def _bias(linear: nn.Linear, tensor: TernaryTensor, teacher_mean: Tensor, student_mean: Tensor) -> Float32:
    """The bias plus W E[x] - V E[x']: what leaves the mean output as it was."""
    ternary = torch.from_numpy(tensor.dequantize()).to(teacher_mean)
    change = linear.weight.to(teacher_mean) @ teacher_mean - ternary @ student_mean
    return (linear.bias.to(teacher_mean) + change).cpu().numpy()


def _parameter(array: np.ndarray, like: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(array).to(like.device, like.dtype), requires_grad=False)
