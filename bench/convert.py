"""Time and memory of `ternfmt convert`, beside plain reading of the same files.

Each round reads the source's files once, with as many threads and in blocks of the size that the conversion uses, and
then converts them; before both, the system is asked to drop the files from its cache (``--warm`` leaves them there).
What counts is the ratio in one round: disks and neighbours change from minute to minute. The peak of resident memory
is the kernel's count (VmHWM) for the converting process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from ternfmt.encode.run.stream import BLOCK_WEIGHTS
from ternfmt.encode.source.checkpoint import find_checkpoint

BLOCK_BYTES = 2 * BLOCK_WEIGHTS


def main() -> None:
    """Print a line per round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("destination", type=Path, help="is removed after each round but the last")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--warm", action="store_true", help="leave the files in the cache")
    parser.add_argument("--json", type=Path, help="where the last summary of `ternfmt convert` is written")
    arguments, options = parser.parse_known_args()  # what is left goes to `ternfmt convert`
    files = find_checkpoint(arguments.source).files
    size = sum(file.stat().st_size for file in files)
    for left in reversed(range(arguments.rounds)):
        if not arguments.warm:
            drop(files)
        reading = read(files, arguments.jobs)
        if not arguments.warm:
            drop(files)
        seconds, summary = convert(arguments.source, arguments.destination, ["--jobs", str(arguments.jobs), *options])
        print(
            f"jobs {arguments.jobs}  reading {reading:6.1f} s ({size / reading / 1e6:5.0f} MB/s)  "
            f"converting {seconds:6.1f} s ({summary['mweights_per_s']:5.0f} Mweights/s)  "
            f"{seconds / reading:5.2f} times reading  peak memory {summary['peak_rss_bytes'] / 1e6:.0f} MB  "
            f"file ratio {summary['file_ratio']:.3f}x  {summary['native']}",
            flush=True,
        )
        if arguments.json:
            arguments.json.write_text(json.dumps(summary, indent=1) + "\n")
        if left:
            remove(arguments.destination)


def drop(files: tuple[Path, ...]) -> None:
    """Ask the system to forget what it has cached of the files."""
    for file in files:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(files: tuple[Path, ...], jobs: int) -> float:
    """Seconds to read the files once."""

    def block(descriptor: int, offset: int) -> int:
        return len(os.pread(descriptor, BLOCK_BYTES, offset))

    started = time.perf_counter()
    with ThreadPoolExecutor(jobs) as pool:
        for file in files:
            with file.open("rb", buffering=0) as stream:
                offsets = range(0, file.stat().st_size, BLOCK_BYTES)
                list(pool.map(partial(block, stream.fileno()), offsets))
    return time.perf_counter() - started


def convert(source: Path, destination: Path, options: list[str]) -> tuple[float, dict[str, Any]]:
    """Seconds from start to end of the process, and its summary."""
    command = [sys.executable, "-m", "ternfmt", "convert", str(source), str(destination), "--json", *options]
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return time.perf_counter() - started, json.loads(done.stdout)


def remove(destination: Path) -> None:
    """Remove a result."""
    if destination.is_dir():
        shutil.rmtree(destination)
    else:
        destination.unlink()


if __name__ == "__main__":
    main()
