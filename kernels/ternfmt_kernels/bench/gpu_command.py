"""``python -m ternfmt_kernels.bench gpu``: our kernels, cuBLAS, int8 and GemLite on the device at hand."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXAMPLES = """examples:
  python -m ternfmt_kernels.bench gpu                          all of it, on the GPU (ten minutes or so)
  python -m ternfmt_kernels.bench gpu --no-step --rows 1 16    products of few rows only
  python -m ternfmt_kernels.bench gpu --memory 16              as on a card of 16 GB
  python -m ternfmt_kernels.bench gpu --device cpu --tiny      the same code, tiny, without a GPU: proves no speed

It first checks every kernel of ours against float64; where one is wrong, nothing is timed and the status is 1.
"""


def add(choices: Any) -> None:
    """Add the command to ``choices``."""
    parser = choices.add_parser(
        "gpu",
        help="check and time the kernels on the GPU at hand, with a step of FLUX.1's transformer",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", help="cuda (ROCm too), xpu or cpu, with an index or without (default: the GPU)")
    parser.add_argument("--tiny", action="store_true", help="shapes 48 times smaller, five blocks")
    parser.add_argument("--rows", type=int, nargs="+", default=[], metavar="M", help="rows of activations to time")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="a contender beside bf16, repeatable"
    )
    parser.add_argument("--seconds", type=float, default=0.2, help="to time each product (default: 0.2)")
    parser.add_argument("--memory", type=float, metavar="GB", help="use no more of the device than this")
    parser.add_argument("--no-step", action="store_true", help="leave out the transformer step")
    parser.add_argument(
        "--json", type=Path, default=Path("bench-gpu.json"), metavar="FILE", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--plot", type=Path, default=Path("bench-gpu.png"), metavar="FILE", help="(default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run, print, write; 0 ok, 1 a red gate or no GPU."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from . import gpu, gpu_report

    console = Console()
    device = _device(arguments.device)
    if isinstance(device, str):
        Console(stderr=True).print(device, markup=False, soft_wrap=True)
        return 1
    plan = gpu.plan(
        device,
        cap=None if arguments.memory is None else int(arguments.memory * 1e9),
        tiny=arguments.tiny,
        rows=arguments.rows,
        budget=arguments.seconds,
        step=not arguments.no_step,
        only=arguments.only,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:

        def begin(part: str, length: int) -> Callable[[], None]:
            bar = progress.add_task(part, total=length)
            return lambda: progress.advance(bar)

        results = gpu.run(plan, begin)
    gpu_report.print_tables(results, console)
    arguments.json.write_text(gpu_report.as_json(results), encoding="utf-8")
    console.print(f"wrote {arguments.json}", markup=False, soft_wrap=True)
    if results.passed:
        trouble = gpu_report.plot(results, arguments.plot)
        console.print(f"no plot: {trouble}" if trouble else f"wrote {arguments.plot}", markup=False, soft_wrap=True)
    return 0 if results.passed else 1


def _device(asked: str | None) -> Any:
    """The device to run on, or in words why there is none."""
    import torch

    if asked is None:
        found = next((name for name in ("cuda", "xpu") if getattr(torch, name).is_available()), None)
        if found is None:
            return (
                "no GPU: torch sees no CUDA, ROCm or XPU device. "
                "`--device cpu --tiny` runs the same code on the CPU, as a test of it."
            )
        return torch.device(found)
    device = torch.device(asked)
    if device.type != "cpu" and not getattr(torch, device.type).is_available():
        return f"--device {asked}: torch sees no such device here"
    return device
