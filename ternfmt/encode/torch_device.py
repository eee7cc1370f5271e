"""Devices by name."""

from __future__ import annotations

import torch


def torch_device(name: str) -> torch.device:
    """The torch device of this name, ``cpu``, ``cuda``, ``cuda:1``, if it can be used here.

    Raises:
        ValueError: it cannot; says why.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device {name!r}: torch {torch.__version__} cannot use it here: {reason}") from error
    return device
