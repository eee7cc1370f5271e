"""Patch for PEFT, whose choice of LoRA layers cannot be extended for all configs: one for ternary layers."""

from __future__ import annotations

from typing import Any

from peft.tuners.lora import model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from .linear import TernaryLinear

_dispatch_default = model.dispatch_default


def dispatch_default(
    target: nn.Module, adapter_name: str, config: Any, parameter_name: str | None = None, **kwargs: Any
) -> nn.Module | None:
    """The LoRA layer for a layer that no other dispatcher knows."""
    from .lora import TernaryLoraLinear

    base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
    if isinstance(base, TernaryLinear) and parameter_name is None:
        return TernaryLoraLinear(target, adapter_name, config=config, **kwargs)
    return _dispatch_default(target, adapter_name, config, parameter_name=parameter_name, **kwargs)


model.dispatch_default = dispatch_default
