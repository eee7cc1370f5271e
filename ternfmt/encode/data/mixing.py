"""What guidance makes of a transformer's answers: the numbers by which they are added up, found by watching.

Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598) goes by v_0 + g (v_p - v_0), of the answers without
and with a prompt: 1 - g of the one and g of the other. Where guidance is an input of the model, it is the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MISFIT = 1e-3
"""Of the energy of what sampling goes by, what a sum of answers may miss: rounding in bf16 is far below."""


class Mixing:
    """Fits one number to each of the answers of a step, over all steps: least squares, in double precision."""

    def __init__(self) -> None:
        """Nothing is seen yet."""
        self._products: Tensor | None = None  # of [answers, what sampling goes by] with each other
        self._fits = True

    def add(self, answers: Sequence[Tensor], mixed: Tensor) -> None:
        """See one step.

        Args:
            answers: of the component's calls, ``[R, ...]`` each: the latents' rows once or several times.
            mixed: what the scheduler was given, ``[B, ...]``.
        """
        self._fits = self._fits and all(a.shape[1:] == mixed.shape[1:] and len(a) % len(mixed) == 0 for a in answers)
        if not self._fits:
            return
        parts = [part for a in answers for part in a.chunk(len(a) // len(mixed))]
        values = torch.stack([part.double().flatten().cpu() for part in (*parts, mixed)])
        products = values @ values.T
        self._products = products if self._products is None else self._products + products

    def found(self) -> tuple[float, ...] | None:
        """A number for each part of the answers, rounded to three places; None where no sum fits."""
        if not self._fits or self._products is None or not bool(self._products.isfinite().all()):
            return None
        gram, right = self._products[:-1, :-1], self._products[:-1, -1]
        numbers = torch.linalg.lstsq(gram, right[:, None]).solution[:, 0]
        energy = self._products[-1, -1]
        missed = energy - 2 * numbers @ right + numbers @ gram @ numbers
        return tuple(round(x, 3) for x in numbers.tolist()) if float(missed) <= MISFIT * float(energy) else None
