"""What the parts of `--own-sampling` are worth on the sample FLUX: short runs that go on from the one-plane file.

    python examples/sample-flux/ablate_own_sampling.py [--steps 300] [--pairs 600]

Prints a Markdown table of how far each file is from full precision on validation sentences: its pictures, and the
velocity that sampling goes by, near the picture and near the noise. What is left out of `OwnSampling` is patched out.
The run without it differs in one more thing: its noise levels are logit-normal, not those of the pipeline's steps.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import ternfmt_runtime
from curve import MODEL, write_prompts
from sample_flux.cases import make_cases
from sample_flux.compare import GUIDANCE, picture_distance, velocity_errors
from sample_flux.draw import draw, load_pipeline
from sample_flux.prompts import CATEGORIES
from sample_flux.ternary import assemble_pipeline
from ternfmt.encode.calibration import Calibration
from ternfmt.encode.convert import convert
from ternfmt.encode.data.own_sampling import OwnSampling
from ternfmt.encode.distilled import train
from ternfmt.encode.distilled.losses import output_loss
from ternfmt.encode.plan import plan_conversion
from ternfmt.encode.settings import Settings

START = Path(__file__).resolve().parent / "distilled"
LEVELS = (0.05, 0.8)

Patches = Mapping[tuple[Any, str], Any]
TEACHERS_STATES: Patches = {(OwnSampling, "draw"): lambda self, *arguments: None}
ANSWERS: Patches = {(train, "guided_loss"): lambda ours, theirs, *rest: output_loss(ours, theirs)}
ALL_LEVELS: Patches = {(OwnSampling, "by_level"): lambda self, answers, call: answers}

VARIANTS: Mapping[str, Patches | None] = {
    "without": None,
    "guided answers alone": {**TEACHERS_STATES, **ALL_LEVELS},
    "states of its own alone": {**ANSWERS, **ALL_LEVELS},
    "both": ALL_LEVELS,
    "both, by noise level": {},
}
"""What is patched; None does without `OwnSampling`."""


def distil(patches: Patches | None, steps: int, folder: Path, work: Path) -> Path:
    """Go on from the one-plane file; give the converted pipeline."""
    told = Calibration(
        prompts=write_prompts(work / "prompts.txt"),
        samples=1024,
        held_out=64,
        batch=64,
        steps=steps,
        start=str(START),
        learning_rate=7e-4,
        own_sampling=patches is not None,
        compile=True,
        trust_remote_code=True,
        data=str(work / "data"),
    )
    with ExitStack() as stack:
        for (owner, name), instead in (patches or {}).items():
            stack.enter_context(patch.object(owner, name, instead))
        convert(plan_conversion(MODEL, Settings("distilled", 1, calibration=told)), folder)
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run every variant; print its line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=300, metavar="N", help="of each run (default: 300)")
    parser.add_argument("--pairs", type=int, default=600, metavar="N", help="pictures that are compared (default: 600)")
    arguments = parser.parse_args(argv)
    cases = make_cases("validation", arguments.pairs // len(CATEGORIES))
    dense = load_pipeline(MODEL)
    full = draw(dense, cases).pictures
    print(f"| | picture distance | {' | '.join(f'velocity error, t = {t}' for t in LEVELS)} |")
    print("|---" * (2 + len(LEVELS)) + "|", flush=True)
    with TemporaryDirectory() as temporary:
        work = Path(temporary)
        assemble_pipeline(MODEL, START, work / "start")

        def compare(name: str, folder: Path) -> None:
            pipe = load_pipeline(folder)
            ternfmt_runtime.dequantize_(pipe.transformer)
            distance = picture_distance(full, draw(pipe, cases).pictures)
            errors = velocity_errors(dense, pipe, cases, GUIDANCE)
            print(f"| {name} | {distance:.4f} | {' | '.join(f'{errors[t]:.3%}' for t in LEVELS)} |", flush=True)

        compare("the file itself", work / "start")
        for number, (name, patches) in enumerate(VARIANTS.items()):
            compare(name, distil(patches, arguments.steps, work / str(number), work))
    return 0


if __name__ == "__main__":
    sys.exit(main())
