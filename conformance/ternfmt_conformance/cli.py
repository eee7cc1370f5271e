"""``ternfmt conformance run``, ``report``, ``list`` and ``explore``."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ternfmt.cli.output import print_json, print_table

from .command import parse_command
from .corpus import Corpus, load_corpus
from .explore import action as explore
from .levels import LEVELS, levels_up_to
from .locate import find_vectors
from .outcome import Result
from .publish import write_matrix, write_run
from .report import read_report
from .runner import Progress, run_suite, select
from .settings import MEMORY_CAP_BYTES, TIMEOUT_SECONDS, Settings
from .summary import print_summary

EPILOG = """\
examples:
  ternfmt conformance run --impl ternfmt_conformance.reference:Reference
  ternfmt conformance run --impl "node my-reader.mjs" --level R2 --report out/
  ternfmt conformance run --impl ./my-reader --one-shot
  ternfmt conformance report a/report.json b/report.json --out both/
  ternfmt conformance explore --impl "node my-reader.mjs" --budget 60

PROTOCOL.md says what an implementation speaks. Exit codes: 0 every MUST case run is exact or an expected failure,
1 some is not, or the testee or the corpus is at fault, 2 usage.
"""

_MEGABYTE = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    run_parser = _add_action(actions, "run", "run the corpus against an implementation", run_action)
    run_parser.add_argument(
        "--impl", required=True, metavar="COMMAND", help='program and arguments, or "module:object" for Python'
    )
    _add_selection(run_parser)
    run_parser.add_argument("--report", type=Path, metavar="DIR", help="write JSON, JUnit, Markdown, HTML and badge")
    run_parser.add_argument(
        "--expected-failures", type=Path, metavar="FILE", help="ids of cases, one a line, # for comments"
    )
    run_parser.add_argument("--one-shot", action="store_true", help="the program knows `validate PATH` only")
    run_parser.add_argument(
        "--timeout", type=float, default=TIMEOUT_SECONDS, metavar="S", help="for each answer (default: %(default)g)"
    )
    run_parser.add_argument(
        "--memory",
        type=int,
        default=MEMORY_CAP_BYTES // _MEGABYTE,
        metavar="MB",
        help="private memory of the testee, in MiB (default: %(default)d)",
    )
    report_parser = _add_action(actions, "report", "put several runs into one table", report_action)
    report_parser.add_argument("reports", nargs="+", type=Path, metavar="report.json")
    report_parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    _add_vectors(report_parser)
    list_parser = _add_action(actions, "list", "list the cases of the corpus", list_action)
    _add_selection(list_parser)
    explore.add_arguments(_add_action(actions, "explore", explore.SUMMARY, explore.explore_action))


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    return int(args.act(args))


def run_action(args: argparse.Namespace) -> int:
    """``ternfmt conformance run``."""
    if args.timeout <= 0 or args.memory <= 0:
        args.parser.error("--timeout and --memory are positive")
    try:
        command = parse_command(args.impl)
    except ValueError as error:
        args.parser.error(f"--impl: {error}")
    corpus = _corpus(args)
    settings = Settings(
        command,
        tuple(args.level),
        args.case,
        args.timeout,
        args.memory * _MEGABYTE,
        args.one_shot,
        frozenset() if args.expected_failures is None else read_expected_failures(args.expected_failures),
    )
    with _progress() as progress:
        report = run_suite(corpus, settings, progress)
    written = [] if args.report is None else write_run(report, corpus, args.report)
    if args.json:
        print_json(report.to_json())
    else:
        print_summary(report, lambda result: _reproduce(args, result))
        for path in written:
            print(f"wrote {path}")
    return 0 if report.passed else 1


def report_action(args: argparse.Namespace) -> int:
    """``ternfmt conformance report``."""
    written = write_matrix([read_report(path) for path in args.reports], _corpus(args), args.out)
    if args.json:
        print_json({"ok": True, "written": list(map(str, written))})
    else:
        print("\n".join(f"wrote {path}" for path in written))
    return 0


def list_action(args: argparse.Namespace) -> int:
    """``ternfmt conformance list``."""
    cases = select(_corpus(args), levels_up_to(args.level) or LEVELS, args.case)
    if args.json:
        print_json([{"id": c.id, "level": c.level, "severity": c.severity, "rules": c.rules} for c in cases])
    else:
        rows = [[c.id, c.level, c.severity, ", ".join(c.rules), c.title] for c in cases]
        print_table(["case", "level", "severity", "rules", "title"], rows)
    return 0


def read_expected_failures(path: Path) -> frozenset[str]:
    """Case ids, one a line; ``#`` starts a comment.

    Raises:
        OSError: the file cannot be read.
    """
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return frozenset(line for line in lines if line)


def _add_action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    act: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    parser = actions.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # Without a default, so that `ternfmt conformance --json run` keeps the parent's value.
    parser.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON value for scripts"
    )
    parser.set_defaults(act=act)
    return parser


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--level",
        action="append",
        default=[],
        choices=LEVELS,
        help="this level and those it includes; repeatable (default: all that the testee claims)",
    )
    parser.add_argument("--case", default="*", metavar="GLOB", help="only cases whose id matches")
    _add_vectors(parser)


def _add_vectors(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vectors", type=Path, metavar="DIR", help="another corpus than the one that comes along")


def _corpus(args: argparse.Namespace) -> Corpus:
    return load_corpus((args.vectors or find_vectors()).resolve())


def _reproduce(args: argparse.Namespace, result: Result) -> str:
    """The command that runs one case again."""
    command = ["ternfmt", "conformance", "run", "--impl", args.impl]
    if args.one_shot:
        command += ["--one-shot", "--level", result.level]
    if args.vectors is not None:
        command += ["--vectors", str(args.vectors)]
    if args.timeout != TIMEOUT_SECONDS:
        command += ["--timeout", f"{args.timeout:g}"]
    if args.memory != MEMORY_CAP_BYTES // _MEGABYTE:
        command += ["--memory", str(args.memory)]
    return shlex.join([*command, "--case", result.id])


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting")
        failed = 0

        def advance(result: Result, total: int) -> None:
            nonlocal failed
            failed += result.outcome.failed
            progress.update(task, advance=1, total=total, description=f"{failed} failed  {result.id}")

        yield advance
