"""The subcommand: arguments, a bar on stderr, the answer on stdout."""

from __future__ import annotations

import argparse
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ternfmt.cli.output import print_json

from ..command import parse_command
from ..driver import LoopDriver, OneShotDriver
from ..levels import LEVELS, ONE_SHOT_LEVELS, format_levels, levels_up_to
from ..outcome import Fault
from ..settings import MEMORY_CAP_BYTES

if TYPE_CHECKING:
    from .freeze import Frozen
    from .search import Difference, Search

REFERENCE = "ternfmt_conformance.reference:Reference"
SECONDS = 60.0
TIMEOUT_SECONDS = 10.0
OUT = Path("explored")
EXPLORED_LEVELS = ("R0", "R1", "R2", "R3", "R4")
"""Levels that read; what writers write is compared by the corpus."""

EPILOG = """\
examples:
  ternfmt conformance explore --impl "node my-reader.mjs"
  ternfmt conformance explore --impl ./my-reader --one-shot --level R0 --examples 1000 --seed 7
  ternfmt conformance explore --impl ./one --against ./other --budget 600 --out found/

The first difference is shrunk and saved as a case of a corpus of its own. The same seed draws the same files.
Exit codes: 0 no difference, 1 a difference, or an implementation did not start, 2 usage.
"""
SUMMARY = "look for files on which two implementations differ"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``explore``."""
    parser.epilog = EPILOG
    parser.add_argument("--impl", required=True, metavar="COMMAND", help="as for run")
    parser.add_argument(
        "--against", default=REFERENCE, metavar="COMMAND", help="compare with this one (default: our reference)"
    )
    parser.add_argument("--one-shot", action="store_true", help="--impl knows `validate PATH` only")
    parser.add_argument(
        "--level",
        action="append",
        default=[],
        choices=EXPLORED_LEVELS,
        help="this level and those it includes; repeatable (default: all that both claim)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="draw other files (default: %(default)d)")
    parser.add_argument(
        "--budget", type=float, metavar="SECONDS", help=f"when to stop (default: {SECONDS:g}, if no --examples)"
    )
    parser.add_argument("--examples", type=int, metavar="N", help="stop after so many files")
    parser.add_argument(
        "--timeout", type=float, default=TIMEOUT_SECONDS, metavar="S", help="for each answer (default: %(default)g)"
    )
    parser.add_argument(
        "--out", type=Path, default=OUT, metavar="DIR", help="where a finding is saved (default: %(default)s)"
    )


def explore_action(args: argparse.Namespace) -> int:
    """``ternfmt conformance explore``."""
    error = args.parser.error
    if any(value is not None and value <= 0 for value in (args.timeout, args.budget, args.examples)):
        error("--timeout, --budget and --examples are positive")
    try:
        commands = [parse_command(args.impl), parse_command(args.against)]
    except ValueError as fault:
        error(f"--impl, --against: {fault}")
    try:
        from .freeze import check_folder, freeze
        from .search import Budget, Search
    except ImportError as fault:
        error(str(fault))
    try:
        check_folder(args.out)
    except ValueError as fault:
        error(f"--out: {fault}")
    seconds = SECONDS if args.budget is None and args.examples is None else args.budget
    make_driver = OneShotDriver if args.one_shot else LoopDriver
    drivers = (
        make_driver(commands[0], args.timeout, MEMORY_CAP_BYTES),
        LoopDriver(commands[1], args.timeout, MEMORY_CAP_BYTES),
    )
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ternfmt-explore-") as scratch:
        try:
            for driver in drivers:
                driver.start()
            levels = _levels(args, drivers)
            if not levels:
                raise ValueError("the two claim no level in common that can be explored")
            features = [f for f in drivers[0].info.features if f in drivers[1].info.features]
            search = Search(drivers, levels, Path(scratch), args.timeout)
            budget = Budget(seconds, args.examples)
            with _progress(budget) as progress:
                search.run(args.seed, features, args.one_shot, budget, progress)
        except Fault as fault:
            raise ValueError(f"an implementation did not start: {fault}") from fault
        finally:
            for driver in drivers:
                driver.close()
    if search.best is None:
        return _nothing(args, search, levels, time.monotonic() - started)
    _report(args, search, search.best, freeze(search.best, args.out), [_label(driver) for driver in drivers])
    return 1


def _levels(args: argparse.Namespace, drivers: tuple[LoopDriver | OneShotDriver, LoopDriver]) -> tuple[str, ...]:
    claimed = ONE_SHOT_LEVELS if args.one_shot else drivers[0].info.levels
    asked = levels_up_to(args.level) or LEVELS
    return tuple(
        level for level in EXPLORED_LEVELS if level in claimed and level in drivers[1].info.levels and level in asked
    )


def _label(driver: LoopDriver | OneShotDriver) -> str:
    return f"{driver.info.name} {driver.info.version}".strip()


def _nothing(args: argparse.Namespace, search: Search, levels: tuple[str, ...], seconds: float) -> int:
    if args.json:
        print_json({"ok": True, "examples": search.examples, "seed": args.seed, "levels": list(levels)})
    else:
        print(
            f"no difference: {search.examples} examples at {format_levels(levels)} in {seconds:.0f} s, seed {args.seed}"
        )
    return 0


def _report(args: argparse.Namespace, search: Search, found: Difference, frozen: Frozen, labels: list[str]) -> None:
    wrong = [not said.agrees(frozen.right) for said in found.answers]
    again = _again(args, args.impl if wrong[0] or not wrong[1] else args.against, frozen)
    size = sum(map(len, found.subject.files.values()))
    if args.json:
        answers: list[dict[str, Any]] = [
            {"implementation": label, "outcome": said.outcome, "value": said.value, "detail": said.detail}
            for label, said in zip(labels, found.answers, strict=True)
        ]
        print_json({"ok": False, "examples": search.examples, "seed": args.seed, "answers": answers,
                    "path": str(frozen.path), "case": dict(frozen.line), "again": again})  # fmt: skip
        return
    print(f"difference after {search.examples} examples, seed {args.seed}, shrunk to {size} bytes")
    print(f"  {found.question.op} {frozen.path}")
    width = max(map(len, labels))
    for label, said in zip(labels, found.answers, strict=True):
        print(f"  {label:<{width}}  {said}".replace("\n", "\n  "))
    print(f"  right, says the reference: {frozen.right.outcome}")
    print(f"saved as case {frozen.line['id']} of {args.out}")
    print(f"  again: {again}")


def _again(args: argparse.Namespace, command: str, frozen: Frozen) -> str:
    """The command that shows that an implementation is wrong."""
    words = ["ternfmt", "conformance", "run", "--impl", command]
    if args.one_shot and command == args.impl:
        words += ["--one-shot", "--level", str(frozen.line["level"])]
    if args.timeout != TIMEOUT_SECONDS:
        words += ["--timeout", f"{args.timeout:g}"]
    return shlex.join([*words, "--vectors", str(args.out), "--case", str(frozen.line["id"])])


@contextmanager
def _progress(budget: Any) -> Iterator[Callable[[int, float, bool], None]]:
    """A bar on stderr, where that is a terminal; else a line every ten seconds."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=1)
        said = 0.0

        def advance(examples: int, seconds: float, shrinking: bool) -> None:
            nonlocal said
            parts = [examples / budget.examples if budget.examples else 0,
                     seconds / budget.seconds if budget.seconds else 0]  # fmt: skip
            state = "shrinking a difference" if shrinking else f"{examples} examples"
            bar.update(task, completed=min(1.0, max(parts)), description=state)
            if not console.is_terminal and seconds - said >= 10:
                said = seconds
                console.print(f"{seconds:.0f} s: {state}", highlight=False)

        yield advance
