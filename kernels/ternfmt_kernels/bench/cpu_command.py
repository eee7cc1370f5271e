"""``python -m ternfmt_kernels.bench cpu``: our CPU kernels, PyTorch's and the machine's limits."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

EXAMPLES = """examples:
  python -m ternfmt_kernels.bench cpu                                all shapes and rows (about an hour)
  python -m ternfmt_kernels.bench cpu --quick                        one shape, few rows, a minute
  TERNFMT_CPU_ISA=scalar python -m ternfmt_kernels.bench cpu --quick the same on another instruction set

It first checks the kernels against float64; where one is wrong, nothing is timed and the status is 1.
"""


def add(choices: Any) -> None:
    """Add the command to ``choices``."""
    parser = choices.add_parser(
        "cpu",
        help="check and time the CPU kernels beside PyTorch's and the machine's limits",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="shape A, M = 1, 8 and 64, 0.1 seconds each")
    parser.add_argument("--shapes", nargs="+", metavar="LETTER", help="of A to E (default: all)")
    parser.add_argument("--rows", type=int, nargs="+", metavar="M", help="rows of activations")
    parser.add_argument("--threads", type=int, nargs="+", metavar="T", help="(default: 1 and 2)")
    parser.add_argument("--only", action="append", metavar="NAME", help="a peer beside ours, repeatable")
    parser.add_argument("--seconds", type=float, help="to time each product (default: 0.5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run, print, write; 0 ok, 1 a wrong kernel or none."""
    from rich.console import Console
    from rich.table import Table

    from ..cpu_backend import isa
    from . import cpu, cpu_report

    console, progress = Console(), Console(stderr=True)
    if isa.module() is None:
        progress.print(f"the cpu backend is not available: {isa.MISSING}", markup=False, soft_wrap=True)
        return 1
    plan = cpu.Plan(shapes=("A",), rows=(1, 8, 64), seconds=0.1) if arguments.quick else cpu.Plan()
    given = {name: getattr(arguments, name) for name in ("shapes", "rows", "threads", "only", "seconds")}
    plan = cpu.Plan(**{**vars(plan), **{name: value for name, value in given.items() if value is not None}})
    results = cpu.run(plan, lambda what: progress.print(what, markup=False, highlight=False))
    if arguments.json:
        arguments.json.write_text(json.dumps(results.as_dict(), indent=1) + "\n", encoding="utf-8")
    for verdict in results.verdicts:
        if not verdict.passed:
            progress.print(f"wrong: {verdict.case}: {verdict.error or verdict.excess}", markup=False, soft_wrap=True)
    if not results.passed:
        return 1
    table = Table(*cpu_report.header())
    for cell in results.cells:
        table.add_row(*cpu_report.row(cell))
    console.print(table)
    if arguments.markdown:
        command = "python -m ternfmt_kernels.bench cpu" + (" --quick" if arguments.quick else "")
        arguments.markdown.write_text(cpu_report.markdown(results, command), encoding="utf-8")
    return 0
