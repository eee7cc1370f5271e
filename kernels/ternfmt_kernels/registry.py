"""The backends in order of priority, and the choice among them."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from functools import cache

from .contract import Backend, Call, KernelError
from .cpu_backend.backend import CPU
from .reference import TORCH
from .triton_backend import TRITON

BACKENDS: list[Backend] = [TRITON, CPU, TORCH]
"""Fastest first; the last serves every call."""

OVERRIDE = "TERNFMT_KERNEL"
"""Environment variable that names the one backend to use."""


@dataclass(frozen=True)
class Status:
    """A backend on this machine; ``unavailable`` is the reason why not, or None."""

    name: str
    unavailable: str | None


def backends() -> list[Status]:
    """All backends, fastest first, with their availability on this machine. Never raises."""
    return [Status(b.name, _unavailable(b)) for b in BACKENDS]


def _unavailable(backend: Backend) -> str | None:
    try:
        return backend.unavailable()
    except KernelError as error:
        return str(error)


def select(call: Call) -> Backend:
    """The first backend that serves ``call``; with TERNFMT_KERNEL set, that one or none.

    Warns, once, where a product falls to the reference because there is no native code.

    Raises:
        KernelError: TERNFMT_KERNEL cannot be honoured; names the reason and what is available.
    """
    forced = os.environ.get(OVERRIDE)
    if forced:
        return _forced(forced, call)
    backend = next(b for b in BACKENDS if _reason(b, call) is None)
    if backend is TORCH and call.device.type == "cpu" and (reason := CPU.unavailable()) is not None:
        _warn_of_reference(reason)
    return backend


@cache
def _warn_of_reference(reason: str) -> None:
    text = "ternary layers on the CPU run on the reference backend, which is many times slower than ternfmt's kernels"
    warnings.warn(f"{text}: {reason}", RuntimeWarning, stacklevel=2)


def _forced(name: str, call: Call) -> Backend:
    backend = next((b for b in BACKENDS if b.name == name), None)
    reason = "no such backend" if backend is None else _reason(backend, call)
    if backend is None or reason is not None:
        known = "; ".join(f"{s.name}: {s.unavailable or 'available'}" for s in backends())
        raise KernelError(f"{OVERRIDE}={name}: {reason} (backends here: {known})")
    return backend


def _reason(backend: Backend, call: Call) -> str | None:
    return backend.unavailable() or backend.refuses(call)
