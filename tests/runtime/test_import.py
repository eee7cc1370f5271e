"""What ``import ternfmt_runtime`` brings along."""

from __future__ import annotations

import subprocess
import sys


def test_diffusers_and_transformers_stay_out() -> None:
    program = "import sys, ternfmt_runtime; print('diffusers' in sys.modules, 'transformers' in sys.modules)"
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
