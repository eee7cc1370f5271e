"""``python -m ternfmt_kernels.bench cpu``: our CPU kernels, their peers and the machine's limits."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import ggml_peer

if TYPE_CHECKING:
    from .cpu import Plan, Results

EXAMPLES = """examples:
  python -m ternfmt_kernels.bench cpu                                all shapes and rows (about a quarter of an hour)
  python -m ternfmt_kernels.bench cpu --quick                        one shape, few rows (two minutes)
  python -m ternfmt_kernels.bench cpu --ggml build/bin               ggml too, from the folder of its libraries
  TERNFMT_CPU_ISA=scalar python -m ternfmt_kernels.bench cpu --quick the same on another instruction set

It first checks the kernels against float64; where one is wrong, nothing is timed and the status is 1.
"""


def add(choices: Any) -> None:
    """Add the command to ``choices``."""
    parser = choices.add_parser(
        "cpu",
        help="check and time the CPU kernels beside their peers and the machine's limits",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    ggml = os.environ.get(ggml_peer.VARIABLE)
    parser.add_argument("--quick", action="store_true", help="shape A, M = 1, 8 and 64, 0.1 seconds each")
    parser.add_argument("--shapes", nargs="+", choices=tuple("ABCDE"), metavar="LETTER", help="(default: all)")
    parser.add_argument("--rows", type=int, nargs="+", metavar="M", help="rows of activations (default: by shape)")
    parser.add_argument("--threads", type=int, nargs="+", metavar="T", help="(default: 1 and 2)")
    parser.add_argument("--only", action="append", metavar="NAME", help="a peer beside ours, repeatable")
    parser.add_argument("--seconds", type=float, help="to time each product (default: 0.4)")
    parser.add_argument(
        "--ggml", type=Path, metavar="PATH", default=ggml, help=f"folder of libggml-cpu.so (or ${ggml_peer.VARIABLE})"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured, after each shape")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the roofline")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run, print, write; 0 ok, 1 a wrong kernel or none, 2 usage."""
    from rich.console import Console
    from rich.table import Table

    from ..cpu_backend import isa
    from . import cpu, cpu_report

    console, progress = Console(), Console(stderr=True)
    if isa.module() is None:
        progress.print(f"the cpu backend is not available: {isa.MISSING}", markup=False, soft_wrap=True)
        return 1
    try:
        plan = _plan(arguments)
    except ValueError as error:
        progress.print(str(error), markup=False, soft_wrap=True)
        return 2

    def keep(results: Results) -> None:
        if arguments.json:
            arguments.json.write_text(json.dumps(results.as_dict(), indent=1) + "\n", encoding="utf-8")

    results = cpu.run(plan, lambda what: progress.print(what, markup=False, highlight=False), keep)
    keep(results)
    for verdict in results.verdicts:
        if not verdict.passed:
            progress.print(f"wrong: {verdict.case}: {verdict.error or verdict.excess}", markup=False, soft_wrap=True)
    if not results.passed:
        return 1
    for mode in cpu.OURS:
        names = cpu_report.header(results)
        columns = [i for i, name in enumerate(names) if i < 3 or name.startswith(f"{mode} ")]
        table = Table(*(names[i] for i in columns))
        for cell in results.cells:
            table.add_row(*(cpu_report.row(cell, results)[i] for i in columns))
        console.print(table)
    drawn = None
    if arguments.plot:
        trouble = cpu_report.plot(results, arguments.plot)
        drawn = None if trouble else arguments.plot.name
        if trouble:
            progress.print(f"no plot: {trouble}", markup=False, soft_wrap=True)
    if arguments.markdown:
        arguments.markdown.write_text(cpu_report.markdown(results, _command(arguments), drawn), encoding="utf-8")
    return 0


def _plan(arguments: argparse.Namespace) -> Plan:
    """What the arguments ask for.

    Raises:
        ValueError: a name of a peer is not known.
    """
    from . import cpu, cpu_peers

    peers = cpu_peers.peers(arguments.ggml)
    if unknown := set(arguments.only or ()) - {peer.name for peer in peers}:
        raise ValueError(f"--only: expected some of {', '.join(p.name for p in peers)}, got {', '.join(unknown)}")
    shapes = arguments.shapes or (("A",) if arguments.quick else tuple(cpu.SHAPES))
    usual = dict.fromkeys(shapes, (1, 8, 64)) if arguments.quick else {s: cpu.ROWS[s] for s in shapes}
    return cpu.Plan(
        rows=dict.fromkeys(shapes, tuple(arguments.rows)) if arguments.rows else usual,
        peers=[p for p in peers if p.ours or arguments.only is None or p.name in arguments.only],
        threads=arguments.threads or (1, 2),
        seconds=arguments.seconds if arguments.seconds is not None else 0.1 if arguments.quick else 0.4,
    )


def _command(arguments: argparse.Namespace) -> str:
    """What was asked for, without the files that it names."""
    parts = ["python -m ternfmt_kernels.bench cpu"] + ["--quick"] * arguments.quick
    for name in ("shapes", "rows", "threads", "seconds"):
        value = getattr(arguments, name)
        if value is not None:
            parts.append(f"--{name} " + " ".join(map(str, value if isinstance(value, list) else [value])))
    parts += [f"--only {name!r}" for name in arguments.only or ()]
    return " ".join(parts + ["--ggml PATH"] * (arguments.ggml is not None))
