"""Models small enough to train in a test, and calls for them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ternfmt.encode.data.model import LoadedModel, make_loaded
from ternfmt.encode.settings import LayerSettings

WIDTH = 16


class Layer(nn.Module):
    """A block: two linears with a residual, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 24)
        self.down = nn.Linear(24, WIDTH, bias=False)

    def forward(self, hidden: Tensor, *, time: Tensor) -> Tensor:
        return hidden + self.down(torch.tanh(self.up(self.norm(hidden)) + time[:, None, None]))


class Tiny(nn.Module):
    """An embedder, two blocks and a head."""

    def __init__(self, kind: str = "velocity") -> None:
        super().__init__()
        self.kind = kind
        self.embed = nn.Linear(6, WIDTH)
        self.blocks = nn.ModuleList(Layer() for _ in range(2))
        self.head = nn.Linear(WIDTH, 6)

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Any:
        hidden = self.embed(hidden_states)
        for block in self.blocks:
            hidden = block(hidden, time=timestep)
        answer = self.head(hidden)
        if self.kind == "velocity":
            return (answer,)
        return SimpleNamespace(**{self.kind: answer})


class Noise:
    """Calls of a `Tiny`; a call of 2n is the calls 2i and 2i + 1 of n, so that ranks can be compared."""

    def __init__(self, seed: int = 0, unit: int = 4, width: int = 6) -> None:
        self.seed, self.unit, self.width = seed, unit, width

    def call(self, number: int, size: int) -> dict[str, Any]:
        hidden, times = [], []
        for part in range(number * size // self.unit, (number + 1) * size // self.unit):
            generator = torch.Generator().manual_seed(self.seed * 10_000 + part)
            hidden.append(torch.randn(self.unit, 3, self.width, generator=generator))
            times.append(torch.rand(self.unit, generator=generator))
        return {"hidden_states": torch.cat(hidden), "timestep": torch.cat(times)}


def loaded(kind: str = "velocity", seed: int = 0) -> LoadedModel:
    torch.manual_seed(seed)
    model = Tiny(kind)
    return make_loaded(model, [n for n, p in model.named_parameters() if p.ndim == 2 and n.startswith("blocks.")])


def layers(model: LoadedModel, planes: int = 1, **settings: Any) -> dict[str, LayerSettings]:
    return {name: LayerSettings("distilled", planes, **settings) for name in model.linears}


def dense_dtypes(model: LoadedModel, dtype: str = "BF16") -> dict[str, str]:
    return {name: dtype for name in model.names.values() if name not in model.linears}
