"""Where the backend runs, and which calls it takes."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from ..contract import Backend, Call, Extras

DEVICES = ("cuda", "xpu")
"""Device types of torch that Triton compiles for; ROCm's is "cuda" too."""

CAPABILITY = (8, 0)
"""NVIDIA devices before Ampere have no bfloat16 in their tensor cores."""

INT8_COLUMNS = (2**31 - 1) // (64 * 127)
"""K up to which sums of int8 activations times decoded codes, which are 64 times too large, fit an int32."""


@functools.cache
def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter: TRITON_INTERPRET=1 was set when triton was imported."""
    from triton.runtime.interpreter import InterpretedFunction

    from .gemm import gemm

    if not isinstance(gemm, InterpretedFunction):
        return False
    from .interpreter import mend_bfloat16

    mend_bfloat16()
    return True


@functools.cache
def unavailable() -> str | None:
    """Why no call can be served on this machine, or None."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install 'ternfmt[triton]')"
    if torch.cuda.is_available() or torch.xpu.is_available():
        return None
    # Triton is asked last: importing it takes seconds.
    if os.environ.get("TRITON_INTERPRET") == "1" and interpreted():
        return None
    return "no CUDA, ROCm or XPU device (TRITON_INTERPRET=1 runs the kernels on the CPU, slowly)"


def refuses(call: Call) -> str | None:
    """Why this call cannot be served, or None."""
    devices = ("cpu",) if interpreted() else DEVICES
    if call.device.type not in devices:
        return f"device: expected {' or '.join(devices)}, got {call.device.type}"
    if call.transposed:
        return "the gradient's product has no kernel"
    if call.x_dtype not in (torch.float16, torch.bfloat16):
        return f"x: expected torch.float16 or torch.bfloat16, got {call.x_dtype}"
    if call.int8 and call.k > INT8_COLUMNS:
        return f"int8 activations: expected K <= {INT8_COLUMNS}, got {call.k}"
    if call.device.type == "cuda" and not torch.version.hip:
        capability = torch.cuda.get_device_capability(call.device)
        if capability < CAPABILITY:
            return f"compute capability: expected at least {CAPABILITY}, got {capability}"
    return None


def _product(call: Call, x: Tensor, codes: Sequence[Tensor], scales: Sequence[Tensor], out: Tensor) -> None:
    from . import launch

    launch.product(call, x, codes, scales, out)


def _linear(
    call: Call, x: Tensor, codes: Sequence[Tensor], scales: Sequence[Tensor], extras: Extras, out: Tensor
) -> None:
    from . import launch

    launch.linear(call, x, codes, scales, extras, out)


TRITON = Backend(name="triton", unavailable=unavailable, refuses=refuses, product=_product, linear=_linear)
