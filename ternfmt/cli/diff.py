"""``ternfmt diff``."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from ..compare import diff
from ..reader import open_model
from .output import print_json, print_table

EPILOG = """\
Compares tensors: codes, scales, factors and dense values. Order, padding and metadata do not count. Exits with 1
when the models differ.

examples:
  ternfmt diff a.safetensors b.safetensors
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("a", metavar="A", help="ternfmt file, index JSON or folder")
    parser.add_argument("b", metavar="B", help="ternfmt file, index JSON or folder")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    with open_model(args.a) as a, open_model(args.b) as b:
        differences = list(diff(a, b))
    if args.json:
        print_json({"equal": not differences, "differences": [asdict(d) for d in differences]})
    elif differences:
        print_table(["tensor", "what", "A | B"], [[d.name, d.what, d.detail] for d in differences])
    else:
        print("equal")
    return 1 if differences else 0
