"""The program that checks every kernel between guard pages, built and run on the instruction sets of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "check"


@pytest.mark.slow
def test_every_kernel_between_guard_pages(tmp_path: Path) -> None:
    """Other sets, emulated: `make emulate`."""
    cmake = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if cmake is None or not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("no CMake, or no C compiler")
    subprocess.run([cmake, "-S", FOLDER, "-B", tmp_path], check=True, capture_output=True)
    built = subprocess.run([cmake, "--build", tmp_path, "--parallel", "2"], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    done = subprocess.run([tmp_path / "check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].startswith("scalar ")
