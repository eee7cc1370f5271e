"""``ternfmt convert``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from ..container import nbytes
from ..encode.convert import Plan, Settings, convert, plan_conversion
from ..encode.methods import METHODS
from ..limits import PLANES_MAX
from ..ratios import BF16_BYTES
from ..rewrite import check_destination
from .output import format_bytes, format_shape, print_json, print_table, progress_bar

EPILOG = """\
By default every 2-D tensor named *.weight that is neither an embedding nor a norm becomes ternary; --dry-run
shows the choice. Patterns are shell globs on full tensor names; --include takes the place of the default.

examples:
  ternfmt convert model.safetensors ternary.safetensors
  ternfmt convert transformer/ transformer-ternary/ --method planes
  ternfmt convert bert/ bert-ternary/ --include '*encoder.layer.*.dense.weight' --dry-run
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("source", metavar="SRC", help="safetensors file, index JSON or folder")
    parser.add_argument(
        "destination", metavar="DST", nargs="?", help="file for a file, folder for a folder; must not exist"
    )
    parser.add_argument("--method", choices=sorted(METHODS), default="exact", help="quantisation rule (default: exact)")
    parser.add_argument(
        "--planes",
        type=int,
        choices=range(2, PLANES_MAX + 1),
        help="planes that add up, for --method planes (default: 2)",
    )
    parser.add_argument("--group-size", type=int, metavar="G", help="columns that share a scale (default: all)")
    parser.add_argument(
        "--scale-dtype",
        choices=("F16", "BF16", "F32"),
        help="default: F16, and F32 for a tensor whose scales F16 cannot hold",
    )
    parser.add_argument("--include", action="append", default=[], metavar="GLOB", help="repeatable")
    parser.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="repeatable")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, write nothing")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.planes is not None and args.method != "planes":
        args.parser.error("--planes goes with --method planes")
    if args.destination is None and not args.dry_run:
        args.parser.error("DST is required (without it, only --dry-run)")
    settings = Settings(
        args.method,
        args.planes or 2,
        args.group_size,
        args.scale_dtype,
        tuple(args.include),
        tuple(args.exclude),
    )
    plan = plan_conversion(args.source, settings)
    if not args.dry_run:
        check_destination(Path(args.destination))
    summary = _summary(plan)
    if not args.json:
        _print_plan(plan, listing=args.dry_run)
    if not args.dry_run:
        started = time.perf_counter()
        with progress_bar("convert", plan.source_bytes) as advance:
            wide = convert(plan, Path(args.destination), advance)
        summary |= {
            "destination": args.destination,
            "scales_in_f32": wide,
            "seconds": round(time.perf_counter() - started, 3),
        }
    if args.json:
        print_json({"ok": True, **summary})
    else:
        _print_summary(summary, dry_run=args.dry_run)
    return 0


def _summary(plan: Plan) -> dict[str, Any]:
    after = {name: _stored_bytes(plan, name) for name in plan.spans}
    ternary = plan.ternary
    weights = sum(_weights(plan, name) for name in ternary)
    block_bytes = sum(after[name] for name in ternary)
    return {
        "source": str(plan.source.path),
        "method": plan.settings.method,
        "ternary": ternary,
        "dense": [name for name in plan.spans if not plan.choices[name].ternary],
        "ternary_weights": weights,
        "source_bytes": plan.source_bytes,
        "bytes": sum(after.values()),
        "block_ratio": weights * BF16_BYTES / block_bytes,
        "file_ratio": plan.source_bytes / sum(after.values()),
    }


def _print_plan(plan: Plan, *, listing: bool) -> None:
    if listing:
        rows = [
            [
                name,
                format_shape(span.shape),
                span.dtype,
                "ternary" if plan.choices[name].ternary else "dense",
                plan.choices[name].reason,
                format_bytes(span.end - span.begin),
                format_bytes(_stored_bytes(plan, name)),
            ]
            for name, span in sorted(plan.spans.items())
        ]
        print_table(["tensor", "shape", "dtype", "becomes", "why", "before", "after"], rows)
    count = len(plan.ternary)
    print(
        f"{count} of {len(plan.spans)} tensors become ternary by method {plan.settings.method}, e.g. "
        f"{plan.ternary[0]}; {len(plan.spans) - count} stay as they are"
        f"{'' if listing else ' (--dry-run lists them)'}"
    )


def _print_summary(summary: dict[str, Any], *, dry_run: bool) -> None:
    print(
        f"{format_bytes(summary['source_bytes'])} -> {format_bytes(summary['bytes'])}: "
        f"file ratio {summary['file_ratio']:.2f}x, block ratio {summary['block_ratio']:.2f}x (against BF16)"
    )
    if dry_run:
        print("dry run: nothing was written")
        return
    if summary["scales_in_f32"]:
        print(f"F32 scales, out of F16's range: {', '.join(summary['scales_in_f32'])}")
    print(f"wrote {summary['destination']} in {summary['seconds']:.1f} s")


def _stored_bytes(plan: Plan, name: str) -> int:
    return sum(nbytes(dtype, shape) for dtype, shape in plan.stored(name).values())


def _weights(plan: Plan, name: str) -> int:
    span = plan.spans[name]
    return nbytes("U8", span.shape)
