"""A small residual model with blocks, and random calls of it."""

from typing import Any

import torch
from torch import Tensor, nn

from ternfmt.encode.data.model import LoadedModel, make_loaded

WIDTH, HIDDEN = 12, 20


class ToyBlock(nn.Module):
    """Two projections of one input, and one of both: with and without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.down = nn.Linear(HIDDEN, WIDTH)  # registered first, runs last
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.gate = nn.Linear(WIDTH, HIDDEN, bias=False)

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        normed = self.norm(x)
        return x + self.down(torch.relu(self.up(normed)) * self.gate(normed)) + shift


class ToyModel(nn.Module):
    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.enter = nn.Linear(4, WIDTH)
        self.blocks = nn.ModuleList(ToyBlock() for _ in range(blocks))
        self.leave = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        shift = x.mean(1, keepdim=True).mean(2, keepdim=True)
        h = self.enter(x)
        for block in self.blocks:
            h = block(h, shift=shift)
        return self.leave(h)


class ToyCalls:
    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def call(self, number: int, size: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(number)
        return {"x": self.scale * (torch.randn(size, 6, 4, generator=generator) + 0.5)}


def make_toy(blocks: int = 3, seed: int = 0) -> LoadedModel:
    torch.manual_seed(seed)
    model = ToyModel(blocks)
    return make_loaded(model, [name for name in model.state_dict() if name.startswith("blocks") and is_linear(name)])


def is_linear(name: str) -> bool:
    return name.endswith(("up.weight", "down.weight", "gate.weight"))
