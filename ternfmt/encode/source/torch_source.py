"""Read what ``torch.save`` wrote (``.bin``, ``.pt``, ``.pth``, ``.ckpt``).

Such files are pickles, and a pickle can run any code. They are read with ``weights_only=True`` alone, which knows
tensors and containers and refuses everything else.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from ...container import DTYPE_NAMES, DTYPES, Span, is_tensor_name
from ..weights import Array
from .tensor_source import Stamp

MAPPED_BYTES = 256 << 20
"""Bytes read from a file before it is mapped anew: pages that were read count as memory while they are mapped."""

_DTYPES = {
    getattr(torch, name): DTYPES[stored]
    for name, stored in {
        "bool": "BOOL", "uint8": "U8", "int8": "I8", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
        "uint16": "U16", "int16": "I16", "float16": "F16", "bfloat16": "BF16", "uint32": "U32", "int32": "I32",
        "float32": "F32", "uint64": "U64", "int64": "I64", "float64": "F64", "complex64": "C64",
    }.items()
}  # fmt: skip


class TorchSource:
    """Tensors of files that ``torch.save`` wrote; a `TensorSource`.

    Attributes:
        spans: every tensor, as if each began at byte 0.
        metadata: none.
        stamps: every file, as it was when it was opened.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        """Map the files.

        Raises:
            ValueError: a file is not a state dict of plain tensors, or holds more than ``weights_only`` reads, or a
                tensor comes twice.
            OSError: a file cannot be read.
        """
        self.spans: dict[str, Span] = {}
        self.metadata: Mapping[str, str] = {}
        self.stamps: dict[Path, Stamp] = {}
        self._files: dict[str, _MappedFile] = {}
        for path in files:
            self.stamps[path] = Stamp.of(path)
            mapped = self._files[str(path)] = _MappedFile(path)
            for name, tensor in mapped.tensors().items():
                if name in self.spans:
                    raise ValueError(f"{path}: {name!r} is also in {self.spans[name].file}")
                self.spans[name] = _span(path, name, tensor)

    def read(self, name: str, start: int, stop: int) -> Array:
        """As `TensorSource.read`."""
        span = self.spans[name]
        rows = self._files[span.file].rows(name, start, stop)
        return rows.reshape(-1).view(torch.uint8).numpy().view(DTYPES[span.dtype]).reshape(rows.shape)

    def close(self) -> None:
        """Let go of the files."""
        self._files.clear()


class _MappedFile:
    """One file, mapped anew now and then."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._tensors: dict[str, Tensor] | None = None
        self._read_bytes = 0

    def tensors(self) -> dict[str, Tensor]:
        """The mapped tensors."""
        if self._tensors is None:
            self._tensors = load_state_dict(self._path)
        return self._tensors

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """A copy of rows ``[start, stop)``."""
        with self._lock:
            tensor = self.tensors()[name]
            copy = (tensor if tensor.ndim else tensor[None])[start:stop].clone(memory_format=torch.contiguous_format)
            self._read_bytes += copy.nbytes
            if self._read_bytes > MAPPED_BYTES:
                self._tensors, self._read_bytes = None, 0
        return copy


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, mapped into memory.

    Raises:
        ValueError: as for `TorchSource`.
        OSError: the file cannot be read.
    """
    try:
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError as error:
        raise ValueError(
            f"{path}: holds more than tensors, and unpickling that could run code: {_first_line(error)}. "
            "If you trust it, load it with torch and save its state dict as safetensors"
        ) from None
    except RuntimeError as error:
        raise ValueError(
            f"{path}: torch cannot map it: {_first_line(error)}. A file of before torch 1.6 has to be loaded and saved "
            "again, best as safetensors; any other is damaged: fetch it again"
        ) from None
    # Training frameworks put the weights beside what else they save.
    value = value.get("state_dict", value) if isinstance(value, dict) else value
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{path}: expected a state dict, got {type(value).__name__}")
    for name, tensor in value.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(
                f"{path}: {name!r}: expected a tensor, got {type(tensor).__name__}: save the state dict alone"
            )
    return value


def _span(path: Path, name: Any, tensor: Tensor) -> Span:
    if not isinstance(name, str) or not is_tensor_name(name):
        raise ValueError(f"{path}: {name!r}: expected a name of 1 to 255 characters in 0x21..0x7e")
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.dtype not in _DTYPES:
        raise ValueError(f"{path}: {name!r}: {tensor.dtype}, {tensor.layout}: cannot be stored; see SPEC S-1.9")
    return Span(str(path), DTYPE_NAMES[_DTYPES[tensor.dtype]], tuple(tensor.shape), 0, tensor.nbytes)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
