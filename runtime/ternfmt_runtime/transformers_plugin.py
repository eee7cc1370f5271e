"""Plug-in for transformers: what ``from_pretrained``, ``save_pretrained`` and ``dequantize`` call."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer

from ternfmt import Model

from .checkpoint import open_checkpoint, refuse_ternary
from .config import QuantMethod, TernaryConfig
from .linear import TernaryLinear
from .swap import dequantize_
from .transformers_load import Placed, check_biases, check_loaded, place_layers
from .transformers_save import make_metadata


class TernaryHfQuantizer(HfQuantizer):  # type: ignore[misc]
    """Loads, saves and dequantises ternary models.

    Of a ternary checkpoint the files say which layers are ternary and how: layers of that kind are
    put in place on the meta device, and transformers loads the packed tensors into them. Of a dense
    checkpoint each chosen weight is quantised as it arrives, and let go.
    """

    quantization_config: TernaryConfig

    def __init__(self, quantization_config: TernaryConfig, **kwargs: Any) -> None:
        # A copy: transformers hangs it into the model's config, and the caller may use it again.
        super().__init__(copy.deepcopy(quantization_config), **kwargs)
        self._file: Model | None = None
        self._placed: dict[str, Placed] = {}
        self._quantize: Any = None

    def _process_model_before_weight_loading(
        self, model: Any, checkpoint_files: Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        """Read the files' headers; the model is on the meta device."""
        if not self.pre_quantized:
            refuse_ternary(checkpoint_files)
            return
        self._file = open_checkpoint(checkpoint_files)
        self.quantization_config.check(self._file)
        self.quantization_config.format_version = self._file.document.version

    def update_weight_conversions(self, weight_conversions: list[Any], model: Any) -> list[Any]:
        """Place or choose ternary layers; only here is it known how transformers renames tensors."""
        if self._file is not None:
            compute_dtype = self.quantization_config.compute_dtype
            self._placed = place_layers(model, self._file, weight_conversions, compute_dtype)
        else:
            from .transformers_quantize import QuantizeOnLoad

            self._quantize = QuantizeOnLoad(model, self.quantization_config, weight_conversions)
        return weight_conversions

    def get_new_dtype(self, converter: Any, param: Any, dtype: torch.dtype | None) -> torch.dtype | None:
        """What a stored tensor is cast to: what belongs to a ternary one keeps the file's dtype.

        transformers would cast the scales of modules that it keeps in float32.
        """
        module, _, tensor = converter.target_patterns[0].rpartition(".")
        if module in self._placed and tensor != "bias":
            return getattr(self._placed[module].layer, tensor).dtype
        return super().get_new_dtype(converter, param, dtype)

    def param_needs_quantization(self, model: Any, param_name: str, **kwargs: Any) -> bool:
        """Whether a dense weight is to be quantised as it arrives."""
        return self._quantize is not None and param_name in self._quantize.chosen

    def get_quantize_ops(self) -> Any:
        """The operation that does it."""
        return self._quantize

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        """Check what was loaded; the files are closed afterwards."""
        check_biases(model)
        if self._file is None:
            if "disk" in getattr(model, "hf_device_map", {}).values():
                raise ValueError(
                    "device_map puts layers on disk, where transformers leaves the dense weights: convert the model "
                    "first (`ternfmt convert SRC DST`) and load the result"
                )
            return model
        with self._file as file:
            check_loaded(self._placed, file)
        return model

    def get_state_dict_and_metadata(self, model: Any) -> tuple[None, dict[str, str]]:
        """The model's own state dict, and the metadata that goes into every file."""
        if getattr(model, "_hf_peft_config_loaded", False):
            return None, {}  # only the adapter is saved
        return None, make_metadata(model, self._file, self.quantization_config)

    def _dequantize(self, model: Any, dtype: torch.dtype | str | None = None) -> Any:
        for name, module in model.named_modules():
            if isinstance(module, TernaryLinear) and hasattr(module, "_hf_hook"):
                raise ValueError(
                    f"{name}: device_map spread the model over several devices; load it on one to dequantize it"
                )
        if isinstance(dtype, str):
            dtype = getattr(torch, dtype)
        if dtype not in (None, model.dtype):
            model.to(dtype)
        dequantize_(model)
        return model

    def is_serializable(self) -> bool:
        """save_pretrained works."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Gradients reach adapters, biases and dense layers; codes and scales have none."""
        return True

    @property
    def is_compileable(self) -> bool:
        """torch.compile needs no graph break."""
        return True


register_quantization_config(QuantMethod.TERNFMT.value)(TernaryConfig)
register_quantizer(QuantMethod.TERNFMT.value)(TernaryHfQuantizer)
