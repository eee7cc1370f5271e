"""What each part of `distilled` is worth on the sample FLUX, one ternary plane, short runs that differ in one thing.

    python examples/sample-flux/ablate.py [--steps 200]

Prints a Markdown table: error of the velocity on held-out prompts, relative to its square, in percent. Runs are far too
short to draw well, and long ones need not rank alike; docs/quality.md says what long ones gave.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from curve import MODEL, write_prompts
from ternfmt.encode.calibrated.settings import CalibratedSettings
from ternfmt.encode.calibrated.solve import calibrate
from ternfmt.encode.data.calls import Calls
from ternfmt.encode.data.make import make_data
from ternfmt.encode.data.model import LoadedModel, load_model
from ternfmt.encode.data.trajectories import Trajectories
from ternfmt.encode.distilled.settings import DistilledSettings
from ternfmt.encode.distilled.solve import distill
from ternfmt.encode.plan import Plan, plan_conversion
from ternfmt.encode.run.solution import Solution
from ternfmt.encode.settings import LayerSettings, Settings

BATCH = 32
MODULATION = ".norm"  # linears of adaLN are in modules of that name


@dataclass(frozen=True)
class Variant:
    """A run.

    Attributes:
        settings: of `DistilledSettings`, where they are not as in the first run.
        data: of `Trajectories`, likewise.
        length: its steps are those of the first run, times this.
        two_planes: part of the names of layers that get a second plane.
        low_rank: rank of the low-rank term of every layer.
        before: what gives the codes to start from; None is `exact`.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    length: float = 1
    two_planes: str | None = None
    low_rank: int = 0
    before: str | None = None


VARIANTS: Mapping[str, Variant] = {
    "as it is": Variant(),
    "half the steps": Variant(length=0.5),
    "twice the steps": Variant(length=2),
    "learning rates halved": Variant({"muon_lr": 1e-3, "adam_lr": 5e-4}),
    "learning rates doubled": Variant({"muon_lr": 4e-3, "adam_lr": 2e-3}),
    "rates fall from the first step": Variant({"decay": 1.0}),
    "rates never fall": Variant({"decay": 0.0}),
    "codes from a third of the steps on": Variant({"codes_from": 1 / 3}),
    "codes as they are": Variant({"train_codes": False}),
    "scales, biases and norms alone beside codes": Variant({"train_dense": "biases"}),
    "feature loss, weight 0.01": Variant({"feature_weight": 0.01}),
    "feature loss, weight 0.1": Variant({"feature_weight": 0.1}),
    "noise levels not shifted": Variant(data={"shift": 1.0}),
    "a third of the calls without a prompt": Variant(data={"unconditioned": 0.33}),
    "modulation on two planes": Variant(two_planes=MODULATION),
    "rank 4 beside each layer": Variant(low_rank=4),
    "from calibrated": Variant(before="calibrated"),
    "from block by block": Variant(before="blockwise"),
}


def run(
    variant: Variant, loaded: LoadedModel, plan: Plan, data: tuple[Calls, Calls], steps: int, folder: Path
) -> float:
    """Distil; return the held-out error of what would be written."""
    calls, held_out = data
    if variant.data:
        calls = Trajectories(pictures_folder(folder.parent), "train", **variant.data)
    layers = {
        name: replace(
            layer,
            planes=2 if variant.two_planes and variant.two_planes in name else 1,
            low_rank=variant.low_rank,
        )
        for name, layer in plan.layers.items()
    }
    dtypes = {name: recipe.dtype for name, recipe in plan.recipes.items() if name not in plan.layers}
    settings = DistilledSettings(
        steps=round(steps * variant.length),
        batch=BATCH,
        validate_every=10**6,
        blockwise=False,
        start=variant.before or "exact",
        **variant.settings,
    )
    start = begin(variant.before, loaded, layers, calls, held_out, settings, folder, dtypes)
    work = folder / "work"
    distill(loaded, calls, held_out, layers, Solution(folder / "end"), settings, work, _silent, dtypes, start)
    error: float = json.loads((work / "log.jsonl").read_text().splitlines()[-1])["error"]
    return error


def begin(
    before: str | None,
    loaded: LoadedModel,
    layers: Mapping[str, LayerSettings],
    calls: Calls,
    held_out: Calls,
    settings: DistilledSettings,
    folder: Path,
    dtypes: Mapping[str, str],
) -> Solution | None:
    """Make what a variant starts from."""
    if before is None:
        return None
    found = Solution(folder / "begin")
    work = folder / "begin-work"
    if before == "calibrated":
        calibrate(loaded, calls, layers, found, CalibratedSettings(samples=128, batch=BATCH), work, _silent, dtypes)
    else:
        per_block = replace(settings, blockwise=True, start="exact", samples=512, steps=settings.steps // 4)
        distill(loaded, calls, held_out, layers, found, per_block, work, _silent, dtypes)
    return found


def pictures_folder(folder: Path) -> Path:
    """Where `make_data` has put the pictures."""
    return next((folder / "data").glob("pictures-*"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run every variant; print its line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=200, metavar="N", help="of the first run (default: 200)")
    parser.add_argument("--samples", type=int, default=1024, metavar="N", help="pictures to learn from (default: 1024)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    arguments = parser.parse_args(argv)
    plan = plan_conversion(MODEL, Settings("distilled", 1))
    print("| | held-out error, % |\n|---|---|", flush=True)
    with TemporaryDirectory() as name:
        folder = Path(name)
        loaded = load_model(plan)
        prompts = Path(write_prompts(folder / "prompts.txt"))
        data = make_data(
            plan,
            loaded,
            folder / "data",
            prompts=prompts,
            samples=arguments.samples,
            held_out=128,
            trust_remote_code=True,
        )
        for number, variant in enumerate(arguments.variants):
            part = folder / str(number)
            part.mkdir()
            error = run(VARIANTS[variant], loaded, plan, data, arguments.steps, part)
            print(f"| {variant} | {100 * error:.3g} |", flush=True)
    return 0


def _silent(what: str, share: float) -> None:
    """Progress is the table itself: a line takes minutes."""


if __name__ == "__main__":
    sys.exit(main())
