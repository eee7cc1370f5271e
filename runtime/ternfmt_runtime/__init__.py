"""Run ternary models in PyTorch."""

from .linear import TernaryLinear
from .load import LoadError, LoadReport, load_into
from .quantize import QuantizeReport, quantize_
from .swap import dequantize_

__all__ = [
    "LoadError",
    "LoadReport",
    "QuantizeReport",
    "TernaryLinear",
    "dequantize_",
    "load_into",
    "quantize_",
]
