"""ggml's products (llama.cpp), where its libraries were built: called through ctypes.

Any build of ggml as shared libraries will do, such as the one in the source archive of llama-cpp-python. A graph of one
product is made for each weight and number of rows, and computed as llama.cpp computes it.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_bool, c_char, c_char_p, c_int, c_int64, c_size_t, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .contenders import Product, Weight

VARIABLE = "TERNFMT_BENCH_GGML"
"""Environment variable with the folder of ggml's libraries."""

OVERHEAD = 1 << 20
"""Bytes for what ggml keeps of a few tensors and a graph."""

_F32 = 0
_DONE = 0


@dataclass(frozen=True)
class Kind:
    """A type of weights.

    Attributes:
        name: ggml's.
        what: it is, in a line.
        number: in ``enum ggml_type``.
        bits: for each weight.
        repacked: into the order that its fastest kernels of this processor want, as llama.cpp does on loading.
    """

    name: str
    what: str
    number: int
    bits: float
    repacked: bool


KINDS = (
    Kind("TQ2_0", "ggml's ternary type, activations int8 in blocks of 256", 35, 2.0625, False),
    Kind("Q4_0", "ggml's 4-bit type, repacked, activations int8 in blocks of 32", 2, 4.5, True),
)


class _Memory(Structure):
    _fields_ = (("size", c_size_t), ("buffer", c_void_p), ("no_alloc", c_bool))


class _Plan(Structure):
    """Of ``struct ggml_cplan`` the first three fields, and room for what a version may have behind them."""

    _fields_ = (("work_size", c_size_t), ("work_data", c_void_p), ("threads", c_int), ("rest", c_char * 236))


_Log = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)

_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ggml_init": (c_void_p, [_Memory]),
    "ggml_free": (None, [c_void_p]),
    "ggml_new_tensor_2d": (c_void_p, [c_void_p, c_int, c_int64, c_int64]),
    "ggml_get_data": (c_void_p, [c_void_p]),
    "ggml_nbytes": (c_size_t, [c_void_p]),
    "ggml_row_size": (c_size_t, [c_int, c_int64]),
    "ggml_mul_mat": (c_void_p, [c_void_p, c_void_p, c_void_p]),
    "ggml_new_graph": (c_void_p, [c_void_p]),
    "ggml_build_forward_expand": (None, [c_void_p, c_void_p]),
    "ggml_quantize_chunk": (c_size_t, [c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p]),
    "ggml_backend_reg_dev_get": (c_void_p, [c_void_p, c_size_t]),
    "ggml_backend_reg_get_proc_address": (c_void_p, [c_void_p, c_char_p]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, [c_void_p, c_void_p]),
    "ggml_backend_buft_name": (c_char_p, [c_void_p]),
    "ggml_backend_buffer_free": (None, [c_void_p]),
    "ggml_backend_tensor_set": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_cpu_buffer_type": (c_void_p, []),
    "ggml_backend_cpu_reg": (c_void_p, []),
    "ggml_cpu_init": (None, []),
    "ggml_log_set": (None, [_Log, c_void_p]),
    "ggml_graph_plan": (_Plan, [c_void_p, c_int, c_void_p]),
    "ggml_graph_compute": (c_int, [c_void_p, POINTER(_Plan)]),
}


class _Library:
    """The functions of both libraries, with their types."""

    def __init__(self, folder: Path) -> None:
        names = ("base", "cpu")
        parts = [ctypes.CDLL(str(folder / f"libggml-{name}.so"), mode=ctypes.RTLD_GLOBAL) for name in names]
        for name, (result, arguments) in _SIGNATURES.items():
            function = next(getattr(part, name) for part in reversed(parts) if hasattr(part, name))
            function.restype, function.argtypes = result, arguments
            setattr(self, name.removeprefix("ggml_"), function)
        self.silence = _Log(lambda *_: None)
        self.log_set(self.silence, None)
        self.cpu_init()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"ggml: no function {name}")

    def buffer_type(self, *, repacked: bool) -> int:
        """Where weights go."""
        if repacked:
            reg = self.backend_cpu_reg()
            address = self.backend_reg_get_proc_address(reg, b"ggml_backend_dev_get_extra_bufts")
            extra = ctypes.CFUNCTYPE(POINTER(c_void_p), c_void_p)(address)(self.backend_reg_dev_get(reg, 0))
            index = 0
            while extra and extra[index]:
                if self.backend_buft_name(extra[index]) == b"CPU_REPACK":
                    return int(extra[index])
                index += 1
        return int(self.backend_cpu_buffer_type())


@cache
def _library(folder: Path) -> _Library:
    return _Library(folder)


def unavailable(folder: Path | None) -> str | None:
    """Why it cannot run here, or None."""
    if folder is None:
        return f"no folder of ggml's libraries was given (--ggml, {VARIABLE})"
    try:
        _library(folder)
    except (OSError, StopIteration) as error:
        return f"ggml: {error or 'a function is missing'}"
    return None


def copies(folder: Path | None, kind: Kind, weight: Weight, count: int) -> list[Product]:
    """Products of a weight, quantised once."""
    assert folder is not None
    library = _library(folder)
    dense = weight.dense(torch.float32)
    data = torch.empty(weight.n * library.row_size(kind.number, weight.k), dtype=torch.uint8)
    library.quantize_chunk(kind.number, dense.data_ptr(), data.data_ptr(), 0, weight.n, weight.k, None)
    return [_Product(library, kind, data, weight.n, weight.k) for _ in range(count)]


class _Product:
    """A weight in memory of ggml's, and the graph for the number of rows that was last asked for."""

    def __init__(self, library: _Library, kind: Kind, data: Tensor, n: int, k: int) -> None:
        self.library, self.n, self.k = library, n, k
        self.rows = -1
        self.graph_memory: int | None = None
        self.work = torch.empty(0, dtype=torch.uint8)
        self.weight_memory = library.init(_Memory(OVERHEAD, None, True))
        self.weight = library.new_tensor_2d(self.weight_memory, kind.number, k, n)
        where = library.buffer_type(repacked=kind.repacked)
        self.buffer = library.backend_alloc_ctx_tensors_from_buft(self.weight_memory, where)
        library.backend_tensor_set(self.weight, data.data_ptr(), 0, len(data))

    def __call__(self, x: Tensor) -> Tensor:
        library, rows = self.library, len(x)
        if rows != self.rows:
            self._prepare(rows)
        ctypes.memmove(library.get_data(self.x), x.data_ptr(), x.nbytes)
        plan = library.graph_plan(self.graph, torch.get_num_threads(), None)
        if plan.work_size > len(self.work):
            self.work = torch.empty(plan.work_size, dtype=torch.uint8)
        plan.work_data = self.work.data_ptr()
        status = library.graph_compute(self.graph, ctypes.byref(plan))
        if status != _DONE:
            raise RuntimeError(f"ggml_graph_compute: status {status}")
        return self.y

    def _prepare(self, rows: int) -> None:
        library = self.library
        if self.graph_memory is not None:
            library.free(self.graph_memory)
        self.graph_memory = library.init(_Memory(OVERHEAD + 4 * rows * (self.k + self.n), None, False))
        self.x = library.new_tensor_2d(self.graph_memory, _F32, self.k, rows)
        result = library.mul_mat(self.graph_memory, self.weight, self.x)
        self.graph = library.new_graph(self.graph_memory)
        library.build_forward_expand(self.graph, result)
        memory = (ctypes.c_float * (rows * self.n)).from_address(library.get_data(result))
        self.y = torch.frombuffer(memory, dtype=torch.float32).view(rows, self.n)
        self.rows = rows

    def __del__(self) -> None:
        if self.graph_memory is not None:
            self.library.free(self.graph_memory)
        self.library.backend_buffer_free(self.buffer)
        self.library.free(self.weight_memory)
