"""Convert the sample FLUX to ternary, draw with it, and judge the pictures beside full precision.

    python examples/sample-flux/demo.py [--pairs 240]

The model in examples/sample-flux/model is a FLUX of 2.3 million parameters that was trained here; see
train.py. Converting uses its weights alone, but for the method "distilled", which takes hours: the
transformer that it gives is in examples/sample-flux/distilled already. Every model draws the same
evaluation prompts (see sample_flux/prompts.py) from the same noise. The pictures go to demo-output/contact-sheet.png.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from sample_flux.cases import Case, make_cases
from sample_flux.compare import Comparison, compare, judge_pictures
from sample_flux.draw import Drawing, Pictures
from sample_flux.prompts import CATEGORIES
from sample_flux.sheet import contact_sheet
from sample_flux.ternary import Size, assemble_pipeline, convert_pipeline

HERE = Path(__file__).resolve().parent
MODEL = HERE / "model"
METHODS: Mapping[str, tuple[str, ...]] = {
    "absmean": ("--method", "absmean"),
    "exact": ("--method", "exact"),
    "two planes": ("--method", "planes"),
}
SHIPPED: Mapping[str, Path] = {"distilled": HERE / "distilled"}


@dataclass(frozen=True)
class Row:
    """One line of the table; ``size`` is None for full precision, whose comparison is with itself."""

    name: str
    size: Size | None
    drawing: Drawing
    result: Comparison


def draw_in_process(model: Path, name: str, cases: int, folder: Path) -> Drawing:
    """Draw in a process of its own, so that its peak memory is its own."""
    output = folder / f"{name.replace(' ', '-')}.npz"
    command = [sys.executable, "-m", "sample_flux", "draw", str(model), str(output)]
    path = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    subprocess.run(
        [*command, "--pairs", str(cases), "--title", name], check=True, env={**os.environ, "PYTHONPATH": path}
    )
    with np.load(output) as file:
        peak = int(file["peak_bytes"]) if "peak_bytes" in file else None
        return Drawing(file["pictures"], float(file["seconds"]), int(file["transformer_bytes"]), peak)


def run(pairs: int, folder: Path, model: Path) -> list[Row]:
    """Convert by each method, draw, judge; leave the contact sheet in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = make_cases("evaluation", pairs // len(CATEGORIES))
    sizes: dict[str, Size | None] = {"full precision": None}
    folders = {"full precision": model}
    for name, options in METHODS.items():
        folders[name] = folder / name.replace(" ", "-")
        command = ["ternfmt", "convert", os.path.relpath(model), os.path.relpath(folders[name]), *options]
        print(" ".join(command), file=sys.stderr, flush=True)
        sizes[name] = convert_pipeline(model, folders[name], *options)
    for name, path in SHIPPED.items():
        folders[name] = folder / name
        sizes[name] = assemble_pipeline(model, path, folders[name])
    drawings = {name: draw_in_process(path, name, len(cases), folder) for name, path in folders.items()}
    passed = {name: judge_pictures(cases, drawing.pictures) for name, drawing in drawings.items()}
    full = passed["full precision"]
    rows = [Row(name, sizes[name], drawings[name], compare(cases, full, passed[name])) for name in folders]
    pictures = {name: shown(cases, drawing.pictures) for name, drawing in drawings.items()}
    contact_sheet([case.prompt.text for case in chosen(cases)], pictures, folder / "contact-sheet.png")
    return rows


def chosen(cases: Sequence[Case]) -> list[Case]:
    """The cases on the contact sheet: the first two of each category."""
    return [case for name in CATEGORIES for case in [case for case in cases if case.prompt.category == name][:2]]


def shown(cases: Sequence[Case], pictures: Pictures) -> Pictures:
    """The pictures of the `chosen` cases."""
    return pictures[[cases.index(case) for case in chosen(cases)]]


def table(rows: Sequence[Row]) -> str:
    """The results for people; scores in percent."""
    names = [row.name for row in rows]
    lines: list[tuple[str, list[str]]] = [("", names)]
    sizes = [row.size for row in rows]
    lines += [("block ratio", [f"{size.block_ratio:.2f}x" if size else "-" for size in sizes])]
    lines += [("file ratio", [f"{size.file_ratio:.2f}x" if size else "-" for size in sizes])]
    lines += [("weight SNR", [f"{size.snr_db:.1f} dB" if size else "-" for size in sizes])]
    for category in CATEGORIES:
        lines += [(category, [f"{100 * row.result.by_category[category][1]:.1f}" for row in rows])]
    scores = [row.result.score_b for row in rows]
    lines += [("overall", [f"{100 * s.value:.1f} ±{100 * s.half_width:.1f}" for s in scores])]
    kept = [row.result.retention if row.size else None for row in rows]
    lines += [("kept", [f"{100 * r.value:.1f}% ±{100 * r.half_width:.1f}" if r else "-" for r in kept])]
    lines += [("weights", [f"{row.drawing.transformer_bytes / 1e6:.1f} MB" for row in rows])]
    peaks = [row.drawing.peak_bytes for row in rows]
    lines += [("peak memory", [f"{peak / 1e6:.0f} MB" if peak else "-" for peak in peaks])]
    lines += [("per picture", [f"{row.drawing.seconds:.2f} s" for row in rows])]
    return "\n".join(f"{title:14}" + "".join(f"{cell:>16}" for cell in cells) for title, cells in lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--pairs", type=int, default=240, metavar="N", help="prompts with a seed (default: 240)")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), metavar="FOLDER")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args(argv)
    if arguments.pairs < 2 * len(CATEGORIES):
        parser.error(f"--pairs {arguments.pairs}: expected at least two for each of {len(CATEGORIES)} categories")
    rows = run(arguments.pairs, arguments.output, MODEL)
    if arguments.json:
        report = [{**asdict(row), "drawing": {**asdict(row.drawing), "pictures": None}} for row in rows]
        print(json.dumps(report, indent=2))
        return 0
    print(f"\nsample FLUX, {rows[0].result.pairs} evaluation prompts and seeds, the same for every column\n")
    print(table(rows))
    print(
        "\nscores       percent of pictures that the judge passes, with the half-width of the 95% interval"
        "\nkept         of full precision's overall score"
        "\nweights      of the transformer as they lie in memory: fp32, or packed"
        "\npeak memory  of the process; PyTorch itself takes most of it"
        f"\n\npictures in {arguments.output / 'contact-sheet.png'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
