"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/), in bf16 on GPUs and in float32 elsewhere.

`torch.optim.Muon` orthogonalises in bf16, which takes ten times as long on CPUs that have no bf16 arithmetic.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

# The odd polynomial a x + b x**3 + c x**5 that the post above applies to the singular values.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5

STACKED = 1 << 24
"""Numbers that are orthogonalised at once, unless one matrix has more: small ones go faster together."""


def orthogonalise(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Move the singular values of each of [n, rows, columns] close to 1 by Newton-Schulz iterations in ``dtype``."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(dtype)
    for _ in range(ITERATIONS):
        gram = x @ x.transpose(1, 2)
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    return (x.transpose(1, 2) if tall else x).to(matrices.dtype)


def orthogonalise_flops(rows: int, columns: int) -> int:
    """Operations of `orthogonalise` for one matrix."""
    small, large = sorted((rows, columns))
    return ITERATIONS * (4 * small * small * large + 2 * small**3)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, and scaled to the root mean square of AdamW's steps.

    The scale is 0.2 sqrt(max(rows, columns)) after Liu et al. 2025 (arXiv:2502.16982), so that
    learning rates are of AdamW's size.

    Args:
        parameters: matrices, [rows, columns].
        lr: learning rate.
        momentum: decay of the gradients' running sum.
        weight_decay: decoupled, as in AdamW.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient; ``closure`` is not supported."""
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for (rows, columns), parameters in by_shape.items():
                together = max(1, STACKED // (rows * columns))
                scale = group["lr"] * 0.2 * max(rows, columns) ** 0.5
                for start in range(0, len(parameters), together):
                    some = parameters[start : start + together]
                    updates = torch.stack([self._momentum(parameter, group["momentum"]) for parameter in some])
                    dtype = torch.bfloat16 if updates.device.type == "cuda" else torch.float32
                    for parameter, update in zip(some, orthogonalise(updates, dtype), strict=True):
                        parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-scale)

    def _momentum(self, parameter: Tensor, decay: float) -> Tensor:
        """Take the gradient into the running sum; return Nesterov's update."""
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        state["momentum"].lerp_(parameter.grad, 1 - decay)
        update: Tensor = parameter.grad.lerp(state["momentum"], decay)
        return update
