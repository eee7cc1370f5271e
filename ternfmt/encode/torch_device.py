"""Devices by name, and the memory that they have left."""

from __future__ import annotations

from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")
"""Where a container finds its own limits (cgroup v2)."""


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


def free_bytes(device: torch.device) -> int | None:
    """Memory that can still be had on a device; None where that cannot be found out.

    In a container it is what the container's limit leaves, if that is less than the machine has.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what PyTorch keeps of freed tensors can be had, too
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    try:
        found = _numbers(Path("/proc/meminfo"))
        free = found["MemAvailable:"] * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:
        limit, used = (int((CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        told = _numbers(CGROUP / "memory.stat")
        cached = told["inactive_file"] + told["active_file"]  # given back when it is needed
        free = min(free, limit - used + cached)
    except (OSError, KeyError, ValueError):
        pass  # no limit
    return free


def _numbers(path: Path) -> dict[str, int]:
    """A file of the kernel's with a name and a number in each line."""
    return {words[0]: int(words[1]) for words in map(str.split, path.read_text().splitlines()) if len(words) > 1}
