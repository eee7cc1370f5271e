"""Which optimizer trains what: Muon the latent weights, AdamW everything else."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .latent import LatentLinear
from .muon import Muon
from .schedule import rate
from .settings import DistilledSettings
from .student import Student


class Optimizers:
    """The optimizers of a student, whose learning rates follow the schedule.

    Attributes:
        by_group: the optimizer of each group of `schedule.GROUPS` that has parameters.
    """

    def __init__(self, student: Student, settings: DistilledSettings) -> None:
        """Sort the student's parameters into groups."""
        self._settings = settings
        layers = student.layers.values()
        biases = [layer.bias for layer in layers if layer.bias is not None]
        dense = list({id(p): p for p in [*student.dense.values(), *biases]}.values())
        scales = [layer.log_scale for layer in layers]
        low_rank = [p for layer in layers for p in (layer.down, layer.up) if p is not None]
        codes = [layer.weight for layer in layers if isinstance(layer, LatentLinear)]
        self.by_group: dict[str, torch.optim.Optimizer] = {"scales": self._adamw([*scales, *dense])}
        if low_rank:
            self.by_group["low_rank"] = self._adamw(low_rank)
        if codes:
            self.by_group["codes"] = Muon(codes, lr=settings.muon_lr)
        self.parameters: list[nn.Parameter] = [
            p for o in self.by_group.values() for g in o.param_groups for p in g["params"]
        ]

    def step(self, number: int) -> None:
        """Move by the gradients, at the rates of this step, and drop the gradients."""
        for group, optimizer in self.by_group.items():
            share = rate(self._settings, group, number)
            highest = self._settings.muon_lr if group == "codes" else self._settings.adam_lr
            if share > 0:
                for parameters in optimizer.param_groups:
                    parameters["lr"] = highest * share
                optimizer.step()
            optimizer.zero_grad()

    def train_codes(self, number: int) -> None:
        """Compute gradients of latent weights and low-rank branches only where this step moves them."""
        for group, optimizer in self.by_group.items():
            moves = rate(self._settings, group, number) > 0
            for parameters in optimizer.param_groups:
                for parameter in parameters["params"]:
                    parameter.requires_grad_(moves)

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on."""
        return {group: optimizer.state_dict() for group, optimizer in self.by_group.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        for group, optimizer in self.by_group.items():
            optimizer.load_state_dict(state[group])

    def _adamw(self, parameters: list[nn.Parameter]) -> torch.optim.AdamW:
        return torch.optim.AdamW(parameters, lr=self._settings.adam_lr, betas=(0.9, 0.99), weight_decay=0.0)
