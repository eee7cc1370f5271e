"""Calls at states of a student's own sampling, beside those of `Trajectories`, and what guidance makes of the answers.

A student that is good at the teacher's states may be bad at its own: errors of early steps lead to states that it has
never seen, and add up. So it samples now and then, and learns what the teacher would do where it gets to (DAgger, Ross
et al. 2011, arXiv:1011.0686). What the sampler goes by is a sum of answers to the same state, with and without a prompt
(`mixing`); the errors of these have much in common, or not, and guidance enlarges what they have not. So all rows of a
state come in one call, and `mixed` makes of the answers what the sampler would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .calls import TIME, output_of
from .noise_schedule import noisy
from .recorder import TrajectoryError
from .shards import Row
from .trajectories import Trajectories, call_of, stack

OWN_SHARE = 0.5
"""Of the states of a call, once the student has sampled."""

Sample = tuple[Row, ...]


@dataclass(frozen=True)
class Drawn:
    """One run of the student's sampling.

    Attributes:
        samples: whose prompts it was told.
        states: latents before each step, ``[B, ...]`` each.
    """

    samples: Sequence[Sample]
    states: Sequence[Tensor]


class OwnSampling:
    """Calls of whole steps: each state with every row that sampling asks the transformer about.

    Noise levels are spread as those of the sampling that was recorded. A call of ``size`` rows has ``size / R``
    states, R being the rows of a state: first the first row of all states, then the second of all.

    Args:
        recorded: the teacher's samples.

    Attributes:
        mix: R numbers: what the answers to a state are multiplied with before they are added.

    Raises:
        TrajectoryError: rows of a sample do not fit into one batch, or what sampling goes by is no sum of answers.
    """

    def __init__(self, recorded: Trajectories) -> None:
        self._seed, self._stream = recorded.seed, recorded.stream
        self._scale = recorded.samples[0][0].scale
        self.mix = mix_of(recorded.samples)
        groups: dict[str, list[Sample]] = {}
        for sample in recorded.samples:
            groups.setdefault(sample[0].alike, []).append(sample)
        self._groups = list(groups.values())
        sizes = np.array([len(group) for group in self._groups], np.float64)
        self._ends = np.cumsum(sizes / sizes.sum())
        self._drawn: Drawn | None = None

    def call(self, number: int, size: int) -> dict[str, Any]:
        """As `Calls.call`; from `draw` on a part of the states are the student's."""
        rng, group = self._begin(number, size)
        count, own = states_in_call(size, len(self.mix)), self._drawn
        if own is not None and own.samples[0][0].alike != group[0][0].alike:
            own = None
        of_own = 0 if own is None else int(OWN_SHARE * count)
        samples = _some(rng, group, count - of_own)
        levels = _spread(rng, count - of_own, samples[0][0].levels)
        states = noisy(stack([sample[0].latent for sample in samples]), torch.tensor(levels), rng)
        if own is not None and of_own:
            steps, which = rng.integers(len(own.states), size=of_own), rng.integers(len(own.samples), size=of_own)
            samples += [own.samples[n] for n in which]
            levels += [own.samples[0][0].levels[step] for step in steps]
            states = torch.cat([states, stack([own.states[s][n] for s, n in zip(steps, which, strict=True)])])
        return self._ask(samples, states, torch.tensor(levels))

    @torch.no_grad()
    def draw(self, answer: Callable[[dict[str, Any]], Any], number: int, size: int) -> None:
        """Let a student sample from noise to a picture by Euler steps; later calls have these states.

        Args:
            answer: the student: a call's arguments to what it gives.
            number: which noise and prompts.
            size: rows of each of its calls.
        """
        rng, group = self._begin(number, size, 1)
        samples = _some(rng, group, states_in_call(size, len(self.mix)))
        levels = samples[0][0].levels
        state = noisy(stack([sample[0].latent for sample in samples]), torch.ones(len(samples)), rng)
        states = []
        for level, after in pairwise(levels):
            states.append(state)
            call = self._ask(samples, state, torch.full((len(samples),), level))
            velocity = self.mixed(output_of(answer(call)).float().cpu())
            state = state + (after - level) * velocity
        self._drawn = Drawn(samples, states)

    def mixed(self, answers: Tensor) -> Tensor:
        """What the sampler goes by, ``[B, ...]``, of a call's answers ``[R B, ...]``."""
        parts = answers.chunk(len(self.mix))
        return torch.stack([factor * part for factor, part in zip(self.mix, parts, strict=True)]).sum(0)

    def by_level(self, answers: Tensor, call: dict[str, Any]) -> Tensor:
        """A call's answers ``[R B, ...]`` times the root of its noise levels, so that their squares weigh as these.

        Near the picture answers are hard to hit, and hardly matter any more.
        """
        factor, offset = self._scale
        levels = ((call[TIME] - offset) / factor).to(answers)
        return answers * levels.sqrt().view(-1, *[1] * (answers.ndim - 1))

    def _begin(self, number: int, size: int, what: int = 0) -> tuple[np.random.Generator, list[Sample]]:
        rng = np.random.default_rng([self._seed, self._stream, number, size, what])
        return rng, self._groups[min(int(np.searchsorted(self._ends, rng.random(), side="right")), len(self._ends) - 1)]

    def _ask(self, samples: Sequence[Sample], states: Tensor, levels: Tensor) -> dict[str, Any]:
        rows = [sample[part] for part in range(len(self.mix)) for sample in samples]
        repeats = len(self.mix)
        return call_of(rows, states.repeat(repeats, *[1] * (states.ndim - 1)), levels.repeat(repeats))


def mix_of(samples: Sequence[Sample]) -> tuple[float, ...]:
    """What the answers to a state are multiplied with before they are added, one number for each row of a sample.

    Raises:
        TrajectoryError: as for `OwnSampling`.
    """
    if any(row.signal is not None for sample in samples for row in sample):
        raise TrajectoryError("--own-sampling needs a scheduler that samples along a flow: leave it out")
    for sample in samples:
        if any(row.alike != sample[0].alike for row in sample):
            raise TrajectoryError(
                f"{sample[0].prompt!r}: the calls of a step differ in shape, so that they do not fit into one"
            )
    mixes = {tuple(row.mix for row in sample) for sample in samples}
    first = next(iter(mixes))
    if any(None in mix or len(mix) != len(first) for mix in mixes) or not np.allclose(list(mixes), first, atol=0.01):  # type: ignore[arg-type]
        raise TrajectoryError(
            "what the scheduler goes by is no sum of the transformer's answers with the same numbers in all steps "
            "(guidance that is rescaled, or not in all steps?): leave --own-sampling out"
        )
    return first  # type: ignore[return-value]


def states_in_call(size: int, rows: int) -> int:
    """How many states a call of ``size`` rows has, if each has ``rows``.

    Raises:
        TrajectoryError: that is no whole number.
    """
    if size % rows:
        raise TrajectoryError(
            f"--batch: {size} rows in a process, expected a multiple of {rows}, the rows that are asked of a state"
        )
    return size // rows


def _some(rng: np.random.Generator, samples: list[Sample], count: int) -> list[Sample]:
    return [samples[n] for n in rng.choice(len(samples), count, replace=count > len(samples))]


def _spread(rng: np.random.Generator, count: int, levels: Sequence[float]) -> list[float]:
    """Noise levels between the first and the last step's, as dense as the steps are there."""
    steps = len(levels) - 1
    places = (rng.permutation(count) + rng.random(count)) / count * steps - 0.5
    return [float(level) for level in np.interp(places, np.arange(steps), levels[:-1])]
