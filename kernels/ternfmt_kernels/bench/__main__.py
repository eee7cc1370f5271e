"""``python -m ternfmt_kernels.bench``: what the kernels cost."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import aot_command, cpu_command, gpu_command, roofline_command

COMMANDS = (cpu_command, gpu_command, aot_command, roofline_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the benchmarks; the exit status: 0 ok, 1 a goal missed or no GPU, 2 usage."""
    parser = argparse.ArgumentParser(prog="python -m ternfmt_kernels.bench", description=__doc__)
    choices = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(choices)
    chosen = parser.parse_args(arguments)
    return int(chosen.run(chosen))


if __name__ == "__main__":
    sys.exit(main())
