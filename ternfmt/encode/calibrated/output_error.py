"""The dial by output error: what the planes and the low-rank term of a layer do to what the model says.

The costs are in the form that `run.dial.spend` takes. They are measured for layers stored by the data-free rules
(`exact`, `planes`), whose errors `calibrated` and `distilled` then reduce: the squared error of the model's output when
this layer alone is ternary, in units of the output's squared norm. Errors of different layers add up as far as they are
small and independent. That takes a forward pass of every call for each layer and each way to store it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from ...tensor import TernaryTensor
from ..data.calls import Calls, output_of, to_device
from ..data.model import LoadedModel
from ..data_free import data_free
from ..low_rank import start_low_rank, stored_low_rank
from ..run.dial import DialLayer, LayerCosts, Option
from ..settings import LayerSettings


@torch.no_grad()
def measure_output_errors(
    loaded: LoadedModel,
    calls: Calls,
    layers: Mapping[str, DialLayer],
    planes: Iterable[int],
    *,
    count: int = 4,
    batch: int = 8,
    measured: Iterable[Mapping[str, Any]] = (),
    record: Callable[[dict[str, Any]], None] = lambda costs: None,
    progress: Callable[[str, int], None] = lambda name, weights: None,
) -> list[LayerCosts]:
    """What each layer costs in each way to store it, in the order of ``layers``.

    Args:
        loaded: the model; as it was afterwards.
        calls: calibration data.
        layers: the ternary tensors.
        planes: the numbers of planes to choose from, ascending.
        count: calls that are looked at.
        batch: samples a call.
        measured: what an earlier, interrupted call recorded.
        record: keeps the costs of a layer.
        progress: called with a layer's name and number of weights when it is measured.

    Raises:
        ValueError: a layer is not in the model.
        WeightError: a weight is NaN or Inf.
    """
    for name in layers:
        if name not in loaded.linears:
            raise ValueError(f"{name!r}: expected the weight of a linear of {type(loaded.model).__name__}")
    known = {value["name"]: LayerCosts.from_json(value) for value in measured}
    asked = tuple(planes)
    missing = [name for name in layers if name not in known]
    if not missing:
        return [known[name] for name in layers]
    data = [to_device(calls.call(number, batch), loaded.device, loaded.dtype) for number in range(count)]
    errors = _model_errors(loaded, data)
    for name in missing:
        layer, linear = layers[name], loaded.linears[name]
        candidates = layer.candidates(asked)
        tensors = _quantize(linear.weight, candidates, name)
        options = [
            Option(settings.planes, tensor.nbytes, error, settings.low_rank)
            for settings, tensor, error in zip(candidates, tensors, errors(name, tensors), strict=True)
        ]
        options.sort(key=attrgetter("stored_bytes"))  # scales that need F32 are not in the candidates' order
        known[name] = LayerCosts(name, math.prod(layer.shape), tuple(options))
        record(known[name].to_json())
        progress(name, known[name].weights)
    return [known[name] for name in layers]


def _quantize(weight: Tensor, candidates: Sequence[LayerSettings], name: str) -> list[TernaryTensor]:
    """Each candidate's tensor; those with as many planes share the codes."""
    bare = {settings.planes: data_free(weight, settings, name) for settings in candidates if not settings.low_rank}
    tensors = []
    for settings in candidates:
        tensor = bare[settings.planes]
        if settings.low_rank:
            tensor = replace(tensor, low_rank=stored_low_rank(start_low_rank(weight, tensor, settings.low_rank)))
        tensors.append(tensor)
    return tensors


Errors = Callable[[str, Sequence[TernaryTensor]], list[float]]
"""A layer's name and ways to store it -> the error that each leaves."""


def _model_errors(loaded: LoadedModel, data: Sequence[dict[str, Any]]) -> Errors:
    """Of the model's output, with this layer alone replaced."""
    outputs = [_output(loaded.model, call) for call in data]
    norm = sum(_square(output) for output in outputs)

    def errors(name: str, tensors: Sequence[TernaryTensor]) -> list[float]:
        linear = loaded.linears[name]
        original = linear.weight
        found = []
        try:
            for tensor in tensors:
                linear.weight = nn.Parameter(_dense(tensor, original), requires_grad=False)
                error = sum(
                    _square(_output(loaded.model, call) - output) for call, output in zip(data, outputs, strict=True)
                )
                found.append(_ratio(error, norm))
        finally:
            linear.weight = original
        return found

    return errors


def _output(model: nn.Module, call: dict[str, Any]) -> Tensor:
    return output_of(model(**call)).to(torch.float32)


def _dense(tensor: TernaryTensor, like: Tensor) -> Tensor:
    return torch.from_numpy(tensor.dequantize()).to(like)


def _square(x: Tensor) -> float:
    return float(x.square().sum(dtype=torch.float64))


def _ratio(error: float, norm: float) -> float:
    return error / norm if norm else 0.0
