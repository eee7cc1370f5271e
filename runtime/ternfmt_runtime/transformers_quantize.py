"""Quantise dense weights one by one as transformers loads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers.core_model_loading import ConversionOps, WeightConverter, apply_converters
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.utils import logging

import ternfmt
from ternfmt.container import Span
from ternfmt.encode.source.policy import choose

from .arrays import to_array
from .casting import layer_class
from .config import TernaryConfig
from .load import LoadError
from .swap import places, swap, why_not_swappable
from .transformers_load import mark_initialized

_logger = logging.get_logger(__name__)


class QuantizeOnLoad(ConversionOps):  # type: ignore[misc]
    """The operation on a weight that has arrived: quantise it and put a ternary layer in its place.

    Attributes:
        chosen: names of the weights to quantise: those of nn.Linear layers that `ternfmt convert` would
            choose too, but no output head, no weight that is tied to another, none that transformers
            transforms on saving, and none of ``modules_to_not_convert``.
    """

    def __init__(self, model: Any, config: TernaryConfig, conversions: Sequence[Any]) -> None:
        self._config = config
        self._held = places(model)
        self.chosen = self._choose(model, conversions)
        if not self.chosen:
            _logger.warning(f"{type(model).__name__} has no nn.Linear to quantise: all its weights stay dense")

    def convert(
        self, input_dict: dict[str, Any], *, full_layer_name: str, model: Any, missing_keys: set[str], **kwargs: Any
    ) -> dict[str, Any]:
        """Take the one dense weight; nothing is left for transformers to place.

        Raises:
            LoadError: the weight's shape is not the layer's.
            WeightError: the weight is NaN or Inf.
        """
        (value,) = input_dict.values()
        weight = value[0] if isinstance(value, list) else value
        name = full_layer_name.removesuffix(".weight")
        linear = model.get_submodule(name)
        if weight.shape != linear.weight.shape:
            expected, actual = list(linear.weight.shape), list(weight.shape)
            raise LoadError(str(model.config.name_or_path), [f"{name!r}: expected {expected}, got {actual}"])
        tensor = ternfmt.quantize(
            to_array(weight),
            self._config.method,
            planes=self._config.planes or 2,
            group_size=self._config.group_size,
            name=full_layer_name,
        )
        compute_dtype = self._config.compute_dtype or weight.dtype
        layer = layer_class(name).from_ternary(tensor, linear.bias, compute_dtype=compute_dtype, device=weight.device)
        mark_initialized(layer)
        swap(self._held, linear, layer)
        missing_keys.discard(full_layer_name)
        return {}

    def _choose(self, model: Any, conversions: Sequence[Any]) -> set[str]:
        linears = {
            f"{name}.weight": module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and why_not_swappable(self._held, module) is None
        }
        parameters = model.named_parameters(remove_duplicate=False)
        choices = choose({name: Span("", "F32", tuple(parameter.shape), 0, 0) for name, parameter in parameters})
        kept = {f"{name}.weight" for name in get_keys_to_not_convert(model)}
        undone = [c.reverse_transform() for c in conversions if isinstance(c, WeightConverter)]
        return {
            name
            for name in linears
            if choices[name].ternary
            and name not in kept
            and not self._config.keeps_dense(name.removesuffix(".weight"))
            and apply_converters(name, undone)[1] is None
        }
