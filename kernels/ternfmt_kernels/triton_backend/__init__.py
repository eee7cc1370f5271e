"""Backend ``triton``: packed products on CUDA, ROCm and XPU devices, and on the CPU in Triton's interpreter.

Importing it does not import triton; what does is reached when the backend is asked for a product.
"""

from .backend import TRITON

__all__ = ["TRITON"]
