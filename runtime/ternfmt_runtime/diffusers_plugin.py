"""Plug-in for diffusers: what ``from_pretrained``, ``from_single_file`` and ``save_pretrained`` call."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from diffusers.quantizers.base import DiffusersQuantizer
from diffusers.utils import is_accelerate_available
from torch import Tensor

from ternfmt import Model

from .checkpoint import open_checkpoint, refuse_ternary
from .config import QuantMethod, TernaryConfig
from .diffusers_load import Part, check_complete, checked_copy, device_of, find_parts, swap_in_empty
from .diffusers_quantize import QuantizeOnLoad
from .diffusers_save import make_metadata
from .diffusers_single_file import SingleFile
from .linear import TernaryLinear
from .swap import dequantize_


class TernaryQuantizer(DiffusersQuantizer):  # type: ignore[misc]
    """Loads, saves and dequantises ternary models.

    Of a ternary checkpoint the files say which layers are ternary and how: such layers are put in
    place on the meta device. diffusers loads their codes as it loads any integers; scales and
    low-rank factors are taken out of its hands, because it would cast them. Of a dense checkpoint
    each chosen weight is quantised as it arrives, and let go.
    """

    quantization_config: TernaryConfig
    pre_quantized: bool
    use_keep_in_fp32_modules = True

    def __init__(self, quantization_config: TernaryConfig, **kwargs: Any) -> None:
        # A copy: the caller may use the config again.
        super().__init__(copy.deepcopy(quantization_config), **kwargs)
        self._file: Model | None = None
        self._single_file: SingleFile | None = None
        self._quantize: QuantizeOnLoad | None = None
        self._parts: dict[str, Part] = {}
        self._device_map: Any = None
        self._torch_dtype: torch.dtype | None = None
        self._model: Any = None

    def validate_environment(self, *args: Any, device_map: Any = None, **kwargs: Any) -> None:
        """Note the device map; diffusers calls again with the resolved one."""
        if not is_accelerate_available():
            raise ImportError("loading ternary models into diffusers needs accelerate: pip install accelerate")
        self._device_map = device_map if isinstance(device_map, dict) else None
        if not self.pre_quantized and "disk" in (self._device_map or {}).values():
            raise ValueError(
                "device_map puts layers on disk, where diffusers leaves the dense weights: convert the model first "
                "(`ternfmt convert SRC DST`) and load the result"
            )

    def update_torch_dtype(self, torch_dtype: torch.dtype | None) -> torch.dtype | None:
        """Note the dtype the model gets; from_single_file does not build it in that dtype."""
        self._torch_dtype = torch_dtype
        return torch_dtype

    def maybe_update_loaded_keys(self, loaded_keys: list[str], checkpoint_files: list[str]) -> list[str]:
        """Read the files' headers; from here on, what they hold counts."""
        if not self.pre_quantized:
            refuse_ternary(checkpoint_files)
            return loaded_keys
        self._open(checkpoint_files)
        assert self._file is not None
        return list(self._file.stored.spans)

    def _process_model_before_weight_loading(
        self,
        model: Any,
        keep_in_fp32_modules: Sequence[str] = (),
        state_dict: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Put ternary layers into the model, which is on the meta device."""
        self._model = model
        compute_dtype = self.quantization_config.compute_dtype or self._torch_dtype
        if self._single_file is not None:
            assert state_dict is not None
            self._single_file.place(model, state_dict, compute_dtype)
        elif self._file is not None:
            swap_in_empty(model, self._file, compute_dtype)
        else:
            self._quantize = QuantizeOnLoad(model, self.quantization_config, compute_dtype, keep_in_fp32_modules)

    def maybe_update_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Check codes and scales of a file that diffusers has mapped; place scales and factors."""
        if self.pre_quantized and self._file is None:  # from_single_file, which comes here first
            self._single_file = SingleFile.of(state_dict)
            if self._single_file is None:
                self.pre_quantized = False
                return state_dict
            self._open([self._single_file.path])
            assert self._file is not None
            return self._single_file.stand_ins(state_dict, self._file)
        if self._file is None:
            return state_dict
        for name in [name for name in state_dict if name in self._parts]:
            part = self._parts[name]
            value = checked_copy(state_dict[name], part, self._file)
            if not value.is_floating_point():
                state_dict[name] = value
                continue
            del state_dict[name]
            module = self._model.get_submodule(part.name.removesuffix(".weight"))
            setattr(module, f"weight{part.suffix}", value.to(device_of(part.name, self._device_map)))
        return state_dict

    def check_if_quantized_param(
        self, model: Any, param_value: Tensor, param_name: str, state_dict: dict[str, Tensor], **kwargs: Any
    ) -> bool:
        """Whether a dense weight is to be quantised as it arrives."""
        return self._quantize is not None and param_name in self._quantize.chosen

    def create_quantized_param(
        self,
        model: Any,
        param_value: Tensor,
        param_name: str,
        target_device: Any,
        state_dict: dict[str, Tensor],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Quantise it as the file has it, not as diffusers has cast it."""
        assert self._quantize is not None
        self._quantize(param_name, state_dict[param_name], target_device)

    def get_special_dtypes_update(self, model: Any, torch_dtype: torch.dtype) -> dict[str, Any]:
        """What weights that are yet to be quantised will take, for ``device_map="auto"``."""
        return {} if self._quantize is None else self._quantize.sizes()

    def get_cuda_warm_up_factor(self) -> int:
        """Memory to reserve is elements of the model's dtype, two bytes, divided by this."""
        return 2 if self.pre_quantized else 8

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        """Check that nothing is missing; record the config; the file is closed afterwards."""
        self._model = self._single_file = self._quantize = None
        check_complete(model, "the dense checkpoint" if self._file is None else str(self._file.source.path))
        if self._file is not None:
            self._file.close()
        model.register_to_config(quantization_config=self.quantization_config)
        return model

    def get_state_dict_and_metadata(
        self, state_dict: dict[str, Tensor], safe_serialization: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The same tensors, and the metadata that goes into every file."""
        if not safe_serialization:
            raise ValueError("ternary models are saved as safetensors: leave safe_serialization=True")
        return state_dict, make_metadata(state_dict, self._file, self.quantization_config)

    def _dequantize(self, model: Any) -> Any:
        for name, module in model.named_modules():
            if isinstance(module, TernaryLinear) and module.weight.is_meta:
                raise ValueError(f"{name}: its weight is offloaded; load the model without offloading to dequantize it")
        dequantize_(model)
        config = dict(model.config)
        del config["quantization_config"]
        model._internal_dict = FrozenDict(config)
        return model

    @property
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

    def _open(self, files: list[str]) -> None:
        self._file = open_checkpoint(files)
        self.quantization_config.check(self._file)
        self.quantization_config.format_version = self._file.document.version
        self._parts = find_parts(self._file)


AUTO_QUANTIZATION_CONFIG_MAPPING[QuantMethod.TERNFMT.value] = TernaryConfig
AUTO_QUANTIZER_MAPPING[QuantMethod.TERNFMT.value] = TernaryQuantizer
