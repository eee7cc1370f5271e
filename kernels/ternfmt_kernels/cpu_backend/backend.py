"""Backend ``cpu``: native kernels on the packed bytes, for tensors in the processor's memory."""

from __future__ import annotations

import os

from ternfmt.limits import K_MAX

from ..contract import Backend, Call
from . import isa, launch


def unavailable() -> str | None:
    """Why no call can be served on this machine, or None.

    Raises:
        KernelError: TERNFMT_CPU_ISA cannot be honoured.
    """
    if isa.module() is None and not os.environ.get(isa.VARIABLE):
        return isa.MISSING
    isa.selected()
    return None


def refuses(call: Call) -> str | None:
    """Why this call cannot be served, or None."""
    if call.device.type != "cpu":
        return f"device: expected cpu, got {call.device.type}"
    if call.transposed:
        return "the gradient's product has no kernel"
    if not 1 <= call.k <= K_MAX:
        return f"columns: expected 1 to {K_MAX}, got {call.k}"
    return None


CPU = Backend(name="cpu", unavailable=unavailable, refuses=refuses, product=launch.product, linear=launch.linear)
