"""Watch a pipeline of diffusers while it samples: what its transformer is told, and where the sampling ends.

Nothing of the pipeline is known but that its component takes ``hidden_states`` and ``timestep``, and that its scheduler
is of a known kind (`noise_schedule`). Guidance may be a doubled batch, several calls a step, or an input.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import forward_of
from .calls import LATENT, TIME, map_tensors, output_of
from .mixing import Mixing
from .noise_schedule import levels_of_step, shift_of, signal_of

_NOT_CONDITIONING = (LATENT, TIME, "return_dict")
_TIMES = ((1.0, 0.0), (1000.0, 0.0), (-1.0, 1.0), (-1000.0, 1000.0))
"""(factor, offset) of what models are told of a noise level."""


class TrajectoryError(ValueError):
    """A pipeline's sampling cannot be recorded."""


class CutOff(BaseException):
    """Ends a pipeline's run; not an Exception, so that no pipeline catches it."""


@dataclass
class Recording:
    """One run of a pipeline.

    Attributes:
        calls: of the component in the first step, in order: arguments by name, on the CPU.
        times: noise level, and what the component was told of it, of every call.
        samples: the scheduler's latents ``[B, ...]`` before the first step.
        final: its latents after the last step, z_0, float32.
        levels: noise level of every step, and the one where sampling ends.
        shift: of the noise levels.
        signal: of a diffusion, `noise_schedule.signal_of`.
        mix: what the scheduler goes by is the sum of the component's answers, times these numbers: one for each time
            that the latents' rows go through the component in a step. None where it is no such sum.
    """

    calls: list[dict[str, Any]] = field(default_factory=list)
    times: list[tuple[float, float]] = field(default_factory=list)
    samples: Tensor | None = None
    final: Tensor | None = None
    levels: list[float] = field(default_factory=list)
    shift: float = 1.0
    signal: tuple[float, ...] | None = None
    mix: tuple[float, ...] | None = None


def probe(pipeline: Any, component: nn.Module, prompts: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the component's first call for some prompts; the run is cut off there.

    Raises:
        TrajectoryError: the component is never called, or without ``hidden_states`` and ``timestep``.
    """
    seen: list[dict[str, Any]] = []
    signature = inspect.signature(component.forward)

    def forward(*args: Any, **kwargs: Any) -> Any:
        seen.append(_arguments(signature, args, kwargs))
        raise CutOff

    with forward_of(component, forward), torch.no_grad(), suppress(CutOff):
        _run(pipeline, prompts, options, seed=0)
    if not seen:
        raise TrajectoryError(f"{type(pipeline).__name__} never calls its {type(component).__name__}")
    for name in (LATENT, TIME):
        if not isinstance(seen[0].get(name), Tensor):
            raise TrajectoryError(
                f"{type(component).__name__} is called with {', '.join(seen[0])}: expected a tensor {name!r} among them"
            )
    return seen[0]


def record(
    pipeline: Any, component: nn.Module, prompts: Sequence[str], options: Mapping[str, Any], seed: int
) -> Recording:
    """Run the pipeline on some prompts and keep what `Recording` says.

    Args:
        pipeline: of diffusers, with one of the `SCHEDULERS`.
        component: its transformer.
        prompts: a batch.
        options: further arguments of the pipeline's call: steps, guidance, size.
        seed: of the noise.

    Raises:
        TrajectoryError: sampling does not end at noise level 0, gives NaN, or conditioning changes between steps.
    """
    made = Recording()
    scheduler = pipeline.scheduler
    real_forward, real_step, real_timesteps = component.forward, scheduler.step, scheduler.set_timesteps
    signature = inspect.signature(real_forward)
    this_step: list[dict[str, Any]] = []
    answers: list[Tensor] = []
    mixing = Mixing()

    def forward(*args: Any, **kwargs: Any) -> Any:
        this_step.append(_arguments(signature, args, kwargs))
        result = real_forward(*args, **kwargs)
        answers.append(output_of(result).detach())
        return result

    def step(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        result = real_step(model_output, timestep, sample, *args, **kwargs)
        level, after = levels_of_step(scheduler, timestep, max(len(made.levels) - 1, 0))
        made.levels[-1:] = [level, after]
        if made.samples is None:
            made.calls = list(this_step)
            made.samples = sample.detach().cpu().clone()
        _check_same(made.calls, this_step)
        made.times += [(level, float(call[TIME].flatten()[0])) for call in this_step]
        made.final = (result[0] if isinstance(result, tuple) else result.prev_sample).detach()
        mixing.add(answers, model_output.detach())
        this_step.clear()
        answers.clear()
        return result

    def set_timesteps(*args: Any, **kwargs: Any) -> Any:
        result = real_timesteps(*args, **kwargs)
        made.shift, made.signal = shift_of(scheduler, kwargs.get("mu")), signal_of(scheduler)
        return result

    # Pipelines ask the signatures: whether set_timesteps takes sigmas, and step a generator.
    step.__signature__ = inspect.signature(real_step)  # type: ignore[attr-defined]
    set_timesteps.__signature__ = inspect.signature(real_timesteps)  # type: ignore[attr-defined]
    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(forward_of(component, forward))
        stack.enter_context(_replaced(scheduler, "step", step))
        stack.enter_context(_replaced(scheduler, "set_timesteps", set_timesteps))
        _run(pipeline, prompts, options, seed)
    if made.samples is None or made.final is None:
        raise TrajectoryError(f"{type(pipeline).__name__} never steps its scheduler")
    if abs(made.levels[-1]) > 1e-6:
        raise TrajectoryError(f"sampling ends at noise level {made.levels[-1]:.3g}: expected 0, a finished picture")
    made.mix = mixing.found()
    made.final = made.final.cpu().float()
    if not bool(torch.isfinite(made.final).all()):
        raise TrajectoryError(f"sampling gives NaN or Inf for {prompts[0]!r}: run in another dtype than half")
    return made


def time_scale(times: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(factor, offset) with told = factor * level + offset, from pairs of noise level and what the model was told.

    Raises:
        TrajectoryError: none of those that are known fits.
    """
    best = min(_TIMES, key=lambda scale: _misfit(times, scale))
    if _misfit(times, best) > 0.02:
        level, told = times[0]
        raise TrajectoryError(
            f"timestep {told:g} at noise level {level:g}: expected the level, 1000 times it, or one minus it"
        )
    return best


def extra_dimension(hidden: Tensor, sample: Tensor) -> tuple[int, Tensor | None]:
    """Where the component's input holds more than the latent: the dimension, and what is there in each row.

    Args:
        hidden: the component's input ``[R, ...]``: the latents' rows once or several times, then more channels or
            tokens.
        sample: the latents ``[B, ...]``.

    Raises:
        TrajectoryError: the input is not made of the latents like this.
    """
    rows = len(hidden)
    wrong = TrajectoryError(
        f"{LATENT} {list(hidden.shape)} is not made of the scheduler's latents {list(sample.shape)}: "
        "expected their rows, once or several times, perhaps with further channels"
    )
    differ = [d for d in range(1, hidden.ndim) if hidden.ndim == sample.ndim and hidden.shape[d] != sample.shape[d]]
    if hidden.ndim != sample.ndim or len(differ) > 1 or rows % len(sample):
        raise wrong
    dimension = differ[0] if differ else 1
    size = sample.shape[dimension]
    latents = sample.repeat(rows // len(sample), *[1] * (sample.ndim - 1)).to(hidden.dtype)
    if hidden.shape[dimension] < size or not torch.allclose(
        hidden.narrow(dimension, 0, size).float(), latents.float(), rtol=1e-2, atol=1e-3
    ):
        raise wrong
    rest = hidden.shape[dimension] - size
    return dimension, hidden.narrow(dimension, size, rest).contiguous() if rest else None


def _run(pipeline: Any, prompts: Sequence[str], options: Mapping[str, Any], seed: int) -> None:
    accepted = inspect.signature(pipeline.__call__).parameters
    extra = {"output_type": "latent"} if "output_type" in accepted else {}
    pipeline.set_progress_bar_config(disable=True)
    pipeline(list(prompts), generator=torch.Generator("cpu").manual_seed(seed), **extra, **options)


def _arguments(signature: inspect.Signature, args: Any, kwargs: Any) -> dict[str, Any]:
    """A call's arguments by name, tensors on the CPU."""
    bound = signature.bind(*args, **kwargs).arguments
    named = {**bound, **bound.pop("kwargs", {})}
    return map_tensors(lambda tensor: tensor.detach().cpu().clone(), named)


def _check_same(first: Sequence[Mapping[str, Any]], later: Sequence[Mapping[str, Any]]) -> None:
    """Refuse conditioning that changes from step to step: a call made later would have to know its step."""
    if len(first) != len(later):
        raise TrajectoryError(
            f"{len(first)} calls of the transformer in the first step, {len(later)} in a later one: "
            "expected the same number (is guidance on for some of the steps only?)"
        )
    for before, after in zip(first, later, strict=True):
        for name in before:
            if name not in _NOT_CONDITIONING and not _equal(before[name], after.get(name)):
                raise TrajectoryError(f"argument {name!r} changes between steps: expected the same conditioning in all")


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool((one == other).all())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    return type(one) is type(other) and bool(one == other)


def _misfit(times: Sequence[tuple[float, float]], scale: tuple[float, float]) -> float:
    factor, offset = scale
    return max(abs(factor * level + offset - told) / abs(factor) for level, told in times)


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another attribute of an object for a while."""
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name)
