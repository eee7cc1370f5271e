"""Multiply activations by packed ternary weights (SPEC section 12) in PyTorch."""

from .contract import KernelError
from .linear import linear
from .ops import matmul, matmul_transposed
from .registry import backends

__all__ = ["KernelError", "backends", "linear", "matmul", "matmul_transposed"]
