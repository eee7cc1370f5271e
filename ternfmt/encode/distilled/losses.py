"""How far the student is from the teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..data.calls import output_of, tensors_in
from ..data.own_sampling import OwnSampling

EPSILON = 1e-12


class NotFiniteError(ValueError):
    """An output or a loss is NaN or Inf."""


def output_loss(student: Any, teacher: Any) -> Tensor:
    """The distance of two answers of a model, after what they are.

    Logits: Kullback-Leibler divergence of the student's distribution from the teacher's, in nats a token. Hidden
    states, of encoders: squared error relative to the teacher's energy, plus 1 - cosine of each token's vector.
    Everything else, velocities of diffusion models or a single logit, which is a score: mean squared error.
    """
    ours, theirs = output_of(student).float(), output_of(teacher).float()
    if hasattr(teacher, "logits") and theirs.shape[-1] > 1:
        ours, theirs = (logits.flatten(0, -2).log_softmax(-1) for logits in (ours, theirs))
        return nn.functional.kl_div(ours, theirs, log_target=True, reduction="batchmean")
    if hasattr(teacher, "last_hidden_state"):
        return relative_error(ours, theirs) + (1 - nn.functional.cosine_similarity(ours, theirs, dim=-1)).mean()
    return nn.functional.mse_loss(ours, theirs)


PLAIN_SHARE = 0.125
"""Of the answers' own errors in `guided_loss`: it keeps them from growing where they cancel."""


def guided_loss(student: Any, teacher: Any, calls: OwnSampling, call: dict[str, Any]) -> Tensor:
    """Mean squared error of what sampling goes by, and a share of that of the answers which it is made of.

    The first is divided by the squares of the numbers that answers are multiplied with: where errors of answers have
    nothing in common, it is what `output_loss` is. Both are weighted by the noise level (`OwnSampling.by_level`).
    """
    ours, theirs = (calls.by_level(output_of(answers).float(), call) for answers in (student, teacher))
    of_guided = nn.functional.mse_loss(calls.mixed(ours), calls.mixed(theirs))
    return of_guided / sum(x * x for x in calls.mix) + PLAIN_SHARE * nn.functional.mse_loss(ours, theirs)


def relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Energy of the difference over the teacher's energy."""
    student, teacher = student.float(), teacher.float()
    return (student - teacher).square().sum() / (teacher.square().sum() + EPSILON)


class Features:
    """Outputs of a model's blocks, of the forward pass before the last `take`."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        """Watch these blocks until `close`."""
        self._kept: list[list[Tensor]] = [[] for _ in blocks]
        self._stack = ExitStack()
        for number, block in enumerate(blocks):
            self._stack.callback(block.register_forward_hook(self._keeper(number)).remove)

    def take(self) -> list[Tensor]:
        """Every tensor that the blocks answered, in order; they are forgotten here."""
        taken = [tensor for kept in self._kept for tensor in kept]
        for kept in self._kept:
            kept.clear()
        return taken

    def close(self) -> None:
        """Stop watching."""
        self._stack.close()

    def _keeper(self, number: int) -> Callable[[nn.Module, Any, Any], None]:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            self._kept[number][:] = [tensor for _, tensor in tensors_in(output) if tensor.is_floating_point()]

        return keep


def feature_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean over all tensors of their relative squared error."""
    errors = [relative_error(ours, theirs.detach()) for ours, theirs in zip(student, teacher, strict=True)]
    return torch.stack(errors).mean()


def check_finite(loss: Tensor, step: int) -> None:
    """Refuse to go on from NaN.

    Raises:
        NotFiniteError: the loss is NaN or Inf.
    """
    if not bool(torch.isfinite(loss)):
        raise NotFiniteError(
            f"step {step}: expected a finite loss, got {loss.item()}: begin anew with a lower --learning-rate, or "
            "look for NaN in the checkpoint"
        )
