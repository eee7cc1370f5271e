"""No dense copy of a ternary tensor while a model loads, or is saved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaConfig

import ternfmt
from ternfmt import Plane, TernaryTensor
from ternfmt.pack import packed_columns

HIDDEN, INTERMEDIATE, LAYERS = 2048, 8192, 2
PACKED = LAYERS * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * INTERMEDIATE) // 4
LARGEST_DENSE = 2 * HIDDEN * INTERMEDIATE
"""Bytes of the largest ternary weight in bfloat16; all of them would be eight times the packed ones."""

PROGRAM = """
import sys
from pathlib import Path
import ternfmt_runtime
from transformers import AutoModelForCausalLM

def status(key):
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split(key + ":")[1].split()[0])

def peak(work):
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before = status("VmRSS")
    result = work()
    return result, status("VmHWM") - before

small, big, out = sys.argv[1:]
AutoModelForCausalLM.from_pretrained(small).save_pretrained(out + "/small")  # imports and caches
model, loading = peak(lambda: AutoModelForCausalLM.from_pretrained(big))
_, saving = peak(lambda: model.save_pretrained(out + "/big"))
print("peaks", loading, saving)
"""


def write_model(folder: Path, hidden: int, intermediate: int, layers: int) -> None:
    """A Llama-class model straight from codes: a dense one of this size would be slow to make."""
    folder.mkdir()
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=16,
        vocab_size=64,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text())
    values["quantization_config"] = {"quant_method": "ternfmt", "format_version": "1.0"}
    (folder / "config.json").write_text(json.dumps(values))
    rng = np.random.default_rng(0)

    def ternary(n: int, k: int) -> TernaryTensor:
        codes = rng.integers(0, 256, (n, packed_columns(k)), dtype=np.uint8)
        codes &= ~(((codes >> 1) & ~codes & 0x55) << 1)  # forbidden codes become 0
        return TernaryTensor((n, k), (Plane(codes, np.full(n, 0.01, np.float16)),))

    tensors = {"model.embed_tokens.weight": np.zeros((64, hidden), np.float16)}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    tensors["model.norm.weight"] = np.ones(hidden, np.float16)
    for i in range(layers):
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{i}.{name}.weight"] = np.ones(hidden, np.float16)
        for name in "qkvo":
            tensors[f"model.layers.{i}.self_attn.{name}_proj.weight"] = ternary(hidden, hidden)
        for name in ("gate", "up"):
            tensors[f"model.layers.{i}.mlp.{name}_proj.weight"] = ternary(intermediate, hidden)
        tensors[f"model.layers.{i}.mlp.down_proj.weight"] = ternary(hidden, intermediate)
    ternfmt.save(folder / "model.safetensors", tensors)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak from Linux's /proc")
def test_peak_memory(tmp_path: Path) -> None:
    write_model(tmp_path / "small", 64, 128, 1)
    write_model(tmp_path / "big", HIDDEN, INTERMEDIATE, LAYERS)
    arguments = [str(tmp_path / name) for name in ("small", "big", "out")]
    (tmp_path / "out").mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    loading, saving = map(int, done.stdout.split("peaks")[1].split())
    assert PACKED < loading < PACKED + LARGEST_DENSE // 2
    assert saving < LARGEST_DENSE // 2
