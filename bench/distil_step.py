"""A step of `distilled`: the time that the accounting says, and the time that it takes.

The model has blocks of FLUX.1's form at reduced size. The accounting counts operations; how many a second there are is
measured on the teacher's forward pass, so that what is compared is how many times that a step takes.

    python bench/distil_step.py [--hidden 512] [--batch 4] [--steps 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from calibrate_flux_blocks import HEAD, Noise
from diffusers import FluxTransformer2DModel

from ternfmt.encode.data.model import make_loaded
from ternfmt.encode.distilled.accounting import count_flops, inventory, seconds
from ternfmt.encode.distilled.settings import DistilledSettings
from ternfmt.encode.distilled.student import make_student
from ternfmt.encode.distilled.train import Trainer
from ternfmt.encode.settings import LayerSettings

WAYS: Mapping[str, Mapping[str, Any]] = {
    "end to end": {},
    "recompute": {"recompute": True},
    "keep codes": {"train_codes": False, "train_dense": "biases"},
}


def median_seconds(run: Callable[[], Any], times: int) -> float:
    """Of so many runs, after one that does not count."""
    run()
    found = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def main() -> None:
    """Print a line for each way to train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=512, help=f"width, a multiple of {HEAD} (default: 512)")
    parser.add_argument("--batch", type=int, default=4, help="samples in a step (default: 4)")
    parser.add_argument("--steps", type=int, default=5, help="steps that are measured (default: 5)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = FluxTransformer2DModel(
        num_layers=2, num_single_layers=4, num_attention_heads=arguments.hidden // HEAD, guidance_embeds=True
    )
    loaded = make_loaded(model, [n for n, p in model.named_parameters() if p.ndim == 2 and "transformer_blocks." in n])
    layers = {name: LayerSettings("distilled") for name in loaded.linears}
    dtypes = {name: "F32" for name in loaded.names.values() if name not in layers}
    calls = Noise(model)
    with torch.no_grad():
        call = calls.call(0, arguments.batch)
        whole = median_seconds(lambda: model(**call), arguments.steps)
    flops = count_flops(lambda: model(**calls.call(0, 1)))
    rate = flops * arguments.batch / whole
    print(f"forward pass: {whole:.3f} s, {rate / 1e9:.0f} GFLOP/s, {torch.get_num_threads()} threads\n")
    print("| | step, by the accounting | measured | measured / accounting |\n|---|---|---|---|")
    for name, changes in WAYS.items():
        settings = replace(DistilledSettings(steps=1, batch=arguments.batch), **changes)
        optimizer = inventory(loaded, layers, settings, dtypes).optimizer_flops(settings)
        expected = seconds(flops, optimizer, settings, flops_per_second=rate, utilisation=1.0)
        trainer = Trainer(loaded, make_student(loaded, layers, settings, dtypes, None), calls, settings)
        took = median_seconds(trainer.train_step, arguments.steps)
        print(f"| {name} | {expected:.3f} s | {took:.3f} s | {took / expected:.2f} |", flush=True)


if __name__ == "__main__":
    main()
