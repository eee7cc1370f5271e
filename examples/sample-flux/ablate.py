"""What each part of `distilled` is worth on the sample FLUX, one ternary plane, short runs that differ in one thing.

All of them but two go on from the same result of `calibrated`.

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
        start: what gives the codes to start from: ``exact``, ``calibrated`` or ``blockwise``.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    length: float = 1
    two_planes: str | None = None
    low_rank: int = 0
    start: str = "calibrated"


VARIANTS: Mapping[str, Variant] = {
    "as it is": Variant(),
    "half the steps": Variant(length=0.5),
    "twice the steps": Variant(length=2),
    "learning rates halved": Variant({"muon_lr": 1e-3, "adam_lr": 5e-4}),
    "learning rates doubled": Variant({"muon_lr": 4e-3, "adam_lr": 2e-3}),
    "rates fall from the first step": Variant({"decay": 1.0}),
    "rates never fall": Variant({"decay": 0.0}),
    "codes from a third of the steps on": Variant({"codes_from": 1 / 3}),
    "codes that harden over half of the steps": Variant({"soft": 0.5}),
    "codes as they are": Variant({"train_codes": False}),
    "scales, biases and norms alone beside codes": Variant({"train_dense": "biases"}),
    "feature loss, weight 0.01": Variant({"feature_weight": 0.01}),
    "feature loss, weight 0.1": Variant({"feature_weight": 0.1}),
    "noise levels not shifted": Variant(data={"shift": 1.0}),
    "a third of the calls without a prompt": Variant(data={"unconditioned": 0.33}),
    "modulation on two planes": Variant(two_planes=MODULATION),
    "rank 4 beside each layer": Variant(low_rank=4),
    "from exact": Variant(start="exact"),
    "from block by block": Variant(start="blockwise"),
}


@dataclass(frozen=True)
class Sample:
    """What all runs share.

    Attributes:
        loaded: the teacher.
        layers: its ternary tensors, with one plane.
        dtypes: dtype of every dense tensor.
        calls, held_out: data.
        data: folder of the pictures.
    """

    loaded: LoadedModel
    layers: Mapping[str, LayerSettings]
    dtypes: Mapping[str, str]
    calls: Calls
    held_out: Calls
    data: Path


def run(variant: Variant, sample: Sample, start: Solution | None, steps: int, folder: Path) -> float:
    """Distil; return the held-out error of what would be written."""
    layers = {
        name: replace(
            layer,
            planes=2 if variant.two_planes and variant.two_planes in name else 1,
            low_rank=variant.low_rank,
        )
        for name, layer in sample.layers.items()
    }
    settings = DistilledSettings(
        steps=round(steps * variant.length),
        batch=BATCH,
        validate_every=10**6,
        blockwise=False,
        start=variant.start,
        **variant.settings,
    )
    calls = Trajectories(sample.data, "train", **variant.data) if variant.data else sample.calls
    _distill(sample, layers, settings, calls, folder, start)
    error: float = json.loads((folder / "work" / "log.jsonl").read_text().splitlines()[-1])["error"]
    return error


def begin(start: str, sample: Sample, steps: int, folder: Path) -> Solution | None:
    """Make what variants start from; `exact` needs nothing."""
    if start == "exact":
        return None
    if start == "blockwise":
        of_block = DistilledSettings(steps=steps // 4, batch=BATCH, blockwise=True, samples=512, start="exact")
        return _distill(sample, sample.layers, of_block, sample.calls, folder, None)
    found = Solution(folder / "begin")
    settings = CalibratedSettings(samples=128, batch=BATCH)
    calibrate(sample.loaded, sample.calls, sample.layers, found, settings, folder / "work", _silent, sample.dtypes)
    return found


def _distill(
    sample: Sample,
    layers: Mapping[str, LayerSettings],
    settings: DistilledSettings,
    calls: Calls,
    folder: Path,
    start: Solution | None,
) -> Solution:
    found = Solution(folder / "end")
    work = folder / "work"
    distill(sample.loaded, calls, sample.held_out, layers, found, settings, work, _silent, sample.dtypes, start)
    return found


def make_sample(plan: Plan, samples: int, folder: Path) -> Sample:
    """Load the model and let it draw."""
    loaded = load_model(plan)
    prompts = Path(write_prompts(folder / "prompts.txt"))
    calls, held_out = make_data(
        plan, loaded, folder / "data", prompts=prompts, samples=samples, held_out=128, trust_remote_code=True
    )
    dtypes = {name: recipe.dtype for name, recipe in plan.recipes.items() if name not in plan.layers}
    return Sample(loaded, plan.layers, dtypes, calls, held_out, next((folder / "data").glob("pictures-*")))


def main(argv: Sequence[str] | None = None) -> int:
    """Run every variant; print its line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=200, metavar="N", help="of the first run (default: 200)")
    parser.add_argument("--samples", type=int, default=1024, metavar="N", help="pictures to learn from (default: 1024)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    arguments = parser.parse_args(argv)
    plan = plan_conversion(MODEL, Settings("distilled", 1))
    print("| | held-out error, % |\n|---|---|", flush=True)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sample = make_sample(plan, arguments.samples, folder)
        starts: dict[str, Solution | None] = {}
        for number, name in enumerate(arguments.variants):
            variant = VARIANTS[name]
            if variant.start not in starts:
                starts[variant.start] = begin(variant.start, sample, arguments.steps, folder / variant.start)
            error = run(variant, sample, starts[variant.start], arguments.steps, folder / str(number))
            print(f"| {name} | {100 * error:.3g} |", flush=True)
    return 0


def _silent(what: str, share: float) -> None:
    """Progress is the table itself: a line takes minutes."""


if __name__ == "__main__":
    sys.exit(main())
