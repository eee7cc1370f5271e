"""Do wider models lose less? The sample FLUX at several widths, each trained for as many steps, then made ternary.

    python examples/sample-flux/widths.py [--widths 64 128]

Prints a Markdown table: error of the velocity at one noise level, relative to its square, in percent, for one ternary
plane. The models are trained far too briefly to draw what they are asked for, so that there is no score to keep.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import ternfmt_runtime
from curve import write_prompts
from sample_flux.cases import make_cases
from sample_flux.compare import velocity_errors
from sample_flux.draw import load_pipeline
from sample_flux.model import SHIFT, TRANSFORMER, save_pipeline
from sample_flux.ternary import convert_pipeline
from sample_flux.training import BALANCED, Phase, Settings, Trainer

HEAD: int = TRANSFORMER["attention_head_dim"]
TIME = 0.8  # noise level of the errors: where the words decide
CONSTANT = 0.4  # share of the steps before the learning rate falls


def train(width: int, steps: int, folder: Path) -> float:
    """Train a model of this width and write its pipeline folder; return its loss, the mean of the last tenth."""
    heads = {"num_attention_heads": width // HEAD}
    phases = (Phase(round(CONSTANT * steps), 1.0, SHIFT, BALANCED), Phase(steps, 0.0, SHIFT, BALANCED))
    trainer = Trainer(Settings(phases), **heads)
    losses = [trainer.train_step() for _ in range(steps)]
    save_pipeline(trainer.models.state_dict(), folder, **heads)
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)


def options(folder: Path, samples: int, steps: int) -> Mapping[str, tuple[str, ...]]:
    """Options of `ternfmt convert` for each column."""
    prompts = ("--prompts", write_prompts(folder / "prompts.txt"), "--data", str(folder / "data"))
    data = (*prompts, "--trust-remote-code", "--samples", str(samples), "--held-out", "32", "--batch", "32")
    training = ("--start", "calibrated", "--steps", str(steps), "--learning-rate", "1e-3")
    return {
        "exact": ("--method", "exact"),
        "calibrated": ("--method", "calibrated", *data),
        "distilled": ("--method", "distilled", *training, *data),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Train, convert and compare at every width; print its line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--widths", nargs="+", type=int, default=[64, 128], metavar="N", help=f"multiples of {HEAD}")
    parser.add_argument("--steps", type=int, default=400, metavar="N", help="of training (default: 400)")
    parser.add_argument("--distil", type=int, default=200, metavar="N", help="steps of `distilled` (default: 200)")
    parser.add_argument("--samples", type=int, default=256, metavar="N", help="pictures to learn from (default: 256)")
    arguments = parser.parse_args(argv)
    for width in arguments.widths:
        if width % HEAD or width <= 0:
            parser.error(f"--widths {width}: expected a multiple of {HEAD}")
    for name in ("steps", "distil", "samples"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} {getattr(arguments, name)}: expected at least 1")
    cases = make_cases("validation", 32)
    with TemporaryDirectory() as temporary:
        columns = options(Path(temporary), arguments.samples, arguments.distil)
        titles = ["width", "loss of the original", "block ratio", *columns]
        print(f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|", flush=True)
        for width in arguments.widths:
            dense, ternary = Path(temporary) / "dense", Path(temporary) / "ternary"
            loss = train(width, arguments.steps, dense)
            cells = []
            for how in columns.values():
                size = convert_pipeline(dense, ternary, *how)
                pipe = load_pipeline(ternary)
                ternfmt_runtime.dequantize_(pipe.transformer)
                errors = velocity_errors(load_pipeline(dense), pipe, cases)
                cells.append(f"{100 * errors[TIME]:.3g}")
            print(f"| {width} | {loss:.4f} | {size.block_ratio:.2f}x | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
