"""``ternfmt verify``."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from ..validate import validate
from .output import print_json
from .validate import add_path_arguments

EPILOG = """\
Digests find damage, not forgery: whoever can change the data can change the digest.

examples:
  ternfmt verify ternary.safetensors
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    add_path_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    result = validate(args.path, digests=True, strict_links=args.strict_links)
    if args.json:
        print_json({"ok": True, "path": args.path, **asdict(result)})
    else:
        print(
            f"{args.path}: valid; {result.digests_checked} digests match, {result.uncovered} stored tensors have none"
        )
    return 0
