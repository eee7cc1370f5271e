"""``python -m ternfmt_kernels.bench roofline``: what packed weights can gain on paper."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from . import flux, roofline, roofline_report

EXAMPLES = """examples:
  python -m ternfmt_kernels.bench roofline                                             print the tables
  python -m ternfmt_kernels.bench roofline --markdown kernels/bench/ROOFLINE.md        regenerate the committed ones
  python -m ternfmt_kernels.bench roofline --json -                                    the limits of every layer
"""


def add(choices: Any) -> None:
    """Add the command to ``choices``."""
    parser = choices.add_parser(
        "roofline",
        help="the least time FLUX.1's layers can take, on paper",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the limits as JSON; - writes to stdout")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write or print; always 0."""
    if arguments.json is not None:
        text = json.dumps(_document(), indent=1) + "\n"
        if str(arguments.json) == "-":
            print(text, end="")
        else:
            arguments.json.write_text(text, encoding="utf-8")
    if arguments.markdown is not None:
        arguments.markdown.write_text(roofline_report.markdown(), encoding="utf-8")
    elif arguments.json is None:
        print(roofline_report.markdown(), end="")
    return 0


def _document() -> dict[str, object]:
    return {
        "steps": [
            {"device": d.name, "method": m.name, "seconds": roofline.step(m, d).seconds}
            for d in roofline.DEVICES
            for m in roofline.METHODS
        ],
        "layers": [
            {
                "device": d.name,
                "method": m.name,
                "layer": layer.name,
                "m": layer.m,
                "n": layer.n,
                "k": layer.k,
                **vars(roofline.limit(m, d, layer.m, layer.n, layer.k)),
            }
            for d in roofline.DEVICES
            for m in roofline.METHODS
            for layer in flux.LAYERS
        ],
    }
