"""What loading a ternary model costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ternfmt_runtime import TernaryConfig
from tests.runtime.diffusers.wide import LINEARS

MEMORY = """
import sys, threading, time
import torch, ternfmt_runtime
from diffusers import FluxTransformer2DModel
def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))
start, peak, done = resident(), 0, False
def watch():
    global peak
    while not done:
        peak = max(peak, resident())
        time.sleep(0.001)
thread = threading.Thread(target=watch, daemon=True)
thread.start()
how, path, config = sys.argv[1:]
if how == "from_pretrained":
    model = FluxTransformer2DModel.from_pretrained(path, torch_dtype=torch.bfloat16)
else:
    model = FluxTransformer2DModel.from_single_file(
        path, config=config, torch_dtype=torch.bfloat16, quantization_config=ternfmt_runtime.TernaryConfig()
    )
done = True
thread.join()
print(peak - start, sum(t.nbytes for t in model.state_dict().values()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize("how", ["from_pretrained", "from_single_file"])
def test_loading_takes_the_models_own_memory(single_file, wide_file, wide_config, flux_class, tmp_path, how) -> None:
    """All layers as they stay, and half as much again, which is less than the largest would take in bfloat16."""
    path = wide_file
    if how == "from_pretrained":
        path = tmp_path
        config = TernaryConfig()
        flux_class.from_single_file(str(wide_file), config=wide_config, quantization_config=config).save_pretrained(
            path
        )
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, how, str(path), wide_config],
        timeout=300,
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    peak, size = map(int, done.stdout.split())
    dense = sum(2 * n * k for n, k in LINEARS.values())
    assert size < dense / 4
    assert size <= peak < 1.5 * size
