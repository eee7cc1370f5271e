"""Calibrate one double and one single block of FLUX.1-dev's width: how long `calibrated` takes, and how much memory.

Weights and inputs are random, so that errors mean nothing; sizes are real: products of up to 15,360 columns, whose
second moments are 0.94 GB each. FLUX.1-dev has 19 and 38 such blocks.

    python bench/calibrate_flux_blocks.py [--pictures 16] [--hidden 3072]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import FluxTransformer2DModel

from ternfmt.encode.calibrated.settings import CalibratedSettings
from ternfmt.encode.calibrated.solve import calibrate
from ternfmt.encode.data.model import make_loaded
from ternfmt.encode.run.solution import Solution
from ternfmt.encode.settings import LayerSettings
from ternfmt.peak_memory import peak_rss

HEAD = 128


class Noise:
    """Calls of the transformer for pictures of 256 x 256 pixels, with a short text."""

    def __init__(self, model: FluxTransformer2DModel, image: int = 256, text: int = 64) -> None:
        self.config, self.image, self.text = model.config, image, text

    def call(self, number: int, size: int) -> dict[str, Any]:
        """As `Calls.call`."""
        generator = torch.Generator().manual_seed(number)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator)

        return {
            "hidden_states": normal(size, self.image, self.config.in_channels),
            "encoder_hidden_states": normal(size, self.text, self.config.joint_attention_dim),
            "pooled_projections": normal(size, self.config.pooled_projection_dim),
            "timestep": torch.rand(size, generator=generator),
            "guidance": torch.full((size,), 3.5),
            "img_ids": torch.zeros(self.image, 3),
            "txt_ids": torch.zeros(self.text, 3),
            "return_dict": False,
        }


def main() -> None:
    """Make a model of two blocks, calibrate it, say what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=16, help="calibration samples (default: 16)")
    parser.add_argument("--hidden", type=int, default=3072, help=f"width, a multiple of {HEAD} (default: 3072)")
    arguments = parser.parse_args()
    # In float32, as `ternfmt convert` computes on a CPU.
    model = FluxTransformer2DModel(
        num_layers=1, num_single_layers=1, num_attention_heads=arguments.hidden // HEAD, guidance_embeds=True
    ).eval()
    loaded = make_loaded(model, [n for n, p in model.named_parameters() if p.ndim == 2 and "transformer_blocks." in n])
    layers = {name: LayerSettings("calibrated") for name in loaded.linears}
    dtypes = {name: "BF16" for name in loaded.names.values() if name not in layers}
    before, began, marks = peak_rss(), time.perf_counter(), []

    def tell(what: str, _: float) -> None:
        marks.append((what, time.perf_counter() - began))
        print(what, file=sys.stderr, flush=True)

    with TemporaryDirectory() as name:
        folder = Path(name)
        solution = Solution(folder / "solution")
        settings = CalibratedSettings(samples=arguments.pictures, batch=2)
        calibrate(
            loaded,
            Noise(model),
            layers,
            solution,
            settings,
            folder / "work",
            tell,
            dtypes,
        )
    seconds = [round(after - start, 1) for (_, start), (_, after) in pairwise(marks)]
    found = {
        "threads": torch.get_num_threads(),
        "model, bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
        "seconds": dict(zip([what for what, _ in marks], seconds, strict=False)),
        "peak resident bytes before": before,
        "peak resident bytes": peak_rss(),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
