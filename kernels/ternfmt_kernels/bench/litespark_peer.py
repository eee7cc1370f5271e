"""The kernels of litespark-inference (PyPI), where it is installed: ternary weights, int8 activations."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib
import importlib.util
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .contenders import Product, Weight

ROWS = 64
"""The most that a call takes."""

_PACKAGE = "litespark_inference.torchless"


def unavailable() -> str | None:
    """Why it cannot run here, or None."""
    if importlib.util.find_spec("litespark_inference") is None:
        return "litespark-inference is not installed"
    try:
        has = importlib.import_module(f"{_PACKAGE}.kernel").has_batched_matmul()
    except Exception as error:
        return f"litespark-inference: {error}".partition("\n")[0]
    return None if has else "litespark-inference has no product of several rows on this processor"


def copies(weight: Weight, count: int) -> list[Product]:
    """Products of a weight, in its own packing: t + 1 in two bits."""
    kernel = importlib.import_module(f"{_PACKAGE}.kernel")
    packed = importlib.import_module(f"{_PACKAGE}.pack").pack_ternary_4_per_byte(weight.ternary().numpy())
    scale = weight.scale.float().numpy()
    return [partial(_product, kernel=kernel, packed=packed.copy(), scale=scale) for _ in range(count)]


def _product(x: Tensor, *, kernel: Any, packed: np.ndarray, scale: np.ndarray) -> Tensor:
    _set_threads(torch.get_num_threads())
    y = np.empty((len(x), len(packed)), np.float32)
    for first in range(0, len(x), ROWS):
        rows = x[first : first + ROWS].numpy()
        quantised, scales = np.empty(rows.shape, np.int8), np.empty(len(rows), np.float32)
        kernel.quantize_activation_batched(rows, quantised, scales)
        kernel.matmul_packed_mT(quantised, scales, packed, 1.0, y[first : first + ROWS])
    y *= scale
    return torch.from_numpy(y)


def _set_threads(count: int) -> None:
    """Of the system's OpenMP, which is not torch's own copy."""
    ctypes.CDLL(ctypes.util.find_library("gomp") or "libgomp.so.1").omp_set_num_threads(count)
