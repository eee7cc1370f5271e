"""Memory that `calibrated` takes, looked at before anything is made."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..data.model import LoadedModel
from ..settings import LayerSettings
from ..torch_device import free_bytes

F32 = 4


def layer_bytes(rows: int, columns: int, planes: int = 1) -> int:
    """What solving a linear of shape ``[rows, columns]`` takes at most, beside the model.

    There are seven matrices of K x K while second moments become a metric, and then three, and six of the layer's size,
    one more for each further plane.
    """
    return F32 * max(7 * columns * columns, 3 * columns * columns + (5 + planes) * rows * columns)


def check_memory(loaded: LoadedModel, layers: Mapping[str, LayerSettings], device: torch.device) -> None:
    """Refuse a layer that does not fit.

    Args:
        loaded: the model.
        layers: settings of the tensors that are to be ternary; their planes matter.
        device: where blocks are solved.

    Raises:
        ValueError: there is less memory than the largest layer takes.
    """
    linears = {name: loaded.linears[name] for name in layers if name in loaded.linears}
    sizes = {
        name: layer_bytes(linear.out_features, linear.in_features, layers[name].planes)
        for name, linear in linears.items()
    }
    free = free_bytes(device)
    if free is None or not sizes:
        return
    name = max(sizes, key=lambda name: sizes[name])
    if sizes[name] > free:
        raise ValueError(
            f"{name!r}: to calibrate it takes {sizes[name] / 1e9:.3g} GB of {device} (second moments of "
            f"{linears[name].in_features} columns), but {free / 1e9:.3g} GB are free: use a device with more, "
            "or leave the layer out with --exclude"
        )
