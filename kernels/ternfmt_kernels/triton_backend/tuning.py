"""Which configuration a product runs with: the shipped table's, or one that was timed on this device.

Nothing is timed unless asked for: `TERNFMT_TUNE=1` times the candidates of a shape the first time it is
met, and writes the fastest to a file, which later processes read. `TERNFMT_TUNE=0` is the deterministic
mode: the table alone, so that results have the same bits whatever was tuned (a different split of K
adds in another order). By default the file is read and nothing is timed.

The file is ``TERNFMT_TUNE_FILE``, or ``ternfmt/triton-configs.json`` in ``XDG_CACHE_HOME`` or ``~/.cache``.
Timing has not been exercised on a device; the choice, the file and the modes are tested.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
import triton

from . import configs
from .configs import Config, Kind

MODE = "TERNFMT_TUNE"
FILE = "TERNFMT_TUNE_FILE"


def choose(
    arch: str, kind: Kind, shape: tuple[int, int, int], features: tuple[str, ...], run: Callable[[Config], None]
) -> Config:
    """The configuration for a product.

    Args:
        arch: a key of `configs.ARCHS`.
        kind: of activations.
        shape: M, N and K; M counts as its bucket.
        features: whatever else makes a product another kernel.
        run: computes the product with a configuration; called only to time it.
    """
    mode = os.environ.get(MODE, "")
    if mode not in ("", "0", "1"):
        raise ValueError(f"{MODE}: expected 0 (never tune, ignore tuned results), 1 (tune) or nothing, got {mode!r}")
    m, n, k = shape
    if mode == "0" or arch == "interpreter":
        return configs.shipped(arch, kind, m, n, k)
    tuned = _known(path())
    if not tuned and mode != "1":  # the usual case, on the way of every product
        return configs.shipped(arch, kind, m, n, k)
    key = _key(arch, kind, shape, features)
    if key in tuned:
        return tuned[key]
    if mode == "1" and not _capturing():
        best = fastest(configs.candidates(arch, kind, m, n, k), run)
        if best is not None:
            tuned[key] = best
            _write(path(), key, best)
            return best
    return configs.shipped(arch, kind, m, n, k)


def fastest(
    candidates: object, run: Callable[[Config], None], time: Callable[[Callable[[], None]], float] | None = None
) -> Config | None:
    """The candidate that ``run`` takes the least time with, by the median; those that do not fit are passed over."""
    time = time or (lambda call: triton.testing.do_bench(call, warmup=10, rep=50, return_mode="median"))
    best, least = None, float("inf")
    for config in candidates:  # type: ignore[attr-defined]
        try:
            taken = time(functools.partial(run, config))
        except triton.runtime.errors.OutOfResources:
            continue
        if taken < least:
            best, least = config, taken
    return best


def path() -> Path:
    """Where tuned configurations are kept."""
    if FILE in os.environ:
        return Path(os.environ[FILE])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ternfmt" / "triton-configs.json"


def _key(arch: str, kind: Kind, shape: tuple[int, int, int], features: tuple[str, ...]) -> str:
    m, n, k = shape
    most = configs.BUCKETS[configs.bucket(m)] or "more"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else arch
    return " ".join([device, triton.__version__, kind, f"M<={most}", f"N={n}", f"K={k}", *features])


@functools.lru_cache(maxsize=4)
def _known(file: Path) -> dict[str, Config]:
    """What the file held when it was first asked for, and what this process has found since."""
    return _read(file)


def _read(file: Path) -> dict[str, Config]:
    """The tuned configurations; a file that is not of the form `_write` gives counts as empty."""
    try:
        return {key: Config(**fields) for key, fields in json.loads(file.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(file: Path, key: str, config: Config) -> None:
    """Add an entry by renaming a new file over the old one; a folder that cannot be written is no error."""
    entries = {k: asdict(c) for k, c in (_read(file) | {key: config}).items()}
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, suffix=".json", delete=False) as new:
            json.dump(entries, new, indent=1, sort_keys=True)
        os.replace(new.name, file)


def _capturing() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
