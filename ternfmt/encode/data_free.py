"""Codes that follow from a layer's weights alone: where methods that run the model start, and their measure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..container import DTYPES
from ..tensor import TernaryTensor
from .quantize import quantize
from .settings import LayerSettings

if TYPE_CHECKING:
    from torch import Tensor


def data_free(weight: Tensor, layer: LayerSettings, name: str = "weight") -> TernaryTensor:
    """Quantise by `exact`, or by `planes` where there is more than one.

    Args:
        weight: ``[N, K]``, of any floating-point dtype, on any device.
        layer: planes and scale dtype; its method is not looked at.
        name: the tensor's name, for errors.

    Raises:
        WeightError: a weight is NaN or Inf.
    """
    return quantize(
        weight.detach().float().cpu().numpy(),
        "exact" if layer.planes == 1 else "planes",
        planes=layer.planes,
        scale_dtype=layer.scale_dtype and DTYPES[layer.scale_dtype],
        name=name,
    )
