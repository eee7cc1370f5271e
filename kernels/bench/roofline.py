"""``python kernels/bench/roofline.py``: what ``python -m ternfmt_kernels.bench roofline`` does; makes ROOFLINE.md."""

from __future__ import annotations

import sys

from ternfmt_kernels.bench.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["roofline", *sys.argv[1:]]))
