"""Quantise dense weights one by one as diffusers loads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import ternfmt
from ternfmt.container import Span
from ternfmt.encode.source.policies import find_policy
from ternfmt.encode.source.policy import choose

from .arrays import to_array
from .config import TernaryConfig
from .linear import TernaryLinear
from .swap import places, swap, why_not_swappable


class QuantizeOnLoad:
    """Quantises the chosen weights of a model that is on the meta device.

    Attributes:
        chosen: weight name -> layer, of the nn.Linear layers in the model's repeated blocks (children of
            an nn.ModuleList) that `ternfmt convert` would choose too. What lies outside of the blocks,
            first and last layers and embeddings, is small and sensitive, and stays dense.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TernaryConfig,
        compute_dtype: torch.dtype | None,
        keep_in_float32: Sequence[str],
    ) -> None:
        self._config = config
        self._compute_dtype = compute_dtype
        self._held = places(model)
        linears = {
            f"{name}.weight": module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear)
            and why_not_swappable(self._held, module) is None
            and _is_in_block(model, name)
            and not config.keeps_dense(name)
            and not any(kept in name.split(".") for kept in keep_in_float32)
        }
        parameters = model.named_parameters(remove_duplicate=False)
        shapes = {name: Span("", "F32", tuple(parameter.shape), 0, 0) for name, parameter in parameters}
        choices = choose(shapes, policy=find_policy({"_class_name": type(model).__name__}, shapes))
        self.chosen = {name: module for name, module in linears.items() if choices[name].ternary}

    def __call__(self, name: str, weight: Tensor, device: Any) -> None:
        """Quantise a weight that has arrived and put a ternary layer in its place.

        Raises:
            WeightError: the weight is NaN or Inf.
        """
        linear = self.chosen[name]
        tensor = ternfmt.quantize(
            to_array(weight),
            self._config.method,
            planes=self._config.planes or 2,
            group_size=self._config.group_size,
            name=name,
        )
        dtype = self._compute_dtype or linear.weight.dtype
        swap(self._held, linear, TernaryLinear.from_ternary(tensor, linear.bias, compute_dtype=dtype, device=device))

    def sizes(self) -> dict[str, Any]:
        """Weight name -> a dtype about as large as what the weight will take."""
        from accelerate.utils import CustomDtype

        planes = (self._config.planes or 2) if self._config.method == "planes" else 1
        dtype = {1: CustomDtype.INT2, 2: CustomDtype.INT4}.get(planes, CustomDtype.FP8)
        return dict.fromkeys(self.chosen, dtype)


def _is_in_block(model: nn.Module, name: str) -> bool:
    """Whether the module of this name lies in an nn.ModuleList."""
    parents = name.split(".")[:-1]
    return any(isinstance(model.get_submodule(".".join(parents[: i + 1])), nn.ModuleList) for i in range(len(parents)))
