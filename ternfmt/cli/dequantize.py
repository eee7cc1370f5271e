"""``ternfmt dequantize``."""

from __future__ import annotations

import argparse

from ..dequantize import dequantize
from ..names import SCALE_DTYPE_NAMES
from ..reader import open_model
from .output import print_json, progress_bar

EPILOG = """\
examples:
  ternfmt dequantize ternary.safetensors dense.safetensors
  ternfmt dequantize transformer-ternary/ transformer-dense/ --dtype F32
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("source", metavar="SRC", help="ternfmt file, index JSON or folder")
    parser.add_argument("destination", metavar="DST", help="file for a file, folder for a folder")
    parser.add_argument(
        "--dtype", choices=SCALE_DTYPE_NAMES, default="BF16", help="of the dense weights (default: BF16)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    with open_model(args.source, shard=False) as model:
        total = sum(info.nbytes for info in model.tensors.values())
    with progress_bar("dequantize", total) as advance:
        dequantize(args.source, args.destination, args.dtype, advance)
    if args.json:
        print_json({"ok": True, "destination": args.destination, "dtype": args.dtype})
    else:
        print(f"wrote {args.destination}")
    return 0
