"""Numpy arrays to torch tensors and back, without going through dense weights or losing BF16."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Types that numpy or torch does not know by itself travel as unsigned integers of their size.
_BITS = {
    np.dtype(ml_dtypes.bfloat16): (np.uint16, torch.bfloat16),
    np.dtype(ml_dtypes.float8_e4m3fn): (np.uint8, torch.float8_e4m3fn),
    np.dtype(ml_dtypes.float8_e5m2): (np.uint8, torch.float8_e5m2),
    np.dtype(ml_dtypes.float8_e8m0fnu): (np.uint8, torch.float8_e8m0fnu),
}
_NUMPY_DTYPES = {tensor: (bits, array) for array, (bits, tensor) in _BITS.items()}


def to_tensor(array: npt.NDArray[Any]) -> Tensor:
    """The array as a CPU tensor; shares writable memory, copies read-only (mapped) arrays."""
    array = np.require(array, requirements=["C", "W"])
    if array.dtype not in _BITS:
        return torch.from_numpy(array)
    bits, dtype = _BITS[array.dtype]
    return torch.from_numpy(array.view(bits)).view(dtype)


def host_copy(array: npt.NDArray[Any], device: torch.device) -> npt.NDArray[Any]:
    """A writable copy of a file's array, from where ``device`` can fetch it.

    For another device than the CPU it lies in page-locked memory, which the device reads at full
    speed; from other memory the driver would first make a copy of its own.
    """
    if device.type in ("cpu", "meta"):
        return np.array(array)
    dtype = to_tensor(np.empty(0, array.dtype)).dtype
    copy = to_array(torch.empty(array.shape, dtype=dtype, pin_memory=True))
    np.copyto(copy, array)
    return copy


def to_array(tensor: Tensor) -> npt.NDArray[Any]:
    """The tensor as an array; shares the memory of a contiguous CPU tensor."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype not in _NUMPY_DTYPES:
        return tensor.numpy()
    bits, dtype = _NUMPY_DTYPES[tensor.dtype]
    return tensor.view(getattr(torch, np.dtype(bits).name)).numpy().view(dtype)
