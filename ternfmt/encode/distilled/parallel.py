"""Data parallel training: every rank takes its part of a step's calls, and gradients are averaged.

Started by ``torchrun --nproc-per-node N``, or by `accelerate launch`, which set the same variables. Without them there
is one rank, and nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

BUCKET = 1 << 25
"""Numbers that are sent at once, at most, unless one gradient is larger: 128 MB of F32."""


PATIENCE = timedelta(days=30)
"""How long ranks wait for each other: while the first one makes data or writes a checkpoint, the others do. If one
ends, torchrun ends them all."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of a run.

    Attributes:
        rank: which one, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this one writes files and reports."""
        return self.rank == 0

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their sum over the ranks; all ranks have gradients for the same parameters."""
        if self.size == 1:
            return
        bucket: list[Tensor] = []
        for parameter in parameters:
            if parameter.grad is None:
                continue
            if bucket and sum(g.numel() for g in bucket) + parameter.grad.numel() > BUCKET:
                _sum(bucket)
                bucket = []
            bucket.append(parameter.grad)
        if bucket:
            _sum(bucket)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the ranks of a tensor, in place."""
        if self.size > 1:
            distributed.all_reduce(values)
        return values

    def same_weights(self, parameters: Iterable[Tensor]) -> None:
        """Give every rank the first one's values."""
        if self.size > 1:
            for parameter in parameters:
                distributed.broadcast(parameter.detach(), 0)

    def agree(self, value: bool) -> bool:
        """The first rank's answer, on every rank: clocks differ."""
        if self.size == 1:
            return value
        flag = torch.tensor([int(value)], device="cuda" if distributed.get_backend() == "nccl" else "cpu")
        distributed.broadcast(flag, 0)
        return bool(flag.item())

    def share(self, value: Any) -> Any:
        """The first rank's value, on every rank; those that ask earlier wait for it."""
        if self.size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, 0)
        return values[0]

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.size > 1:
            distributed.barrier()


def ranks(device: torch.device) -> Ranks:
    """This process's rank, by what torchrun has set; joins the others: nccl between CUDA devices, else gloo.

    Each rank computes on the CUDA device of its number in its machine.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Ranks()
    if not distributed.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    return Ranks(distributed.get_rank(), distributed.get_world_size())


def _sum(gradients: list[Tensor]) -> None:
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
