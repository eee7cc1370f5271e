"""The methods that look at the whole model: make data, turn the dial by it, calibrate, distil.

Everything is kept in the work folder as it comes, so that a run that is stopped goes on where it was::

    DST.partial/data/          what the model is fed (or the folder that `Calibration.data` names)
    DST.partial/calibrated/    what `calibrated` has found, a file a block
    DST.partial/distilled/     what `distilled` has found
    DST.partial/work/          checkpoints, activations of the block at hand
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .calibrated.memory import check_memory
from .calibrated.output_error import measure_output_errors
from .calibrated.settings import CalibratedSettings
from .calibrated.solve import calibrate
from .calibration import STARTS, Calibration
from .data.calls import Calls, Progress
from .data.checks import check_activation_disk, check_layers_run, prepare_blocks
from .data.make import check_data, make_data
from .data.model import LoadedModel, is_diffusers, load_model
from .data.own_sampling import OwnSampling, Sample, mix_of, states_in_call
from .data.trajectories import Trajectories
from .distilled.parallel import ranks
from .distilled.settings import DistilledSettings
from .distilled.solve import check_distilled, distill
from .distilled.start import open_start
from .distilled.train import micro_batch
from .plan import Plan
from .run.dial import DialLayer, planes_needed, spend
from .run.settle import Choose, Record, Records, Settled, dial_layers, turn_dial
from .run.solution import Solution, Solved
from .run.work_folder import MEASUREMENTS, work_path
from .torch_device import torch_device


def check_plan(plan: Plan) -> None:
    """Refuse what can be seen to be wrong before a model is loaded, or anything made or removed.

    Raises:
        ValueError: the prompts are not there, a device, a part of the model or a start is missing, or the ratio is
            out of reach.
        OSError: a file cannot be read.
    """
    told = plan.calibration
    assert told is not None
    check_data(plan, _prompts(plan), trust_remote_code=told.trust_remote_code)
    if told.own_sampling and not is_diffusers(plan):
        raise ValueError(
            f"{plan.checkpoint.path}: expected a diffusion model for --own-sampling, and this one does not sample"
        )
    for device in (told.device, told.block_device or told.device):
        torch_device(device)
    if told.start not in STARTS:
        open_start(Path(told.start), plan).close()
    if plan.dial is not None:
        planes_needed(dial_layers(plan), plan.dial.ratio)


def solve(plan: Plan, folder: Path, tell: Progress) -> tuple[Plan, Solution]:
    """Find the tensors of a plan whose method is in `DATA_METHODS`.

    Under ``torchrun`` every rank calls this for distillation, with the same folder: the first makes data, turns the
    dial and calibrates while the others wait, and all distil.

    Args:
        plan: its `calibration` says how; `check_plan` has nothing against it.
        folder: the work folder.
        tell: hears of progress.

    Returns:
        The plan with its dial turned, and the tensors.

    Raises:
        ValueError: the model cannot be run, a layer never runs, an activation is NaN; all of these but the last before
            expensive work.
        OSError: reading or writing fails.
    """
    told = plan.calibration
    assert told is not None
    method = next(iter(plan.layers.values())).method
    here = ranks(torch_device(told.device))
    if here.size > 1 and method != "distilled":
        raise ValueError(f"--method {method} works in one process, but torchrun has started {here.size}")
    start: Mapping[str, Solved] | None = None if told.start in STARTS else open_start(Path(told.start), plan)
    if not here.is_first:
        plan = Plan.from_json(here.share(None))
    tell("load the model", 0.0)
    loaded = load_model(plan, device=told.device, trust_remote_code=told.trust_remote_code)
    calibrates = method == "calibrated" or told.start == "calibrated"
    dtypes = {name: recipe.dtype for name, recipe in plan.recipes.items() if name not in plan.layers}
    work = folder / "work"
    settings, blockwise = _distilled_settings(told), None
    if method == "distilled" and not Solution(folder / "distilled").parts():
        own = told.own_sampling
        blockwise = check_distilled(loaded, plan.layers, settings, work / "distilled", dtypes, own_sampling=own)
    # Distillation has data for thousands of steps; to begin well takes less.
    samples = told.samples if method == "calibrated" else min(told.samples, CalibratedSettings.samples)
    calibrated = CalibratedSettings(samples=samples, batch=told.batch, block_device=told.block_device)
    to_calibrate = calibrates and not {b.name for b in loaded.blocks} <= Solution(folder / "calibrated").parts()
    if to_calibrate:
        check_memory(loaded, plan.layers, loaded.block_place(told.block_device))

    def check(call: dict[str, Any]) -> None:
        check_layers_run(loaded, call)
        if calibrates or blockwise:
            ready = prepare_blocks(loaded, call)
            if to_calibrate:
                check_activation_disk(ready, call, calibrated.samples, work / "calibrated", with_samples=False)
            if blockwise:
                count = settings.samples + settings.validation_calls * (settings.micro_batch or settings.batch)
                check_activation_disk(ready, call, count, work / "distilled", with_samples=True)

    def check_drawn(samples: Sequence[Sample]) -> None:
        if told.own_sampling:
            states_in_call(micro_batch(settings, here), len(mix_of(samples)))

    calls, held_out = make_data(
        plan,
        loaded,
        Path(told.data) if told.data else folder / "data",
        prompts=_prompts(plan),
        samples=told.samples,
        held_out=told.held_out,
        device=told.device,
        steps=told.sampling_steps,
        guidance=told.guidance,
        options={} if told.size is None else {"height": told.size, "width": told.size},
        seed=told.seed,
        trust_remote_code=told.trust_remote_code,
        check=check,
        check_drawn=check_drawn,
        progress=tell,
    )
    if plan.dial is not None:
        plan = turn_dial(plan, _by_output_error(plan, loaded, calls, tell), folder / MEASUREMENTS)
    if calibrates:
        loaded = prepare_blocks(loaded, calls.call(0, 1))
        start = solution = Solution(folder / "calibrated")
        layers = {name: replace(layer, low_rank=0) for name, layer in plan.layers.items()}
        calibrate(loaded, calls, layers, solution, calibrated, work / "calibrated", tell, dtypes)
        if method == "calibrated":
            return plan, solution
    if here.is_first:
        here.share(plan.to_json())
    if isinstance(calls, Trajectories) and isinstance(held_out, Trajectories) and told.own_sampling:
        calls, held_out = OwnSampling(calls), OwnSampling(held_out)
    distilled = Solution(folder / "distilled")
    distill(
        loaded,
        calls,
        held_out,
        plan.layers,
        distilled,
        settings,
        work / "distilled",
        tell,
        dtypes,
        start,
        blockwise=blockwise,
    )
    return plan, distilled


def _distilled_settings(told: Calibration) -> DistilledSettings:
    return DistilledSettings(
        steps=told.steps,
        batch=told.batch,
        micro_batch=told.micro_batch,
        muon_lr=told.learning_rate,
        adam_lr=told.learning_rate / 2,
        train_codes=not told.keep_codes,
        train_dense="biases" if told.keep_codes else "all",
        feature_weight=told.feature_weight,
        recompute=told.recompute,
        seed=told.seed,
        start=told.start_name,
        compile=told.compile,
        blockwise=None if told.block_device is None else True,
        block_device=told.block_device,
    )


def take_part(plan: Plan, destination: Path) -> None:
    """What all ranks but the first do under ``torchrun``: train with it, and write nothing."""
    check_plan(plan)
    solve(plan, work_path(destination), lambda what, share: None)


def _prompts(plan: Plan) -> Path | None:
    assert plan.calibration is not None
    return Path(plan.calibration.prompts) if plan.calibration.prompts else None


def _by_output_error(plan: Plan, loaded: LoadedModel, calls: Calls, tell: Progress) -> Choose:
    """Planes and low-rank terms where the error of the model's output falls most for a byte."""

    def choose(layers: Mapping[str, DialLayer], ratio: float, measured: Records, record: Record) -> Settled:
        total, done = sum(map(plan.size, layers)), 0

        def advance(name: str, weights: int) -> None:
            nonlocal done
            done += weights
            tell(f"output error of {name}", done / total)

        planes = range(1, planes_needed(layers, ratio) + 1)
        costs = measure_output_errors(loaded, calls, layers, planes, measured=measured, record=record, progress=advance)
        chosen = spend(costs, ratio)
        return {name: layer.stored_as(chosen[name]) for name, layer in layers.items()}

    return choose
