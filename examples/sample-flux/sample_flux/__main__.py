"""Commands: `judge` two models, `draw` one model's pictures, or print `prompts` to calibrate with."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from sample_flux.cases import make_cases
from sample_flux.compare import Comparison, compare, judge_pictures, picture_distance, velocity_errors
from sample_flux.draw import draw, load_pipeline
from sample_flux.pipeline import SampleFluxPipeline
from sample_flux.progress import progress
from sample_flux.prompts import CATEGORIES, SHARES, calibration_prompts

GUIDANCE = inspect.signature(SampleFluxPipeline.__call__).parameters["guidance_scale"].default


def judge(arguments: argparse.Namespace) -> int:
    """Compare two models and print the result."""
    cases = make_cases(arguments.split, arguments.pairs // len(CATEGORIES), arguments.after // len(CATEGORIES))
    pipes = [load_pipeline(folder) for folder in (arguments.model_a, arguments.model_b)]
    drawings = []
    for folder, pipe in zip((arguments.model_a, arguments.model_b), pipes, strict=True):
        with progress(folder.name, len(cases)) as on_progress:
            drawings.append(draw(pipe, cases, on_progress))
    a, b = (drawing.pictures for drawing in drawings)
    result = compare(cases, judge_pictures(cases, a), judge_pictures(cases, b))
    distance = picture_distance(a, b)
    errors, guided = (velocity_errors(pipes[0], pipes[1], cases, guidance) for guidance in (None, GUIDANCE))
    if arguments.json:
        more = {"picture_distance": distance, "velocity_error": errors, "guided_velocity_error": guided}
        print(json.dumps({**asdict(result), **more, "split": arguments.split}, indent=2))
    else:
        print(f"A  {arguments.model_a}\nB  {arguments.model_b}\n\n{table(result)}\n")
        print(f"distance of pictures  {distance:.3f} of the full range (root mean square)")
        for what, of in (("error of velocity     ", errors), ("of guided velocity    ", guided)):
            print(what + ", ".join(f"{100 * e:.2g}% at t={t}" for t, e in of.items()))
    return 0


def table(result: Comparison) -> str:
    """Scores in percent, with 95% intervals."""
    lines = [f"{'':14}{'A':>8}{'B':>8}"]
    lines += [f"{name:14}{100 * a:8.1f}{100 * b:8.1f}" for name, (a, b) in result.by_category.items()]
    lines += [f"{'overall':14}{100 * result.score_a.value:8.1f}{100 * result.score_b.value:8.1f}"]
    half_a, half_b = 100 * result.score_a.half_width, 100 * result.score_b.half_width
    lines += [f"{'+-':14}{half_a:8.1f}{half_b:8.1f}", ""]
    d, r = result.difference, result.retention
    lines += [f"{result.pairs} pairs: B - A = {100 * d.value:+.1f} points, +-{100 * d.half_width:.1f}"]
    if r is not None:
        lines += [f"B keeps {100 * r.value:.1f}% of A's score ({100 * r.low:.1f} to {100 * r.high:.1f})"]
    return "\n".join(lines)


def draw_to_file(arguments: argparse.Namespace) -> int:
    """Draw one model's pictures into an .npz file, with what they took."""
    cases = make_cases(arguments.split, arguments.pairs // len(CATEGORIES))
    pipe = load_pipeline(arguments.model)
    with progress(arguments.title or arguments.model.name, len(cases)) as on_progress:
        drawing = draw(pipe, cases, on_progress)
    np.savez_compressed(arguments.output, **{k: v for k, v in asdict(drawing).items() if v is not None})
    return 0


def print_prompts(arguments: argparse.Namespace) -> int:
    """Print training sentences for `ternfmt convert --prompts`."""
    for prompt in calibration_prompts(arguments.shares):
        print(prompt.text)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--pairs", type=int, default=3600, metavar="N", help="prompts with a seed (default: 3600)")
    shared.add_argument("--split", choices=("validation", "evaluation"), default="evaluation")
    shared.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N")
    parser = argparse.ArgumentParser(prog="python -m sample_flux", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("judge", parents=[shared], help="compare two pipeline folders")
    command.add_argument("model_a", type=Path, metavar="MODEL_A")
    command.add_argument("model_b", type=Path, metavar="MODEL_B")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command.add_argument("--after", type=int, default=0, metavar="N", help="leave the first N of the pairs out")
    command.set_defaults(run=judge)

    command = commands.add_parser("draw", parents=[shared], help="draw pictures, in a process of their own")
    command.add_argument("model", type=Path, metavar="MODEL")
    command.add_argument("output", type=Path, metavar="FILE.npz")
    command.add_argument("--title", help="of the progress bar")
    command.set_defaults(run=draw_to_file)

    command = commands.add_parser("prompts", help="print training sentences, for ternfmt convert --prompts")
    command.add_argument(
        "--shares",
        choices=SHARES,
        default=SHARES[0],
        help="even: as many of each category; more-pairs: more of two objects and numbers; as-lost: more of two "
        "objects, position and attribution (default: even)",
    )
    command.set_defaults(run=print_prompts, pairs=len(CATEGORIES), threads=torch.get_num_threads())

    arguments = parser.parse_args(argv)
    if arguments.pairs < len(CATEGORIES):
        parser.error(f"--pairs {arguments.pairs}: expected at least one for each of {len(CATEGORIES)} categories")
    if not 0 <= getattr(arguments, "after", 0) <= arguments.pairs - len(CATEGORIES):
        parser.error(f"--after {arguments.after}: expected at least {len(CATEGORIES)} less than --pairs")
    torch.set_num_threads(arguments.threads)
    return int(arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
