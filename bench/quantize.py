"""Throughput of `quantize` on layers of FLUX.1's shapes, in million weights a second.

First a slice of each input is compared with the scalar reference, bit for bit, and with native code a larger one with
numpy; a difference ends the run. Weights are Gaussian. Implementations take turns, and of ``--repeats`` runs the best
is printed: other programs on the machine only ever slow a run down. On a busy machine the rate a CPU second, of all
threads together, is the steadier of the two.

``reading`` is the limit: how fast one thread reads the weights, twice, as choosing scales and assigning codes do.
``report`` is what `ternfmt convert` spends besides, on one thread, to measure error and sparsity of what is written.
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

from ternfmt import native
from ternfmt.encode import reference
from ternfmt.encode.quantize import quantize
from ternfmt.encode.report.layer_report import Measure
from ternfmt.encode.run.stream import BLOCK_WEIGHTS
from ternfmt.encode.settings import LayerSettings
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
                f"{result['method']:8} {result['by']:7} {result['dtype']:8} {result['shape']:>11} "
                f"threads {result['threads']}  {result['mweights_per_s']:7.1f} Mweights/s "
                f"({result['mweights_per_cpu_s']:6.1f} a CPU second)"
                + (f"  SNR {result['snr_db']:5.2f} dB" if "snr_db" in result else ""),
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
    parser.add_argument(
        "--by",
        nargs="+",
        choices=native.available(),
        default=list(dict.fromkeys((native.selected(), native.NUMPY))),
        help="instruction sets of the native code, or numpy",
    )
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
            yield read_limit(weight, dtype, args.repeats)
            for label in args.methods:
                method, planes = label.rstrip("234"), METHODS[label]
                for by in args.by:
                    check(weight, method, planes, by)
                for threads in args.threads:
                    clocks = {by: Clock() for by in args.by}
                    for _ in range(args.repeats):
                        for by, clock in clocks.items():
                            with native.using(by), clock:
                                result = quantize(weight, method, planes=planes, threads=threads)
                    for by, clock in clocks.items():
                        case = {"method": label, "by": by, "dtype": dtype, "shape": name_of(shape), "threads": threads}
                        yield {**case, **clock.rates(weight.size), "snr_db": round(snr(weight, result), 3)}
            yield from report_cost(weight, dtype, args)


class Clock:
    """The best of several times."""

    def __init__(self) -> None:
        self.best = self.best_cpu = float("inf")

    def __enter__(self) -> None:
        self._start, self._start_cpu = time.perf_counter(), time.process_time()

    def __exit__(self, *error: object) -> None:
        self.best = min(self.best, time.perf_counter() - self._start)
        self.best_cpu = min(self.best_cpu, time.process_time() - self._start_cpu)

    def rates(self, weights: int) -> dict[str, float]:
        """Million weights a second, and a CPU second."""
        return {
            "mweights_per_s": round(weights / self.best / 1e6, 2),
            "mweights_per_cpu_s": round(weights / self.best_cpu / 1e6, 2),
        }


def read_limit(weight: np.ndarray, dtype: str, repeats: int) -> dict[str, Any]:
    """What quantising would take if it did nothing but read."""
    words = weight.reshape(-1).view(np.int64)
    clock = Clock()
    for _ in range(repeats):
        with clock:
            words.max()
            words.max()
    case = {"method": "reading", "by": "twice", "dtype": dtype, "shape": name_of(weight.shape), "threads": 1}
    return {**case, **clock.rates(weight.size)}


def report_cost(weight: np.ndarray, dtype: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What a layer's report takes, in blocks of rows as large as a conversion's."""
    step = BLOCK_WEIGHTS // weight.shape[1]
    blocks = [
        (weight[start : start + step], quantize(weight[start : start + step])) for start in range(0, len(weight), step)
    ]
    clocks = {by: Clock() for by in args.by}
    for _ in range(args.repeats):
        for by, clock in clocks.items():
            with native.using(by), clock:
                measure = Measure("weight", weight.shape, LayerSettings())
                for block, tensor in blocks:
                    measure.add(block, tensor)
                measure.report()
    for by, clock in clocks.items():
        case = {"method": "report", "by": by, "dtype": dtype, "shape": name_of(weight.shape), "threads": 1}
        yield {**case, **clock.rates(weight.size)}


def name_of(shape: tuple[int, ...]) -> str:
    """``(3072, 15360)`` -> ``"3072x15360"``."""
    return "x".join(map(str, shape))


def check(weight: np.ndarray, method: str, planes: int, by: str) -> None:
    """Exit unless the first row has the reference's scales, and codes at its first 512 columns, and 64 rows numpy's."""
    with native.using(by):
        result = quantize(weight[:1], method, planes=planes, scale_dtype=np.float32)
        rows = quantize(weight[:64], method, planes=planes)
    with native.using(native.NUMPY):
        numpy_rows = quantize(weight[:64], method, planes=planes)
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
        sys.exit(f"{method} {by} {weight.dtype} {weight.shape}: differs from the reference; not measured")
    for a, b in zip(rows.planes, numpy_rows.planes, strict=True):
        if a.codes.tobytes() != b.codes.tobytes() or a.scale.tobytes() != b.scale.tobytes():
            sys.exit(f"{method} {by} {weight.dtype} {weight.shape}: differs from numpy; not measured")


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
