"""bench/flux_step_cpu.py with a model that takes no time: it writes, maps, steps, and times every layer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ternfmt_kernels.cpu_backend import isa

ROOT = Path(__file__).parents[2]
SMALL = ("--hidden", "128", "--blocks", "1", "2", "--tokens", "16", "8")


@pytest.mark.skipif(isa.module() is None, reason="ternfmt_kernels._cpu is not built")
def test_a_step_of_a_mapped_model(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    path = tmp_path / "flux.safetensors"

    def script(task: str, *options: str) -> str:
        command = [sys.executable, "bench/flux_step_cpu.py", task, str(path), *SMALL, *options]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout

    made = script("make")
    assert f"{path.stat().st_size:,} bytes" in made
    found = json.loads(script("run", "--int8", "--layers"))
    assert found["finite"]
    assert found["mode"] == "a8"
    assert found["peak memory"] > found["peak memory before"]
    assert {row["m"] for row in found["layers"]} == {1, 8, 16, 24}  # modulations, text, image, both
    assert sum(row["layers"] for row in found["layers"]) == 14 + 2 * 6  # of a double block, of two single ones
    assert set(found["all layers"]) >= {"ours", "bf16"}
