"""Run ternary models in PyTorch.

Importing this package is all it takes for ``from_pretrained`` of diffusers and transformers to know
ternary checkpoints; neither library is imported by it.
"""

from typing import TYPE_CHECKING, Any

from . import plugins
from .linear import TernaryLinear
from .load import LoadError, LoadReport, load_into
from .memory import DeviceMemory, device_memory, use_int8_activations
from .quantize import QuantizeReport, quantize_
from .swap import dequantize_

if TYPE_CHECKING:
    from .config import TernaryConfig

__all__ = [
    "DeviceMemory",
    "LoadError",
    "LoadReport",
    "QuantizeReport",
    "TernaryConfig",
    "TernaryLinear",
    "dequantize_",
    "device_memory",
    "load_into",
    "quantize_",
    "use_int8_activations",
]

plugins.watch()


def __getattr__(name: str) -> Any:
    """`TernaryConfig` on first use: its base classes come from diffusers and transformers."""
    if name == "TernaryConfig":
        from .config import TernaryConfig

        return TernaryConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
