"""The command line: ``ternfmt COMMAND``.

Exit codes: 0 ok, 1 the file or the data is at fault, 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from ..version import __version__
from .output import print_error

COMMANDS = {
    "convert": (".convert", "quantise a safetensors checkpoint to ternfmt"),
    "inspect": (".inspect", "show what a file holds: shapes, planes, sparsity, ratios"),
    "validate": (".validate", "check a model against every rule of SPEC.md"),
    "verify": (".verify", "validate, and compare SHA-256 digests"),
    "diff": (".diff", "compare the tensors of two models"),
    "dequantize": (".dequantize", "write a ternfmt model as a dense checkpoint"),
    "canonicalize": (".canonicalize", "rewrite as canonical bytes, or repair dropped metadata"),
    "conformance": ("ternfmt_conformance.cli", "test any implementation of SPEC.md"),
}
"""Command -> (module with ``add_arguments`` and ``run``, summary). Modules are imported when called for."""

EPILOG = """\
examples:
  ternfmt convert model.safetensors model-ternary.safetensors
  ternfmt inspect model-ternary.safetensors --source model.safetensors
  ternfmt verify model-ternary.safetensors

exit codes: 0 ok, 1 the file or the data is at fault, 2 usage
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="ternfmt",
        description="Read, write and check ternary model weights.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ternfmt {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module_name, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in arguments[:1]:
            module = import_module(module_name, __name__)
            module.add_arguments(subparser)
            subparser.add_argument("--json", action="store_true", help="print one JSON object for scripts")
            subparser.set_defaults(run=module.run, parser=subparser)
    parsed = parser.parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        return 0
    except (OSError, ValueError) as error:
        print_error(error, as_json=parsed.json)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
