"""The optional extension module `ternfmt_kernels._cpu`: whether it is there, and which instruction set it uses."""

from __future__ import annotations

import os
from typing import Any

from ..contract import KernelError

try:
    from .. import _cpu
except ImportError:  # built without: no compiler, or it failed
    _cpu = None  # type: ignore[assignment]

VARIABLE = "TERNFMT_CPU_ISA"
"""Environment variable that names the one instruction set to use; unset: the fastest there is."""

MISSING = "the native code was not built (that takes a C compiler when ternfmt is installed)"


def module() -> Any:
    """`ternfmt_kernels._cpu`, or None."""
    return _cpu


def built() -> dict[str, str]:
    """Instruction sets of this build, fastest first, and the processor's features that each needs."""
    return dict(_cpu.built()) if _cpu else {}


def available() -> tuple[str, ...]:
    """Those that can run here, fastest first."""
    return tuple(name for name, _ in _cpu.available()) if _cpu else ()


_AVAILABLE = available()


def selected() -> str:
    """What runs: the one that TERNFMT_CPU_ISA names, or the fastest.

    Raises:
        KernelError: the variable names one that is not in this build or not in this processor, or there is none at all.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return _AVAILABLE[0]
    if _cpu is None:
        raise KernelError(f"{VARIABLE}={name}: expected no value, as {MISSING}")
    if name not in _AVAILABLE:
        needs = built().get(name)
        reason = "this build has no such instruction set" if needs is None else f"this processor lacks one of {needs}"
        raise KernelError(f"{VARIABLE}={name}: {reason}; expected one of {', '.join(_AVAILABLE)}")
    return name
