"""The layer for T5's ``wo``, which looks at the weight's dtype from outside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .linear import TernaryLinear


class CastingTernaryLinear(TernaryLinear):
    """A `TernaryLinear` that casts its input to ``compute_dtype``, and shows its codes as int8.

    T5 and its relatives cast activations to the dtype of ``wo.weight`` before they call it, because
    float16 activations overflow there. Of integer types they leave int8 alone, but not uint8, and
    activations cast to bytes are garbage. So this layer does the cast by itself. State dicts hold
    the codes as uint8, as the file does.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.weight = nn.Parameter(self.weight.view(torch.int8), requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:
        """``[..., in] -> [..., out]`` in ``compute_dtype``."""
        return super().forward(input.to(self.compute_dtype))

    def _parts(self) -> tuple[list[Tensor], list[Tensor]]:
        codes, scales = super()._parts()
        return [plane.view(torch.uint8) for plane in codes], scales

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = destination[f"{prefix}weight"].view(torch.uint8)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if f"{prefix}weight" in state_dict:
            state_dict[f"{prefix}weight"] = state_dict[f"{prefix}weight"].view(torch.int8)
        super()._load_from_state_dict(state_dict, prefix, *args)


def layer_class(module: str) -> type[TernaryLinear]:
    """The class for the module of this dotted name."""
    return CastingTernaryLinear if module.rpartition(".")[2] == "wo" else TernaryLinear
