"""GemLite's 2-bit matmul kernels as variants, to be compiled beside ours for the same tile.

GemLite (PyPI: gemlite, Apache-2.0) is an optional peer: nothing is copied from it, and where it is not installed its
columns stay empty. Its helpers for ternary weights, ``A16W158_INT`` and ``A8W158_INT_dynamic``, run its general
2-bit kernel with the cheapest decoding it has (codes t + 1 in 32-bit words, the one subtracted in the loop, the scale
after the sum); that is what is compiled here, with its default of float32 scales. Its option of 16-bit scales makes
the same loop for bf16 and int8 activations, where Triton subtracts in float32 anyway.

GemLite asks for the GPU when it is imported. Here it is told of one that does not exist, for the time of the import.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

from .variants import Tile, Variant

NAME = "GemLite"
COLUMNS = 3072
"""N and K that its kernel is specialised to: those of FLUX.1's attention projections."""


def version() -> str | None:
    """The installed version, or None."""
    if importlib.util.find_spec("gemlite") is None:
        return None
    return importlib.metadata.version("gemlite")


def variant(tile: Tile, dtype: str, warps: int, stages: int) -> Variant | None:
    """Its kernel for ternary weights at this tile; none where it is absent.

    Args:
        tile: of a block.
        dtype: of the activations: "bf16", "fp16" or "i8".
        warps: of a block.
        stages: of the software pipeline.
    """
    if version() is None:
        return None
    import triton.language as tl

    kernel = _gemm_kernel()
    types = {"bf16": tl.bfloat16, "fp16": tl.float16, "i8": tl.int8}
    int8 = dtype == "i8"
    out = "bf16" if int8 else dtype
    typed = {
        "a_ptr": f"*{dtype}",
        "b_ptr": "*i32",
        "c_ptr": f"*{out}",
        "scales_ptr": "*fp32",
        "zeros_ptr": "*i32",
        "M": "i32",
        "M_CLOSEST": "i32",
        "stride_am": "i32",
        "stride_bk": "i32",
        "stride_cm": "i32",
        "stride_meta_g": "i32",
    }
    if int8:
        typed["scales_a_ptr"] = "*fp32"
        typed["stride_meta_a_m"] = "i32"
    constants: dict[str, Any] = {
        "N": COLUMNS,
        "K": COLUMNS,
        "W_nbits": 2,
        "group_size": COLUMNS,
        "unpack_mask": 3,
        "elements_per_sample": 16,
        "type_id": 402 if int8 else 102,
        "a_sizeof": 1 if int8 else 2,
        "b_sizeof": 4,
        "input_dtype": types[dtype],
        "output_dtype": types[out],
        "acc_dtype": tl.int32 if int8 else tl.float32,
        "meta_dtype": tl.float32,
        "channel_scale_mode": 3 if int8 else 1,  # scale after the sum, the activations' too
        "W_group_mode": 1,  # subtract the zero point, nothing else
        "zero_is_scalar": True,
        "BLOCK_SIZE_M": tile.m,
        "BLOCK_SIZE_N": tile.n,
        "BLOCK_SIZE_K": tile.k,
        "GROUP_SIZE_M": 8,
        "NUM_STAGES": stages,
        "A_load_order": 0,
        "data_contiguous": True,
        "EVEN_M": True,
        "EVEN_K": True,
        "EVEN_N": True,
        "use_tma": False,
        "load_scales_as_block": False,
    }
    defaults = {p.name: p.default for p in kernel.params if p.has_default}
    signature = {}
    for name in kernel.arg_names:
        if name in typed:
            signature[name] = typed[name]
            continue
        signature[name] = "constexpr"
        # The strides that are one, and the arguments that are absent, are constants at launch too.
        absent = 1 if name.startswith("stride_") else None
        constants.setdefault(name, defaults.get(name, absent))
    divisible = tuple(n for n in typed if n not in ("zeros_ptr", "M_CLOSEST", "stride_meta_a_m"))
    return Variant(
        name="gemlite A8W158_INT_dynamic" if int8 else "gemlite A16W158_INT",
        config=f"{tile} w{warps} s{stages}",
        fn=kernel,
        signature=signature,
        constants={name: constants[name] for name, kind in signature.items() if kind == "constexpr"},
        divisible=divisible,
        tile=tile,
        matrix=True,
        dtype=dtype,
        warps=warps,
        stages=stages,
    )


def _gemm_kernel() -> Any:
    """Its matmul kernel, without the autotuner and the heuristics around it."""
    with _pretended_gpu(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports the deprecated module imp
        kernel = importlib.import_module("gemlite.triton_kernels.gemm_kernels").gemm_INT_kernel
    while hasattr(kernel, "fn") and not hasattr(kernel, "params"):
        kernel = kernel.fn
    return kernel


@contextlib.contextmanager
def _pretended_gpu() -> Iterator[None]:
    """Where torch sees no GPU: answer the questions that GemLite asks while it is imported."""
    import torch
    from triton.runtime import driver

    if torch.cuda.is_available():
        yield
        return
    properties = SimpleNamespace(name="none", multi_processor_count=1, major=8, minor=0)
    target = SimpleNamespace(backend="cuda", arch=80, warp_size=32)
    pretended = SimpleNamespace(
        get_current_target=lambda: target,
        get_benchmarker=lambda: None,
        utils=SimpleNamespace(get_device_properties=lambda device: {"max_shared_mem": 0}),
    )
    with (
        mock.patch.object(torch.cuda, "get_device_capability", return_value=(8, 0)),
        mock.patch.object(torch.cuda, "get_device_properties", return_value=properties),
        mock.patch.object(driver, "_active", pretended),
    ):
        yield
