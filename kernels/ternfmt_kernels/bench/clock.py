"""Time on a device, and how much memory it has."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FLUSH_BYTES = 256 << 20
"""More than any L2 cache: written between runs, so that weights come from memory each time, as in a model."""

WARM_UP = 3
FEWEST, MOST = 5, 200


@dataclass(frozen=True)
class Timing:
    """Seconds of one run.

    Attributes:
        median: of the runs.
        low: the tenth percentile.
        high: the ninetieth.
        runs: how many.
    """

    median: float
    low: float
    high: float
    runs: int


def accelerator(device: torch.device) -> Any:
    """torch.cuda (ROCm too) or torch.xpu, None for the CPU."""
    return None if device.type == "cpu" else getattr(torch, device.type)


def measure(run: Callable[[], object], device: torch.device, budget: float) -> Timing:
    """Time ``run`` for about ``budget`` seconds, caches cold."""
    module = accelerator(device)
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device) if module is not None else None
    for _ in range(WARM_UP if module is not None else 1):
        run()
    synchronise(device)
    started = time.perf_counter()
    run()
    synchronise(device)
    once = max(time.perf_counter() - started, 1e-6)
    runs = max(FEWEST, min(MOST, int(budget / once)))
    return _spread(_times(run, runs, module, flush))


def _times(run: Callable[[], object], runs: int, module: Any, flush: Tensor | None) -> list[float]:
    if module is None or flush is None:
        times = []
        for _ in range(runs):
            started = time.perf_counter()
            run()
            times.append(time.perf_counter() - started)
        return times
    events = [(module.Event(enable_timing=True), module.Event(enable_timing=True)) for _ in range(runs)]
    for start, end in events:
        flush.zero_()
        start.record()
        run()
        end.record()
    module.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in events]


def _spread(times: list[float]) -> Timing:
    tenths = statistics.quantiles(times, n=10)
    return Timing(statistics.median(times), tenths[0], tenths[-1], len(times))


def synchronise(device: torch.device) -> None:
    """Wait for what was launched."""
    module = accelerator(device)
    if module is not None:
        module.synchronize()


def free_bytes(device: torch.device, cap: int | None) -> int:
    """Bytes that can be allocated on ``device``; ``cap`` pretends a smaller one."""
    module = accelerator(device)
    if module is None:
        return cap if cap is not None else 4 << 30
    free, total = module.mem_get_info()
    free += module.memory_reserved() - module.memory_allocated()
    return int(free if cap is None else min(free, cap - (total - free)))


def limit_memory(device: torch.device, cap: int | None) -> None:
    """Let torch allocate no more than ``cap`` bytes on ``device``."""
    module = accelerator(device)
    if module is not None and cap is not None and hasattr(module, "set_per_process_memory_fraction"):
        module.set_per_process_memory_fraction(min(1.0, cap / module.mem_get_info()[1]))


def release(device: torch.device) -> None:
    """Give what is not in use back to the device."""
    module = accelerator(device)
    if module is not None:
        gc.collect()
        module.empty_cache()


class Peak:
    """Most bytes allocated inside the block, those allocated before it included; None on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.module = accelerator(device)
        self.bytes: int | None = None

    def __enter__(self) -> Peak:
        if self.module is not None:
            release(self.device)
            self.module.reset_peak_memory_stats()
        return self

    def __exit__(self, *_: object) -> None:
        if self.module is not None:
            self.module.synchronize()
            self.bytes = int(self.module.max_memory_allocated())
