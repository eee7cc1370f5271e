"""``ternfmt convert``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

from ..encode.calibration import DATA_METHODS
from ..encode.convert import convert, finish_shards, run_shard
from ..encode.methods import METHODS
from ..encode.overrides import read_overrides
from ..encode.plan import Plan, plan_conversion
from ..encode.plan_file import read_plan, write_plan
from ..encode.quantize import quantize
from ..encode.report.html_report import render
from ..encode.run.finish import Result
from ..encode.run.lock import BusyError
from ..encode.run.settle import settle
from ..encode.run.shards import parse_size
from ..encode.run.stream import Quantizer
from ..encode.settings import SHARD_BYTES, Settings
from ..encode.source.policies import POLICIES
from ..encode.source.sources import open_source
from ..limits import PLANES_MAX
from ..rewrite import check_destination
from .convert_calibration import add_calibration_arguments, calibration
from .convert_output import made, planned, print_made, print_planned, report_summary
from .output import print_json, weights_bars

EPILOG = """\
SRC is a safetensors file, an index JSON, a folder of diffusers or transformers, the folder of a pipeline, or a torch
file (.bin .pt .pth .ckpt, read with weights_only). DST is a folder; of a single file it is a file, unless it ends in /
or --max-shard-size is given.

By default the 2-D weights in the model's repeated blocks become ternary; --dry-run shows the choice. Patterns are
shell globs on full tensor names; --include takes the place of the default.

Until the result is complete everything is kept in DST.partial. When a run is interrupted, the same command with
--resume goes on; without --resume it begins anew, unless the model was run before. docs/encoder.md says more.

examples:
  ternfmt convert model.safetensors ternary.safetensors
  ternfmt convert FLUX.1-dev/ FLUX.1-dev-ternary/ --ratio 5
  ternfmt convert flux1-dev.safetensors flux1-ternary/ --names diffusers --max-shard-size 1GB
  ternfmt convert bert/ bert-ternary/ --include '*encoder.layer.*.dense.weight' --dry-run
  ternfmt convert model/ model-ternary/ --resume
  ternfmt convert FLUX.1-dev/ FLUX.1-dev-ternary/ --method distilled --device cuda

on many machines:
  ternfmt convert --plan plan.json model/ model-ternary/ --max-shard-size 1GB
  ternfmt convert --plan plan.json --shard 3/8      # anywhere, any time, again after a failure
  ternfmt convert --plan plan.json --finish
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("source", metavar="SRC", nargs="?", help="what to convert")
    parser.add_argument("destination", metavar="DST", nargs="?", help="must not exist")

    group = parser.add_argument_group("what")
    group.add_argument("--include", action="append", default=[], metavar="GLOB", help="repeatable")
    group.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="repeatable")
    group.add_argument(
        "--policy", choices=sorted(POLICIES), help="table of layers (default: found from the checkpoint)"
    )
    group.add_argument("--component", metavar="NAME", help="part of a pipeline to convert (default: transformer)")
    group.add_argument("--names", choices=("diffusers", "bfl"), help="rename FLUX.1 tensors (default: keep names)")
    group.add_argument("--base-model", metavar="ORG/NAME", help="the source's name on the Hub, for the model card")

    group = parser.add_argument_group("how")
    group.add_argument("--method", choices=(*sorted(METHODS), *DATA_METHODS), help="quantisation rule (default: exact)")
    group.add_argument(
        "--planes",
        type=int,
        choices=range(1, PLANES_MAX + 1),
        help="planes that add up (default: 2 for --method planes, 1 for calibrated and distilled)",
    )
    group.add_argument(
        "--ratio",
        type=float,
        metavar="R",
        help="block ratio to keep while the layers that gain most get further planes; in place of --method, or with "
        "calibrated or distilled",
    )
    group.add_argument("--group-size", type=int, metavar="G", help="columns that share a scale (default: all)")
    group.add_argument(
        "--scale-dtype",
        choices=("F16", "BF16", "F32"),
        help="default: F16, and F32 for a tensor whose scales F16 cannot hold",
    )
    group.add_argument("--overrides", metavar="FILE", help="JSON with settings of single layers")

    add_calibration_arguments(parser)

    group = parser.add_argument_group("output")
    group.add_argument(
        "--max-shard-size",
        type=_size,
        metavar="SIZE",
        help="bytes of tensors in a file of a folder (default: 5GB)",
    )
    group.add_argument("--dry-run", action="store_true", help="show what would be done, write nothing")
    group.add_argument("--layers", action="store_true", help="print what was measured of each ternary layer")
    group.add_argument("--report", metavar="FILE", help="write an HTML page with plots of it")

    group = parser.add_argument_group("running")
    group.add_argument("--jobs", type=_positive, metavar="N", help="tensors at a time (default: one a CPU)")
    group.add_argument(
        "--device", default="cpu", help="where to quantise, or run the model: cpu, cuda, cuda:1 (default: cpu)"
    )
    group.add_argument("--resume", action="store_true", help="go on where an interrupted run stopped")
    group.add_argument("--plan", metavar="FILE", help="write the plan and stop; with --shard or --finish, read it")
    group.add_argument("--shard", type=_fraction, metavar="I/N", help="make every Nth output file, from number I on")
    group.add_argument("--finish", action="store_true", help="publish the result when all shards are made")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    _check_usage(args)
    if args.shard or args.finish:
        return _run_plan(args)
    plan = plan_conversion(args.source, _settings(args))
    if args.dry_run or args.plan:
        return _only_plan(args, plan)
    if plan.calibration is not None and int(os.environ.get("RANK", "0")) > 0:  # torchrun's other processes
        destination = Path(args.destination).absolute()
        with _stoppable(destination, "the same command with --resume goes on"):
            from ..encode.solve import take_part

            take_part(plan, destination)
        return 0
    if not args.json:
        print_planned(plan, args.source, listing=False)

    def work() -> Result:
        measured = sum(plan.size(name) for name in plan.layers) if plan.dial and not plan.calibration else 0
        with weights_bars({"measure": measured, "convert": plan.weights}) as bars:
            return convert(
                plan,
                args.destination,
                bars["convert"],
                measuring=bars["measure"],
                solving=bars.tell,
                jobs=args.jobs,
                resume=args.resume,
                quantizer=quantize if plan.calibration else _quantizer(args.device),
            )

    return _finish(args, plan, Path(args.destination), work)


def _run_plan(args: argparse.Namespace) -> int:
    """Part of a plan that was written before."""
    plan, destination = read_plan(Path(args.plan))
    if args.finish:
        return _finish(args, plan, destination, lambda: finish_shards(plan, destination))
    shard, count = args.shard
    files = plan.files[shard - 1 :: count]
    weights = sum(plan.size(name) for file in files for name in file.tensors)
    title = f"shard {shard}/{count}"
    with _stoppable(destination, "the same command goes on"), weights_bars({title: weights}) as bars:
        names = run_shard(
            plan, destination, shard, count, bars[title], jobs=args.jobs, quantizer=_quantizer(args.device)
        )
    if args.json:
        print_json({"ok": True, "shard": shard, "of": count, "files": names})
    else:
        print(f"{title}: {', '.join(names) or 'nothing to do'}")
    return 0


def _only_plan(args: argparse.Namespace, plan: Plan) -> int:
    """Print or write what would be done."""
    if plan.dial is not None and plan.calibration is None:
        measured = sum(map(plan.size, plan.layers))
        with closing(open_source(plan.checkpoint)) as source, weights_bars({"measure": measured}) as bars:
            plan = settle(plan, source, jobs=args.jobs or os.cpu_count() or 1, progress=bars["measure"])
    summary = planned(plan, args.source)
    if args.plan:
        check_destination(Path(args.destination))
        write_plan(Path(args.plan), plan, Path(args.destination))
        summary |= {"plan": args.plan, "files": [file.name for file in plan.files]}
    if args.json:
        print_json({"ok": True, **summary})
        return 0
    print_planned(plan, args.source, listing=args.dry_run)
    if args.plan:
        print(
            f"wrote {args.plan}: {len(plan.files)} output files, so work for up to {len(plan.files)} jobs (--shard I/N)"
        )
    else:
        print("dry run: nothing was written")
    return 0


def _finish(args: argparse.Namespace, plan: Plan, destination: Path, work: Callable[[], Result]) -> int:
    """Do the work and say what came of it."""
    if args.report and not Path(args.report).absolute().parent.is_dir():
        raise FileNotFoundError(f"--report {args.report}: there is no such folder")
    if args.report and Path(args.report).is_dir():
        raise IsADirectoryError(f"--report {args.report}: expected a file, got a folder")
    started = time.perf_counter()
    with _stoppable(destination, "the same command with --resume goes on"):
        result = work()
    source = args.source or str(plan.checkpoint.path)
    seconds = time.perf_counter() - started
    at_once = not args.resume and not args.finish
    summary = made(plan, source, str(destination), result, seconds, at_once=at_once)
    if args.report:
        Path(args.report).write_text(render(report_summary(summary), result.layers), encoding="utf-8")
    if args.json:
        print_json({"ok": True, **summary})
    else:
        print_made(summary, result, layers=args.layers)
    return 0


@contextmanager
def _stoppable(destination: Path, hint: str) -> Iterator[None]:
    """End in order when the user, the system or the disk stops the work, and say how to go on."""

    def kept() -> str:
        partial = destination.with_name(destination.name + ".partial")
        return f"what is finished is kept in {partial}: {hint}" if partial.exists() else "nothing is kept"

    try:
        with _sigterm_as_interrupt():
            yield
    except KeyboardInterrupt as stop:
        print(f"interrupted; {kept()}", file=sys.stderr)
        raise SystemExit(143 if isinstance(stop, _Terminated) else 130) from None
    except (BusyError, FileExistsError, FileNotFoundError):
        raise
    except ImportError as error:
        raise ValueError(
            f"this method runs the model, and {error}: pip install 'ternfmt[diffusers]' or 'ternfmt[transformers]'"
        ) from error
    except (MemoryError, RuntimeError) as error:  # torch's, most of all for want of memory
        raise OSError(f"{type(error).__name__}: {error}; {kept()}") from error
    except OSError as error:
        raise OSError(f"{error}; {kept()}") from error


class _Terminated(KeyboardInterrupt):
    """SIGTERM."""


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():  # where Python does not let handlers be set
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_usage(args: argparse.Namespace) -> None:
    error = args.parser.error
    if args.shard or args.finish:
        if not args.plan or args.source or (args.shard and args.finish):
            error("--shard or --finish go with --plan FILE and without SRC and DST")
        return
    if args.source is None:
        error("SRC is required")
    if args.destination is None and not args.dry_run:
        error("DST is required (without it, only --dry-run)")
    if args.planes is not None and args.method not in ("planes", *DATA_METHODS):
        error("--planes goes with --method planes, calibrated or distilled")
    if args.planes == 1 and args.method == "planes":
        error("--planes 1 is --method exact")
    if args.ratio is not None and (args.method not in (None, *DATA_METHODS) or args.planes is not None):
        error("--ratio chooses method and planes: leave --method (but calibrated or distilled) and --planes out")
    if args.plan and args.method in DATA_METHODS:
        error(f"--method {args.method} solves all layers together: leave --plan out")
    if args.dry_run and args.plan:
        error("--dry-run and --plan: choose one")


def _settings(args: argparse.Namespace) -> Settings:
    return Settings(
        method=args.method or "exact",
        planes=args.planes or (1 if args.method in DATA_METHODS else 2),
        group_size=args.group_size,
        scale_dtype=args.scale_dtype,
        include=tuple(args.include),
        exclude=tuple(args.exclude),
        policy=args.policy,
        overrides=read_overrides(args.overrides) if args.overrides else (),
        ratio=args.ratio,
        names=args.names,
        component=args.component,
        base_model=args.base_model,
        calibration=calibration(args),
        shard_bytes=args.max_shard_size or (SHARD_BYTES if (args.destination or "").endswith("/") else None),
    )


def _quantizer(device: str) -> Quantizer:
    if device == "cpu":
        return quantize
    try:
        from ..encode.device import quantizer
    except ImportError as error:
        raise ValueError(f"--device {device} needs torch ({error}): pip install 'ternfmt[runtime]'") from error
    return quantizer(device)


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, got {text!r}")
    return int(text)


def _fraction(text: str) -> tuple[int, int]:
    shard, _, count = text.partition("/")
    if not (shard.isdigit() and count.isdigit() and 1 <= int(shard) <= int(count)):
        raise argparse.ArgumentTypeError(f"expected I/N with I from 1 to N, got {text!r}")
    return int(shard), int(count)
