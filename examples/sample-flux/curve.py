"""Measure how much of the judge's score is kept at block ratios from one plane to two; write docs/quality.md's table.

    python examples/sample-flux/curve.py [--pairs 2040]

The numbers go to docs/quality.json, the plot to docs/images/quality.png, the table into docs/quality.md.
Points whose numbers are there for this model and as many pairs or more are not measured again. Models draw with dense
copies of their ternary weights, which gives the same velocities to rounding and takes half the time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

import ternfmt_runtime
from sample_flux.cases import make_cases
from sample_flux.compare import compare, judge_pictures, picture_distance, velocity_errors
from sample_flux.draw import draw, load_pipeline
from sample_flux.plots import plot_retention
from sample_flux.progress import progress
from sample_flux.prompts import CATEGORIES, calibration_prompts
from sample_flux.ternary import assemble_pipeline, convert_pipeline

HERE = Path(__file__).resolve().parent
DOCS = HERE.parents[1] / "docs"
MODEL = HERE / "model"
START, END = "<!-- table: curve.py -->\n", "<!-- end -->\n"

# Options of `ternfmt convert` for methods that run the model; PROMPTS is a file of training sentences.
DATA = ("--prompts", "PROMPTS", "--trust-remote-code", "--samples", "128", "--held-out", "32", "--batch", "32")

# Method and options of `ternfmt convert`, or a transformer that was converted before.
POINTS: Mapping[str, tuple[str, tuple[str, ...] | Path]] = {
    "two planes": ("planes", ("--method", "planes")),
    "distilled": ("distilled", HERE / "distilled"),
    "distilled at 6": ("distilled", HERE / "distilled-6"),
    "calibrated": ("calibrated", ("--method", "calibrated", *DATA)),
    "exact": ("exact", ("--method", "exact")),
    "absmean": ("absmean", ("--method", "absmean")),
    **{f"dial at {ratio}": ("dial", ("--ratio", ratio)) for ratio in ("5", "4.5", "4.2", "5.5", "6.5")},
}

Point = dict[str, Any]


def measure(names: Sequence[str], pairs: int, folder: Path, numbers: Path) -> dict[str, Point]:
    """Draw, judge and compare those points whose numbers are not in the file yet; return all of it, by name."""
    cases = make_cases("evaluation", pairs // len(CATEGORIES))
    digest = hashlib.sha256((MODEL / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes()).hexdigest()
    known = json.loads(numbers.read_text()) if numbers.exists() else {}
    points = {name: point for name, point in known.items() if point["model"] == digest}
    missing = [name for name in names if name not in points or points[name]["pairs"] < len(cases)]
    if not missing:
        return points
    dense = load_pipeline(MODEL)
    with progress("full precision", len(cases)) as on_progress:
        full = draw(dense, cases, on_progress).pictures
    passed = judge_pictures(cases, full)
    for name in missing:
        method, how = POINTS[name]
        converted = folder / "curve"
        if isinstance(how, Path):
            size = assemble_pipeline(MODEL, how, converted)
        else:
            prompts = write_prompts(folder / "prompts.txt")
            size = convert_pipeline(MODEL, converted, *(prompts if option == "PROMPTS" else option for option in how))
        pipe = load_pipeline(converted)
        ternfmt_runtime.dequantize_(pipe.transformer)
        with progress(name, len(cases)) as on_progress:
            pictures = draw(pipe, cases, on_progress).pictures
        points[name] = {
            "method": method,
            "model": digest,
            **asdict(size),
            **asdict(compare(cases, passed, judge_pictures(cases, pictures))),
            "picture_distance": picture_distance(full, pictures),
            "velocity_error": velocity_errors(dense, pipe, cases),
        }
        numbers.write_text(json.dumps(points, indent=1) + "\n")
    return json.loads(numbers.read_text())  # numbers that name things are strings there


def write_prompts(path: Path) -> str:
    """Write the sentences that methods may see."""
    path.write_text("".join(f"{prompt.text}\n" for prompt in calibration_prompts()))
    return str(path)


def table(points: Mapping[str, Point]) -> str:
    """The points as a Markdown table, smallest first."""
    most = max(points.values(), key=lambda point: point["pairs"])
    first = most["score_a"]
    half = 50 * (first["high"] - first["low"])
    lines = [
        f"Full precision scores {100 * first['value']:.1f} ±{half:.1f} on {most['pairs']} pairs of prompt and seed.",
        "",
        "| | block ratio | file ratio | weight SNR | pairs | score | kept | velocity error, t = 0.8 "
        "| picture distance |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, point in sorted(points.items(), key=lambda item: -item[1]["block_ratio"]):
        score, kept = point["score_b"], point["retention"]
        lines.append(
            f"| {name} | {point['block_ratio']:.2f}x | {point['file_ratio']:.2f}x | {point['snr_db']:.1f} dB "
            f"| {point['pairs']} | {100 * score['value']:.1f} ±{50 * (score['high'] - score['low']):.1f} "
            f"| {100 * kept['value']:.1f}% ({100 * kept['low']:.1f} to {100 * kept['high']:.1f}) "
            f"| {100 * point['velocity_error']['0.8']:.2g}% | {point['picture_distance']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def insert(page: str, text: str) -> str:
    """Put text between a page's marks."""
    before, rest = page.split(START)
    return before + START + text + END + rest.split(END)[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, plot, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--pairs", type=int, default=2040, metavar="N", help="prompts with a seed (default: 2040)")
    parser.add_argument("--points", nargs="+", choices=POINTS, default=list(POINTS), metavar="NAME", help="only these")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), metavar="FOLDER")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    points = measure(arguments.points, arguments.pairs, arguments.output, DOCS / "quality.json")
    (DOCS / "images").mkdir(exist_ok=True)
    plot_retention(points, DOCS / "images" / "quality.png")
    page = DOCS / "quality.md"
    page.write_text(insert(page.read_text(encoding="utf-8"), table(points)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
