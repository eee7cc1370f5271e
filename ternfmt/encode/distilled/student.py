"""The student: a copy of the model with trainable ternary layers, and the way back to tensors of a checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ...container import DTYPES
from ...tensor import TernaryTensor
from ..data_free import data_free
from ..low_rank import start_low_rank
from ..run.solution import Solved
from ..settings import LayerSettings
from .frozen import FrozenLinear
from .latent import LatentLinear, start_latent
from .layer import TORCH_DTYPES
from .settings import DistilledSettings, SettingsError
from .start import add_planes

if TYPE_CHECKING:
    from ..data.model import LoadedModel

Layer = LatentLinear | FrozenLinear


class Student:
    """A model whose ternary layers can be trained.

    Attributes:
        model: the copy, F32, in eval mode: dropout would only hide the teacher.
        layers: ternary tensor's name -> its layer.
        dense: tensor name -> trainable parameter that stays dense.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, Layer], dense: Mapping[str, nn.Parameter]) -> None:
        """Make every parameter trainable that is to be, and no other."""
        self.model = model
        self.layers = dict(layers)
        self.dense = dict(dense)
        model.requires_grad_(False)
        for layer in self.layers.values():
            layer.requires_grad_(True)
        for parameter in self.dense.values():
            parameter.requires_grad_(True)

    def soften(self, hardness: float) -> None:
        """Have trained layers multiply with weights that are so ternary; 1 is what is written."""
        for layer in self.layers.values():
            if isinstance(layer, LatentLinear):
                # A tensor, so that compiled code does not depend on its value.
                layer.hardness = torch.tensor(hardness, device=layer.weight.device) if hardness < 1 else 1.0

    def solved(self, dense_dtypes: Mapping[str, str]) -> dict[str, Solved]:
        """Everything that was trained, as it is written."""
        tensors: dict[str, Solved] = {name: layer.to_ternary() for name, layer in self.layers.items()}
        for name, parameter in self.dense.items():
            tensors[name] = parameter.detach().cpu().numpy().astype(DTYPES[dense_dtypes[name]])
        return tensors

    @torch.no_grad()
    def round_dense(self, dense_dtypes: Mapping[str, str]) -> None:
        """Give dense tensors and low-rank branches the values they will have in the file."""
        for name, parameter in self.dense.items():
            parameter.copy_(parameter.to(TORCH_DTYPES[dense_dtypes[name]]))
        for layer in self.layers.values():
            layer.round_low_rank()


def make_student(
    loaded: LoadedModel,
    layers: Mapping[str, LayerSettings],
    settings: DistilledSettings,
    dense_dtypes: Mapping[str, str],
    start: Mapping[str, Solved] | None = None,
) -> Student:
    """Copy the model; its ternary layers start from ``start``, or from the best codes for its weights.

    Args:
        loaded: the teacher, which is not changed.
        layers: settings of its ternary tensors.
        settings: what is trained.
        dense_dtypes: dtype in the checkpoint of each dense tensor.
        start: ternary tensors, and perhaps dense ones, to start from.

    Raises:
        SettingsError: a tensor of the start has another shape, more planes, groups, or another rank.
    """
    made: dict[str, Layer] = {}
    memo: dict[int, Any] = {}
    for name, linear in loaded.linears.items():
        if name in layers:
            found = None if start is None else start.get(name)
            made[name] = make_layer(name, linear, layers[name], settings, found)
            memo[id(linear)] = made[name]
    model = copy.deepcopy(loaded.model, memo).float().eval()
    dense = dense_parameters(model, loaded, made, settings, dense_dtypes)
    if start is not None:
        _take_dense(dense, start)
    return Student(model, made, dense)


def make_layer(
    name: str, linear: nn.Linear, layer: LayerSettings, settings: DistilledSettings, start: Solved | None
) -> Layer:
    """One layer: from ``start`` if that is a ternary tensor, or from the codes of least squared error."""
    weight = linear.weight.detach()
    if not bool(weight.isfinite().all()):
        raise SettingsError(f"{name!r}: a weight is NaN or Inf; check the checkpoint")
    tensor = start if isinstance(start, TernaryTensor) else data_free(weight, layer, name)
    if tensor.shape != tuple(weight.shape) or len(tensor.planes) > layer.planes or tensor.group_size is not None:
        raise SettingsError(
            f"{name!r}: expected at most {layer.planes} planes of {list(weight.shape)} without groups to start from, "
            f"got {len(tensor.planes)} of {list(tensor.shape)} with group size {tensor.group_size}"
        )
    rank = 0 if tensor.low_rank is None else len(tensor.low_rank.down)
    if rank not in (0, layer.low_rank):
        raise SettingsError(
            f"{name!r}: expected a start without low-rank term, or one of rank {layer.low_rank}, got rank {rank}; "
            f"with --ratio the dial may give a layer none: start from a model without"
        )
    tensor = add_planes(tensor, layer.planes)
    low_rank = start_low_rank(weight, tensor, layer.low_rank, settings.seed) if layer.low_rank else None
    bias = None if linear.bias is None else linear.bias.detach()
    if settings.train_codes:
        latent, scale = start_latent(weight, tensor)
        return LatentLinear(latent, scale, bias, low_rank=low_rank, scale_dtype=layer.scale_dtype)
    return FrozenLinear(tensor, bias, low_rank=low_rank, scale_dtype=layer.scale_dtype, device=weight.device)


def dense_parameters(
    model: nn.Module,
    loaded: LoadedModel,
    layers: Mapping[str, Layer | nn.Linear],
    settings: DistilledSettings,
    dense_dtypes: Mapping[str, str],
) -> dict[str, nn.Parameter]:
    """Trainable parameters beside the ternary layers' own, by tensor name; a tied one is there once.

    Embedding tables stay as they are: only rows of the texts' tokens would learn, and leave the others behind.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    own = tables | {id(p) for layer in layers.values() for n, p in layer.named_parameters() if n != "bias"}
    biases = {id(layer.bias) for layer in layers.values() if layer.bias is not None}
    blocks = tuple(block.name + "." for block in loaded.blocks)
    chosen = {}
    for path, parameter in model.named_parameters():
        name = loaded.names.get(path, path)
        if id(parameter) in own or name not in dense_dtypes or dense_dtypes[name] not in TORCH_DTYPES:
            continue
        inside = path.startswith(blocks) if blocks else True
        wanted = {
            "all": True,
            "blocks": inside,
            "biases": id(parameter) in biases or (inside and parameter.ndim == 1),
        }
        if wanted[settings.train_dense]:
            chosen[name] = parameter
    return chosen


@torch.no_grad()
def _take_dense(dense: Mapping[str, nn.Parameter], start: Mapping[str, Solved]) -> None:
    """What is trained goes on from there; all else is written as it is in the source."""
    for name, parameter in dense.items():
        found = start.get(name)
        if found is not None and not isinstance(found, TernaryTensor):
            parameter.copy_(torch.from_numpy(found.astype(np.float32)))


@torch.no_grad()
def put_in(model: nn.Module, solved: Mapping[str, Solved]) -> None:
    """Give a plain model the weights that a solution stands for, by parameter name."""
    for path, parameter in model.named_parameters():
        found = solved.get(path)
        if found is not None:
            values = found.dequantize() if isinstance(found, TernaryTensor) else found.astype(np.float32)
            parameter.copy_(torch.from_numpy(values))
