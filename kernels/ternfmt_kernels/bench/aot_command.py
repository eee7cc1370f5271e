"""``python -m ternfmt_kernels.bench aot``: compile for hardware that is not here, and read what came out."""

from __future__ import annotations

import argparse
import functools
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SAVE_EVERY = 20
"""Rows between two writings of the files, so that a run that is cut short leaves what it found."""

EXAMPLES = """examples:
  python -m ternfmt_kernels.bench aot                                  every kernel on every target (minutes)
  python -m ternfmt_kernels.bench aot --target sm_90 --only "gemm w2a8*"   some kernels, on Hopper
  python -m ternfmt_kernels.bench aot --check --no-peer                exit 1 when a goal is missed
  python -m ternfmt_kernels.bench aot --markdown RESULTS-aot.md --json RESULTS-aot.json --workers 8
"""


def add(choices: Any) -> None:
    """Add the command to ``choices``."""
    parser = choices.add_parser(
        "aot",
        help="compile for every target without a GPU and read the machine code",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--target", action="append", default=[], help="a target, repeatable (default: all nine)")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only matching kernels and configurations, repeatable",
    )
    parser.add_argument("--no-peer", action="store_true", help="do not compile GemLite's kernels beside ours")
    parser.add_argument("--workers", type=int, default=1, help="processes that compile (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON; - writes to stdout")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table as Markdown")
    parser.add_argument("--check", action="store_true", help="exit 1 when a goal is missed")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compile, report, and return the exit status."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from . import aot, aot_report, gemlite_peer
    from .arch import ARCHS, arch

    targets = [arch(name).name for name in arguments.target] or [a.name for a in ARCHS]
    todo = aot.jobs(targets, arguments.only, peer=not arguments.no_peer)
    console = Console(stderr=True)
    if not arguments.no_peer and gemlite_peer.version() is None:
        console.print(f"{gemlite_peer.NAME} is not installed (pip install --no-deps gemlite): its columns stay empty")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("compiling", total=len(todo))
        found: dict[int, aot.Row] = {}
        for index, row in aot.run_all(todo, arguments.workers):
            found[index] = row
            progress.console.print(aot_report.one_line(row), highlight=False, markup=False, soft_wrap=True)
            progress.advance(bar)
            if len(found) % SAVE_EVERY == 0 or len(found) == len(todo):
                _write(arguments, [found[i] for i in sorted(found)], len(todo))
    rows = [found[i] for i in sorted(found)]
    missed = aot.violations(rows)
    for text in missed:
        console.print(f"MISSED {text}", highlight=False, markup=False, soft_wrap=True)
    return 1 if arguments.check and missed else 0


def _write(arguments: argparse.Namespace, rows: Sequence[Any], total: int) -> None:
    from . import aot_report

    if arguments.markdown is not None:
        arguments.markdown.write_text(aot_report.markdown(rows, toolchain(), total), encoding="utf-8")
    if arguments.json is not None:
        text = aot_report.as_json(rows, toolchain())
        if str(arguments.json) == "-":
            if len(rows) == total:
                print(text, end="")
        else:
            arguments.json.write_text(text, encoding="utf-8")


@functools.cache
def toolchain() -> str:
    """The versions that decide what comes out."""
    import triton

    from . import gemlite_peer, sass

    assemblers = [f"{name} {_version(sass.tool(name))}" for name in ("ptxas", "ptxas-blackwell")]
    peer = gemlite_peer.version()
    return ", ".join([f"triton {triton.__version__}", *assemblers, *([f"gemlite {peer}"] if peer else [])])


def _version(path: Path) -> str:
    text = subprocess.run([str(path), "--version"], capture_output=True, text=True, check=True).stdout
    return text.rsplit(", V", 1)[-1].split()[0]
