"""One step of a transformer of FLUX.1-dev's shape on the CPU, its ternary weights mapped from a file.

`make` writes the file: 494 ternary weights with random codes and scales that keep results of the order of the inputs,
the other tensors in BF16 (3.1 GB). `run` maps it, makes diffusers' model on top of the mapping, without a copy, and
takes one step at 512 x 512 (1024 + 512 tokens): seconds to load, seconds a step, peak memory. With `--layers` it takes
another step, layer by layer, and times the same products with PyTorch's dense bf16 and int8 weights.
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
    parser.add_argument("--layers", action="store_true", help="time each layer, and PyTorch beside it")
    parser.add_argument("--threads", type=int, help="(default: PyTorch's choice)")
    arguments = parser.parse_args()
    shape = (arguments.hidden, *arguments.blocks)
    if arguments.task == "make":
        make(arguments.file, *shape)
        print(f"{arguments.file}: {arguments.file.stat().st_size:,} bytes")
    else:
        if arguments.threads:
            import torch

            torch.set_num_threads(arguments.threads)
        options = {name: getattr(arguments, name) for name in ("int8", "steps", "layers")}
        found = run(arguments.file, shape, tuple(arguments.tokens), **options)
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
    path: Path, shape: tuple[int, int, int], tokens: tuple[int, int], *, int8: bool, steps: int, layers: bool
) -> dict[str, object]:
    """Load and step; sizes in bytes, times in seconds."""
    import torch
    from diffusers import FluxTransformer2DModel

    from ternfmt_runtime import load_into, use_int8_activations

    hidden, double, single = shape
    before = peak_memory()
    started = time.perf_counter()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = FluxTransformer2DModel(
            num_layers=double, num_single_layers=single, num_attention_heads=hidden // 128, guidance_embeds=True
        )
    torch.set_default_dtype(torch.float32)
    made = time.perf_counter()
    load_into(model, path, mapped=True)
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
    found = {
        "finite": bool(result.isfinite().all()),
        "mode": "a8" if int8 else "a16",
        "threads": torch.get_num_threads(),
        "file": path.stat().st_size,
        "model on meta": made - started,
        "load and check": loaded - made,
        "steps": times,
        "peak memory": peak_memory(),
        "peak memory before": before,
        "bf16 weights alone": BF16_BYTES,
    }
    return found | (compare_layers(model, inputs) if layers else {})


def compare_layers(model: Any, inputs: dict[str, Any]) -> dict[str, object]:
    """Seconds in the ternary layers of one more step, by shape, and of the same products in PyTorch.

    PyTorch's weights are made for one shape at a time: together they would not fit.
    """
    import torch

    from ternfmt_kernels.bench import cpu_peers
    from ternfmt_kernels.bench.contenders import random_weight
    from ternfmt_runtime import TernaryLinear

    spent: dict[tuple[int, int, int], list[float]] = {}
    begun = [0.0]

    def before(*_: object) -> None:
        begun[0] = time.perf_counter()

    def after(layer: Any, arguments: tuple[Any, ...], _: object) -> None:
        rows = arguments[0].numel() // layer.in_features
        taken = time.perf_counter() - begun[0]
        spent.setdefault((rows, layer.out_features, layer.in_features), []).append(taken)

    for layer in model.modules():
        if isinstance(layer, TernaryLinear):
            layer.register_forward_pre_hook(before)
            layer.register_forward_hook(after)
    with torch.inference_mode():
        model(**inputs)
    others = [peer for peer in cpu_peers.peers() if peer.name in ("bf16", "dynamic int8") and not peer.unavailable()]
    table = []
    for (m, n, k), times in sorted(spent.items()):
        row: dict[str, object] = {"m": m, "n": n, "k": k, "layers": len(times), "ours": sum(times)}
        weight, x = random_weight(n, k, torch.device("cpu"), seed=0), torch.randn(m, k)
        for peer in others:
            product, values = peer.copies(weight, 1)[0], cpu_peers.activations(peer, x)
            row[peer.name] = len(times) * min(seconds(product, values) for _ in range(2))
        table.append(row)
    names = ("ours", *(peer.name for peer in others))
    return {"layers": table, "all layers": {name: sum(row[name] for row in table) for name in names}}  # type: ignore[misc]


def seconds(product: Any, x: Any) -> float:
    """That one product takes."""
    begun = time.perf_counter()
    product(x)
    return time.perf_counter() - begun


def peak_memory() -> int:
    """The most bytes that were resident, pages of mapped files among them."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


if __name__ == "__main__":
    main()
