"""Convert a checkpoint: at once, or as independent jobs on as many machines as there are output files.

A conversion is plan, files, finish. `convert` does all three; `run_shard` makes some of the files, on any machine that
sees source and destination, and `finish_shards` publishes the result when all are made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

from .plan import Plan
from .quantize import quantize
from .run.finish import Result, finish
from .run.run_files import Progress, Runner
from .run.settle import settle
from .run.solution import Solved
from .run.stream import Quantizer
from .run.work_folder import WorkFolder, write_json
from .source.sources import open_source


def convert(
    plan: Plan,
    destination: str | Path,
    progress: Progress = lambda weights: None,
    *,
    measuring: Progress = lambda weights: None,
    solving: Callable[[str, float], None] = lambda what, share: None,
    jobs: int | None = None,
    resume: bool = False,
    quantizer: Quantizer = quantize,
) -> Result:
    """Quantise and write; the destination appears when it is complete.

    The bytes do not depend on ``jobs``, nor on how often the conversion was interrupted and resumed. Memory: a block
    of rows for each job (`stream.BLOCK_WEIGHTS`), its temporaries, and a tensor's scales.

    Until then everything is kept in ``DESTINATION.partial``. It stays when the run is interrupted or the disk fails
    and some tensor is finished; it goes when the data is at fault.

    Args:
        plan: from `plan_conversion`.
        destination: file for a file, folder for a folder; must not exist.
        progress: called as weights are done, from any thread.
        measuring: the same for what the dial measures before.
        solving: called with what a method in `DATA_METHODS` is at before, and the share of it that is done.
        jobs: tensors to work on at a time; None is one a CPU.
        resume: go on with what an interrupted run has left; else that is removed.
        quantizer: `quantize`, or the same on another device.

    Raises:
        WeightError: a weight is NaN or Inf.
        SourceChangedError: a source file changed meanwhile, or since the run that is to be resumed.
        BusyError: another conversion to this destination is going on.
        ValueError: what is to be resumed is other work.
        FileExistsError, FileNotFoundError, OSError: the destination, as for `ternfmt.rewrite.rewrite`.
    """
    if plan.calibration is not None:
        from .solve import check_plan, solve  # imports torch

        check_plan(plan)
    with WorkFolder(_resolve(plan, destination)) as folder:
        leftover = folder.leftover()
        if leftover is not None:
            folder.remove()
            if resume:
                return Result.from_json(leftover)
        folder.begin(plan.fingerprint, plan.stamps, resume=resume)
        try:
            with closing(open_source(plan.checkpoint)) as source:
                solution: Mapping[str, Solved] = {}
                if plan.calibration is not None:
                    settled, solution = solve(plan, folder.path, solving)
                else:
                    settled = settle(plan, source, folder.measurements, jobs=_jobs(jobs), progress=measuring)
                write_json(folder.path / "plan.json", settled.to_json())
                Runner(settled, folder, source, quantizer, _jobs(jobs), progress, solution).run(settled.files)
            return finish(settled, folder)
        except ValueError:  # the data is at fault: no later run could go on from here, but for what took hours
            if not folder.holds_solution():
                folder.remove()
            raise
        except BaseException:
            if not folder.holds_work():
                folder.remove()
            raise


def run_shard(
    plan: Plan,
    destination: str | Path,
    shard: int,
    count: int,
    progress: Progress = lambda weights: None,
    *,
    jobs: int | None = None,
    quantizer: Quantizer = quantize,
) -> list[str]:
    """Make every ``count``-th output file, from number ``shard`` (from 1) on; goes on where it was interrupted.

    Returns:
        The names of the files.

    Raises:
        ValueError: ``shard`` is not one of ``count``, or the work folder holds the work of another plan.
        As for `convert`.
    """
    if plan.calibration is not None:
        raise ValueError("this plan's method solves all layers together: convert without --plan")
    if not 1 <= shard <= count:
        raise ValueError(f"shard {shard}/{count}: expected a number from 1 to {count}")
    files = plan.files[shard - 1 :: count]
    with WorkFolder(_resolve(plan, destination), shared=True) as folder:
        folder.begin(plan.fingerprint, plan.stamps, resume=True)
        with closing(open_source(plan.checkpoint)) as source:
            Runner(plan, folder, source, quantizer, _jobs(jobs), progress).run(files)
    return [file.name for file in files]


def finish_shards(plan: Plan, destination: str | Path) -> Result:
    """Publish what the shards have made.

    Raises:
        ValueError: a file is missing, or the work folder holds the work of another plan.
        BusyError: a shard is still at work.
        OSError: reading or writing fails.
    """
    with WorkFolder(_resolve(plan, destination)) as folder:
        leftover = folder.leftover()
        if leftover is not None:
            folder.remove()
            return Result.from_json(leftover)
        folder.begin(plan.fingerprint, plan.stamps, resume=True)
        return finish(plan, folder)


def _jobs(jobs: int | None) -> int:
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs: expected at least 1, got {jobs}")
    return jobs or os.cpu_count() or 1


def _resolve(plan: Plan, destination: str | Path) -> Path:
    """The destination as an absolute path outside of the source."""
    path = Path(destination).absolute()
    source = plan.checkpoint.pipeline or plan.checkpoint.folder
    if source is not None and source.resolve() in path.resolve().parents:
        raise ValueError(f"{destination} lies in the source {source}: choose a place outside of it")
    return path
