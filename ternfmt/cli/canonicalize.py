"""``ternfmt canonicalize``."""

from __future__ import annotations

import argparse

from ..canonicalize import canonicalize, rebuild
from .output import print_json

EPILOG = """\
Equal models have equal canonical bytes. --rebuild repairs files whose metadata some tool dropped (error STRIPPED);
--like names the dense original, which knows the shapes.

examples:
  ternfmt canonicalize saved.safetensors canonical.safetensors
  ternfmt canonicalize stripped.safetensors repaired.safetensors --rebuild --like original.safetensors
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("source", metavar="SRC", help="ternfmt file, index JSON or folder")
    parser.add_argument("destination", metavar="DST", help="file for a file, folder for a folder")
    parser.add_argument("--rebuild", action="store_true", help="restore a dropped metadata document")
    parser.add_argument("--like", metavar="ORIGINAL", help="dense original, for --rebuild")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.like is not None and not args.rebuild:
        args.parser.error("--like goes with --rebuild")
    if args.rebuild:
        rebuild(args.source, args.destination, args.like)
    else:
        canonicalize(args.source, args.destination)
    if args.json:
        print_json({"ok": True, "destination": args.destination})
    else:
        print(f"wrote {args.destination}")
    return 0
