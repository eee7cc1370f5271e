"""``ternfmt validate``."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from ..validate import validate
from .output import print_json

EPILOG = """\
A file named *-00001-of-00003.safetensors is checked as a shard, by itself; give the index or the folder to check
the whole model.

examples:
  ternfmt validate ternary.safetensors
  ternfmt validate transformer-ternary/ --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    add_path_arguments(parser)


def add_path_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that `validate` and `verify` share."""
    parser.add_argument("path", metavar="PATH", help="ternfmt file, index JSON or folder")
    parser.add_argument("--strict-links", action="store_true", help="refuse shards that are symbolic links")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    result = validate(args.path, strict_links=args.strict_links)
    if args.json:
        print_json({"ok": True, "path": args.path, **asdict(result)})
    else:
        print(
            f"{args.path}: valid; {result.ternary} ternary and {result.dense} dense tensors "
            f"in {result.files} file{'s' if result.files > 1 else ''}"
        )
    return 0
