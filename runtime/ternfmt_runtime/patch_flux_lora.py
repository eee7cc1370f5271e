"""Patch for diffusers' FLUX LoRA loader, which compares adapters with the shape of the packed weight."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.loaders import lora_pipeline
from torch import Tensor, nn

from .linear import TernaryLinear

_Loader = lora_pipeline.FluxLoraLoaderMixin
_calculate_module_shape = _Loader._calculate_module_shape
_maybe_dequantize_weight = lora_pipeline._maybe_dequantize_weight_for_expanded_lora


def calculate_module_shape(
    model: nn.Module, base_module: nn.Module | None = None, base_weight_param_name: str | None = None
) -> torch.Size:
    """Shape of a layer's weight: of a ternary one, the logical shape."""
    module = base_module
    if module is None and base_weight_param_name is not None:
        module = model.get_submodule(base_weight_param_name.removesuffix(".weight"))
    if isinstance(module, TernaryLinear):
        return torch.Size((module.out_features, module.in_features))
    return _calculate_module_shape(model, base_module, base_weight_param_name)


def maybe_dequantize_weight(model: Any, module: nn.Module) -> Tensor:
    """The dense weight of a layer that Control LoRAs widen, such as ``x_embedder``."""
    if isinstance(module, TernaryLinear):
        return module.dequantize().weight.data
    return _maybe_dequantize_weight(model, module)


_Loader._calculate_module_shape = staticmethod(calculate_module_shape)
lora_pipeline._maybe_dequantize_weight_for_expanded_lora = maybe_dequantize_weight
