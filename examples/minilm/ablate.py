"""What each part of `calibrated` is worth on all-MiniLM-L6-v2, one ternary plane, sentences from templates.

    python -m examples.minilm.ablate

Prints a Markdown table: cosine and correlation as `compare.py` measures them, on its 64 sentences.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from examples.minilm import compare
from ternfmt.encode.calibrated.settings import CalibratedSettings
from ternfmt.encode.calibrated.solve import calibrate
from ternfmt.encode.data.make import make_data
from ternfmt.encode.data.model import load_model
from ternfmt.encode.distilled.student import put_in
from ternfmt.encode.plan import plan_conversion
from ternfmt.encode.run.solution import Solution
from ternfmt.encode.settings import Settings

FEW = {"samples": 96}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "256 sentences": {"samples": 256},
    "96 sentences": FEW,
    "96, target not asymmetric (G = H)": {**FEW, "asymmetric": False},
    "96, columns in their own order": {**FEW, "act_order": False},
    "96, error feedback alone": {**FEW, "rounds": 0},
    "96, biases as they are": {**FEW, "bias": False},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Calibrate, embed and compare each variant."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--output", type=Path, default=Path("demo-output"), metavar="FOLDER")
    arguments = parser.parse_args(argv)
    checkpoint = compare.extract_checkpoint(arguments.output)
    sentences = compare.SENTENCES.read_text(encoding="utf-8").splitlines()
    plan = plan_conversion(checkpoint, Settings("calibrated", 1))
    loaded = load_model(plan)
    full = compare.embed(loaded.model, checkpoint, sentences)
    print("| | cosine | correlation |\n|---|---|---|", flush=True)
    with TemporaryDirectory() as name:
        folder = Path(name)
        calls, _ = make_data(plan, loaded, folder / "data", samples=4096, held_out=32)
        dtypes = {name: recipe.dtype for name, recipe in plan.recipes.items() if name not in plan.layers}
        for number, (variant, changes) in enumerate(VARIANTS.items()):
            solution = Solution(folder / str(number))
            settings = CalibratedSettings(batch=16, **changes)
            calibrate(loaded, calls, plan.layers, solution, settings, folder / "work", _silent, dtypes)
            student = copy.deepcopy(loaded.model)
            put_in(student, {path: solution[tensor] for path, tensor in loaded.names.items() if tensor in solution})
            found = compare.embed(student, checkpoint, sentences)
            cosine, correlation = compare.mean_cosine(found, full), compare.similarity_correlation(found, full)
            print(f"| {variant} | {cosine:.3f} | {correlation:.3f} |", flush=True)
    return 0


def _silent(what: str, share: float) -> None:
    """Progress is the table itself: a line takes seconds."""


if __name__ == "__main__":
    sys.exit(main())
