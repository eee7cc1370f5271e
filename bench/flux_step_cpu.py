"""One step of a transformer of FLUX.1-dev's shape on the CPU, its ternary weights mapped from a file.

`make` writes the file: 494 ternary weights with random codes and scales that keep results of the order of the inputs,
the other tensors in BF16 (3.1 GB). `run` maps it, makes diffusers' model on top of the mapping, without a copy, and
takes one step at 512 x 512 (1024 + 512 tokens): seconds to load, seconds a step, peak memory.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from make_flux_checkpoint import flux_tensors

import ternfmt
from ternfmt import Plane, TernaryTensor

TERNARY = re.compile(r"(single_)?transformer_blocks\.\d+\..*\.weight")
SAMPLE = 1 << 24
"""Bytes of random codes that all weights are stretches of."""

BF16_BYTES = 23_802_816_640
"""Of the original."""


def main() -> None:
    """Make the file, or run the step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("make", "run"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--hidden", type=int, default=3072, help="width, a multiple of 128 (default: 3072)")
    parser.add_argument("--blocks", type=int, nargs=2, default=(19, 38), metavar=("DOUBLE", "SINGLE"))
    parser.add_argument("--tokens", type=int, nargs=2, default=(1024, 512), metavar=("IMAGE", "TEXT"))
    parser.add_argument("--int8", action="store_true", help="activations in int8")
    parser.add_argument("--steps", type=int, default=1)
    arguments = parser.parse_args()
    shape = (arguments.hidden, *arguments.blocks)
    if arguments.task == "make":
        make(arguments.file, *shape)
        print(f"{arguments.file}: {arguments.file.stat().st_size:,} bytes")
    else:
        found = run(arguments.file, shape, tuple(arguments.tokens), int8=arguments.int8, steps=arguments.steps)
        print(json.dumps(found, indent=1))


def make(path: Path, hidden: int, double: int, single: int) -> None:
    """Write the file; in memory are the sample and the dense tensors."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 256, SAMPLE, dtype=np.uint8)
    nonzero = bits & 0x55
    sample = nonzero | ((bits >> 1 & nonzero) << 1)
    tensors: dict[str, Any] = {}
    for name, shape in flux_tensors(hidden, double, single):
        if len(shape) == 2 and TERNARY.fullmatch(name):
            n, k = shape
            start = int(rng.integers(0, SAMPLE - n * k // 4 + 1))
            scale = np.full(n, (2 / k) ** 0.5, dtype=np.float16)
            codes = sample[start : start + n * k // 4].reshape(n, k // 4)
            tensors[name] = TernaryTensor(shape, (Plane(codes, scale),), None, None)
        elif name.endswith("bias"):
            tensors[name] = np.zeros(shape, ml_dtypes.bfloat16)
        elif len(shape) == 1:
            tensors[name] = np.ones(shape, ml_dtypes.bfloat16)
        else:
            dense = rng.standard_normal(shape, dtype=np.float32) * shape[1] ** -0.5
            tensors[name] = dense.astype(ml_dtypes.bfloat16)
    ternfmt.save(path, tensors)


def run(
    path: Path, shape: tuple[int, int, int], tokens: tuple[int, int], *, int8: bool, steps: int
) -> dict[str, object]:
    """Load and step; sizes in bytes, times in seconds."""
    import torch
    from diffusers import FluxTransformer2DModel

    from ternfmt_runtime import use_int8_activations

    hidden, double, single = shape
    before = peak_memory()
    started = time.perf_counter()
    with torch.device("meta"):
        model = FluxTransformer2DModel(
            num_layers=double, num_single_layers=single, num_attention_heads=hidden // 128, guidance_embeds=True
        )
    load_mapped(model, path)
    use_int8_activations(model, int8)
    model.eval()
    loaded = time.perf_counter()
    image, text = tokens
    inputs = {
        "hidden_states": torch.randn(1, image, 64).bfloat16(),
        "encoder_hidden_states": torch.randn(1, text, 4096).bfloat16(),
        "pooled_projections": torch.randn(1, 768).bfloat16(),
        "timestep": torch.tensor([0.5]).bfloat16(),
        "guidance": torch.tensor([3.5]).bfloat16(),
        "img_ids": torch.zeros(image, 3),
        "txt_ids": torch.zeros(text, 3),
    }
    times = []
    with torch.inference_mode():
        for _ in range(steps):
            begun = time.perf_counter()
            result = model(**inputs).sample
            times.append(time.perf_counter() - begun)
    return {
        "finite": bool(result.isfinite().all()),
        "mode": "a8" if int8 else "a16",
        "threads": torch.get_num_threads(),
        "file": path.stat().st_size,
        "load": loaded - started,
        "steps": times,
        "peak memory": peak_memory(),
        "peak memory before": before,
        "bf16 weights alone": BF16_BYTES,
    }


def load_mapped(model: Any, path: Path) -> None:
    """Ternary layers in place of the dense ones, every tensor a stretch of the mapped file (private, copy on write)."""
    import torch
    from torch import nn

    from ternfmt_runtime import TernaryLinear

    with ternfmt.open(path) as file:  # checks the file; offsets are plain safetensors
        ternary = {name.removesuffix(".weight") for name, info in file.tensors.items() if info.ternary}
    for name in ternary:
        old = model.get_submodule(name)
        new = TernaryLinear(
            old.in_features, old.out_features, old.bias is not None, compute_dtype=torch.bfloat16, device="meta"
        )
        model.set_submodule(name, new)
    size = path.stat().st_size
    storage = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=size)
    everything = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (size,), (1,))
    header_bytes = int.from_bytes(bytes(everything[:8].tolist()), "little")
    header = json.loads(everything[8 : 8 + header_bytes].numpy().tobytes())
    header.pop("__metadata__")
    dtypes = {"U8": torch.uint8, "BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    state = {}
    for name, entry in header.items():
        begin, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
        state[name] = everything[begin:end].view(dtypes[entry["dtype"]]).view(entry["shape"])
    model.load_state_dict(state, assign=True)
    assert not any(isinstance(m, nn.Linear) and m.weight.is_meta for m in model.modules())


def peak_memory() -> int:
    """The most bytes that were resident, pages of mapped files among them."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


if __name__ == "__main__":
    main()
