"""The two ratios, never mixed: how much smaller the ternary weights are, and how much smaller the model is."""

from __future__ import annotations

from collections.abc import Iterable

from .container import DTYPES
from .reader import TensorInfo

BF16_BYTES = 2


def block_ratio(tensors: Iterable[TensorInfo]) -> float | None:
    """BF16 bytes of the ternary weights / bytes of their codes, scales, planes and low-rank factors.

    None without ternary tensors.
    """
    ternary = [info for info in tensors if info.ternary]
    stored = sum(info.nbytes for info in ternary)
    return sum(info.size for info in ternary) * BF16_BYTES / stored if stored else None


def file_ratio(tensors: Iterable[TensorInfo], source_bytes: int | None = None) -> float | None:
    """Bytes of the whole checkpoint before / after.

    Before is ``source_bytes`` where the source is known; else what every floating-point weight takes in BF16 and
    every other dense tensor as it is. None for a model without bytes.
    """
    tensors = list(tensors)
    after = sum(info.nbytes for info in tensors)
    if source_bytes is None:
        source_bytes = sum(_dense_bytes(info) for info in tensors)
    return source_bytes / after if after else None


def _dense_bytes(info: TensorInfo) -> int:
    dtype = DTYPES[info.dtype]
    is_float = info.ternary or info.dtype in ("F64", "F32", "F16", "BF16")
    return info.size * (BF16_BYTES if is_float else dtype.itemsize)
