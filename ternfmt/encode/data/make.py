"""What a model is calibrated with, made by the model itself: pictures of its own sampling, or text.

A transformer of diffusers is watched while its pipeline draws (`trajectories`); a model of transformers gets sentences
or its own writing (`texts`). Everything that is expensive lies in a folder named for all that it depends on: a run that
was killed goes on, and other settings have a folder of their own.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..plan import Plan
from ..source.checkpoint import PIPELINE_FILE
from .calls import Calls, Check, Progress
from .make_texts import make_texts, tokenizer_folder
from .model import LoadedModel, dtype_argument, is_diffusers
from .noise_schedule import SCHEDULERS
from .prompts import read_prompts, split_prompts, templates_digest
from .shards import Row
from .source import DataError, data_digest, prompts_for
from .trajectories import PICTURES_PER_RUN, Trajectories, first_call, record_trajectories


def check_data(plan: Plan, prompts: Path | None = None, *, trust_remote_code: bool = False) -> None:
    """Refuse what `make_data` would refuse, as far as it can be seen before a model is loaded.

    Raises:
        DataError: the pipeline, a tokenizer or a scheduler of a known kind is missing, or code in the pipeline's folder
            may not be run.
        PromptError: the file of prompts has too few.
        OSError: a file cannot be read.
    """
    if prompts is not None:
        split_prompts(read_prompts(prompts), "train", prompts)
    checkpoint = plan.checkpoint
    if not is_diffusers(plan):
        tokenizer_folder(plan)
        return
    pipeline = checkpoint.pipeline
    if pipeline is None:
        around = (checkpoint.folder or checkpoint.path).absolute().parent
        there = around if (around / PIPELINE_FILE).is_file() else "the folder that holds it"
        raise DataError(
            f"{checkpoint.path}: a transformer alone has no text encoders, and its own pictures are what it is "
            f"calibrated with: name the pipeline's folder, with {PIPELINE_FILE}: {there}"
        )
    index = json.loads((pipeline / PIPELINE_FILE).read_bytes())
    scheduler = (index.get("scheduler") or [None, None])[-1]
    if scheduler not in SCHEDULERS:
        raise DataError(
            f"{pipeline}: its scheduler is {scheduler}: expected one of {', '.join(SCHEDULERS)}, of which it is known "
            f"how noise and picture are mixed; one that suits the model may be named in {PIPELINE_FILE}"
        )
    if isinstance(index.get("_class_name"), list) and not trust_remote_code:
        raise DataError(
            f"{pipeline}: the pipeline is Python code that lies in the folder ({index['_class_name'][0]}.py): read it, "
            "and if you trust it: --trust-remote-code"
        )


def make_data(
    plan: Plan,
    loaded: LoadedModel,
    folder: Path,
    *,
    prompts: Path | None = None,
    samples: int,
    held_out: int,
    device: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
    check: Check = lambda call: None,
    check_drawn: Callable[[Sequence[tuple[Row, ...]]], None] = lambda samples: None,
    progress: Progress = lambda what, part: None,
) -> tuple[Calls, Calls]:
    """Calls to learn from, and others of held-out prompts to measure with.

    Args:
        plan: what is converted.
        loaded: its model.
        folder: for what is made; goes on with what is there.
        prompts: a file of prompts, one a line, in place of the templates; an eighth of them is held out.
        samples: pictures, sentences or pieces of text, at least.
        held_out: the same for the second.
        device: where the pipeline runs; None is the model's.
        steps: of sampling; None is the pipeline's default.
        guidance: of sampling; None is the pipeline's default.
        options: further arguments of the pipeline's call, such as height and width.
        seed: of everything.
        trust_remote_code: run Python files that lie in the folder.
        check: called with a call of the model before anything expensive is made; refuses a model by raising.
        check_drawn: called with the first pictures before the others are drawn; refuses them by raising.
        progress: called with what is being done, and how much of it is.

    Raises:
        DataError, PromptError, OSError: as for `check_data`; the pipeline cannot be loaded.
        TrajectoryError: its sampling cannot be recorded.
        TextError: there are too few texts.
        DiskError: the disk is too small.
        BusyError: another process makes the same data in the same folder.
    """
    check_data(plan, prompts, trust_remote_code=trust_remote_code)
    for name, value in (("samples", samples), ("held_out", held_out), ("steps", 1 if steps is None else steps)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    if not is_diffusers(plan):
        return make_texts(
            plan, loaded, folder, prompts, {"train": samples, "held-out": held_out}, seed, check, progress
        )

    pipeline = _pipeline(plan, loaded, trust_remote_code).to(device or loaded.device)
    told = dict(options or {})
    accepted = inspect.signature(pipeline.__call__).parameters
    for name, option in (("num_inference_steps", steps), ("guidance_scale", guidance)):
        if option is not None:
            told[name] = option
    unknown = [name for name in told if name not in accepted]
    if unknown:
        raise DataError(f"{type(pipeline).__name__} does not take {', '.join(unknown)}: leave it out")
    counts = {"train": samples, "held-out": held_out}
    # Enough for the last run of the pipeline, which is a full one: other counts then find the same pictures.
    enough = {split: n + PICTURES_PER_RUN - 1 for split, n in counts.items()}
    chosen = {split: prompts_for(prompts, "image", split, n, seed) for split, n in enough.items()}
    runs = {split: min(n, PICTURES_PER_RUN) for split, n in counts.items()}
    check(first_call(pipeline, loaded.model, chosen["train"][:1], told))
    work = folder / f"pictures-{data_digest(plan, chosen if prompts else templates_digest(), told, runs, seed)}"
    for number, (split, wanted) in enumerate(counts.items()):
        record_trajectories(
            pipeline,
            loaded.model,
            chosen[split],
            wanted,
            work / split,
            options=told,
            seed=2 * seed + number,
            check=check_drawn,
            progress=lambda what, part, split=split: progress(f"{split}: {what}", part),  # type: ignore[misc]
        )
    train, other = (Trajectories(work, split, seed=seed, count=n) for split, n in counts.items())
    return train, other


def _pipeline(plan: Plan, loaded: LoadedModel, trust_remote_code: bool) -> Any:
    """The pipeline, around the model that is loaded already."""
    from diffusers import DiffusionPipeline

    folder, component = plan.checkpoint.pipeline, plan.checkpoint.component
    try:
        return DiffusionPipeline.from_pretrained(
            folder,
            trust_remote_code=trust_remote_code,
            **{str(component): loaded.model},
            **dtype_argument(loaded.dtype),
        )
    except (OSError, ValueError, ImportError, AttributeError) as error:
        hint = "" if trust_remote_code else " (if its code lies in the folder and you trust it: --trust-remote-code)"
        raise DataError(f"{folder}: the pipeline cannot be loaded{hint}: {error}") from error
