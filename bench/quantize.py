"""Throughput of `quantize` on layers of FLUX.1's shapes, in million weights a second.

First a slice of each input is compared with the scalar reference, bit for bit; a difference ends
the run. Weights are Gaussian. Of ``--repeats`` runs the best is printed: other programs on the
machine only ever slow a run down. On a busy machine the rate a CPU second, of all threads together,
is the steadier of the two.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

from ternfmt.encode import reference
from ternfmt.encode.quantize import quantize
from ternfmt.tensor import TernaryTensor

SHAPES = ((3072, 3072), (12288, 3072), (3072, 15360))
"""FLUX.1: attention projections, feed-forward up, single-block output."""

METHODS = {"absmean": 1, "exact": 1, "planes2": 2, "planes3": 3, "planes4": 4}
DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32}


def main() -> None:
    """Print a line per case as it is measured, or with --json one document."""
    args = parse_arguments()
    results = []
    for result in measure(args):
        results.append(result)
        if not args.json:
            print(
                f"{result['method']:8} {result['dtype']:8} {result['shape']:>11} "
                f"threads {result['threads']}  {result['mweights_per_s']:6.1f} Mweights/s "
                f"({result['mweights_per_cpu_s']:5.1f} a CPU second)  "
                f"SNR {result['snr_db']:5.2f} dB",
                flush=True,
            )
    if args.json:
        machine = {"cpu": cpu_name(), "cpus": os.cpu_count(), "numpy": np.__version__}
        print(json.dumps({"machine": machine, "results": results}, indent=1))


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--shapes", nargs="+", type=parse_shape, default=SHAPES, metavar="NxK", help="layer shapes")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON document, at the end")
    return parser.parse_args()


def parse_shape(text: str) -> tuple[int, int]:
    """``"3072x15360"`` -> ``(3072, 15360)``."""
    n, k = text.split("x")
    return int(n), int(k)


def measure(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Results in the order they are measured."""
    for shape in args.shapes:
        gaussian = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        gaussian *= np.float32(0.02)
        for dtype in args.dtypes:
            weight = gaussian.astype(DTYPES[dtype])
            for label in args.methods:
                method, planes = label.rstrip("234"), METHODS[label]
                check(weight, method, planes)
                for threads in args.threads:
                    best = best_cpu = float("inf")
                    result = None
                    for _ in range(args.repeats):
                        start, start_cpu = time.perf_counter(), time.process_time()
                        result = quantize(weight, method, planes=planes, threads=threads)
                        best = min(best, time.perf_counter() - start)
                        best_cpu = min(best_cpu, time.process_time() - start_cpu)
                    assert result is not None
                    yield {
                        "method": label,
                        "dtype": dtype,
                        "shape": f"{shape[0]}x{shape[1]}",
                        "threads": threads,
                        "mweights_per_s": round(weight.size / best / 1e6, 2),
                        "mweights_per_cpu_s": round(weight.size / best_cpu / 1e6, 2),
                        "snr_db": round(snr(weight, result), 3),
                    }


def check(weight: np.ndarray, method: str, planes: int) -> None:
    """Exit unless the first row has the reference's scales, and codes at its first 512 columns."""
    result = quantize(weight[:1], method, planes=planes, scale_dtype=np.float32)
    magnitudes = [abs(w) for w in weight[0].astype(float).tolist()]
    rules = {
        "absmean": lambda: [reference.absmean(magnitudes)],
        "exact": lambda: [reference.exact(magnitudes)],
        "planes": lambda: reference.planes(magnitudes, planes),
    }
    scales = rules[method]()
    _, scales = reference.stored_scales(scales, "float32")
    expected = [reference.nearest_codes(w, scales) for w in weight[0, :512].astype(float).tolist()]
    actual = [result.unpack(p)[0, :512].tolist() for p in range(len(scales))]
    if [p.scale[0] for p in result.planes] != scales or list(zip(*actual, strict=True)) != expected:
        sys.exit(f"{method} {weight.dtype} {weight.shape}: differs from the reference; not measured")


def snr(weight: np.ndarray, result: TernaryTensor, rows: int = 256) -> float:
    """Signal-to-noise ratio of the first rows in dB."""
    dense = weight[:rows].astype(np.float64)
    noise = dense - result[:rows].dequantize()
    return float(10 * np.log10((dense * dense).sum() / (noise * noise).sum()))


def cpu_name() -> str:
    """What the operating system calls the processor."""
    try:
        with open("/proc/cpuinfo") as info:
            return next(line.split(":")[1].strip() for line in info if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
