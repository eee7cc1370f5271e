"""``python kernels/bench/aot.py``: what ``python -m ternfmt_kernels.bench aot`` does; makes RESULTS-aot.md."""

from __future__ import annotations

import sys

from ternfmt_kernels.bench.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["aot", *sys.argv[1:]]))
