"""The ways to multiply by a ternary weight that are timed against each other."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ternfmt.pack import packed_columns

from ..contract import Call
from ..linear import linear
from ..registry import OVERRIDE, select

Product = Callable[[Tensor], Tensor]
"""x ``[M, K]`` -> y ``[M, N]``, in x's dtype."""


@dataclass(frozen=True)
class Weight:
    """A ternary weight on a device: one plane, a scale for each row, and a bias.

    Attributes:
        codes: ``[N, ceil(K/4)]`` U8.
        scale: ``[N]`` F16.
        bias: ``[N]`` of the activations' dtype, or None.
        k: columns.
    """

    codes: Tensor
    scale: Tensor
    bias: Tensor | None
    k: int

    @property
    def n(self) -> int:
        """Rows."""
        return self.codes.shape[0]

    def ternary(self) -> Tensor:
        """``[N, K]`` int8 in {-1, 0, +1}."""
        lanes = [self.codes.view(torch.int8) << (6 - 2 * i) >> 6 for i in range(4)]
        return torch.stack(lanes, -1).flatten(1)[:, : self.k].contiguous()

    def dense(self, dtype: torch.dtype) -> Tensor:
        """``[N, K]`` of ``dtype``."""
        return self.ternary().to(dtype).mul_(self.scale.to(dtype)[:, None])


def random_weight(n: int, k: int, device: torch.device, seed: int, bias_dtype: torch.dtype | None = None) -> Weight:
    """Valid codes, half of them zero, made on the device; scales that keep results of the order of x."""
    generator = torch.Generator(device).manual_seed(seed)
    bits = torch.randint(0, 256, (n, packed_columns(k)), dtype=torch.uint8, device=device, generator=generator)
    nonzero = bits & 0x55
    codes = nonzero | ((bits >> 1 & nonzero) << 1)
    if k % 4:
        codes[:, -1] &= (1 << 2 * (k % 4)) - 1  # pad lanes are zero
    jitter = torch.rand(n, device=device, generator=generator)
    scale = ((0.5 + jitter) * (2 / k) ** 0.5).to(torch.float16)
    bias = None if bias_dtype is None else torch.rand(n, device=device, generator=generator).to(bias_dtype)
    return Weight(codes, scale, bias, k)


@dataclass(frozen=True)
class Contender:
    """One way to multiply.

    Attributes:
        name: as in the tables.
        what: it is, in a line.
        ours: it reads the packed bytes and must pass the gate.
        unavailable: why it cannot run on a device at all, or None.
        refuses: why it does not serve (m, n, k), or None.
        prepare: makes the product from a weight; what it keeps is its own.
        weight_bytes: bytes that it keeps of a weight ``[n, k]``.
    """

    name: str
    what: str
    ours: bool
    unavailable: Callable[[torch.device], str | None]
    refuses: Callable[[int, int, int], str | None]
    prepare: Callable[[Weight], Product]
    weight_bytes: Callable[[int, int], int]


@contextmanager
def forced(backend: str | None) -> Iterator[None]:
    """Force a backend of ours for the time of the block; None leaves the choice to the registry."""
    before = os.environ.get(OVERRIDE)
    if backend is not None:
        os.environ[OVERRIDE] = backend
    try:
        yield
    finally:
        if backend is not None:
            os.environ.pop(OVERRIDE)
            if before is not None:
                os.environ[OVERRIDE] = before


def backend_for(device: torch.device, n: int, k: int) -> str:
    """The backend that the registry chooses on ``device``."""
    call = Call(
        transposed=False,
        device=device,
        x_dtype=torch.bfloat16,
        out_dtype=torch.bfloat16,
        scale_dtype=torch.float16,
        m=512,
        n=n,
        k=k,
        planes=1,
        group_size=None,
    )
    return select(call).name


def _always(*_: object) -> str | None:
    return None


def _packed_bytes(n: int, k: int) -> int:
    return n * packed_columns(k) + 2 * n


def _dense(weight: Weight) -> Product:
    dense, bias = weight.dense(torch.bfloat16), weight.bias
    return lambda x: F.linear(x, dense, bias)


def _packed(weight: Weight, *, int8: bool) -> Product:
    codes, scales, k, bias = [weight.codes], [weight.scale], weight.k, weight.bias
    return lambda x: linear(x, codes, scales, k, None, bias, None, None, int8)


INT8_ROWS = 32
"""torch._int_mm wants more than 16 rows on CUDA: fewer are padded to this many."""


def _int8(weight: Weight) -> Product:
    ternary, scale, bias = weight.ternary().t(), weight.scale.float(), weight.bias

    def product(x: Tensor) -> Tensor:
        rows = x.shape[0]
        if rows <= 16:
            x = F.pad(x, (0, 0, 0, INT8_ROWS - rows))
        per_token = x.abs().amax(1, keepdim=True).float().clamp_(min=1e-12).div_(127)
        quantised = (x / per_token).round_().to(torch.int8)
        y = (torch._int_mm(quantised, ternary) * per_token * scale)[:rows].to(x.dtype)
        return y if bias is None else y.add_(bias)

    return product


def _int8_refuses(m: int, n: int, k: int) -> str | None:
    return f"torch._int_mm wants N and K divisible by 8, got {n} and {k}" if n % 8 or k % 8 else None


def _gemlite_unavailable(device: torch.device) -> str | None:
    if importlib.util.find_spec("gemlite") is None:
        return "gemlite is not installed"
    return None if device.type == "cuda" else "gemlite runs on CUDA and ROCm"


def _gemlite_refuses(m: int, n: int, k: int) -> str | None:
    return f"gemlite wants N and K divisible by 32, got {n} and {k}" if n % 32 or k % 32 else None


def _gemlite(helper: str) -> Callable[[Weight], Product]:
    def prepare(weight: Weight) -> Product:
        # Its helpers for ternary weights take one scale for the whole matrix; the kernel's work is the same.
        maker = getattr(importlib.import_module("gemlite.helper"), helper)(
            device=weight.codes.device, dtype=torch.bfloat16
        )
        layer = maker.from_weights(weight.ternary(), weight.scale.float().mean(), bias=weight.bias)
        product: Product = layer.to(weight.codes.device).forward  # one of the helpers leaves scales on the CPU
        return product

    return prepare


CONTENDERS: tuple[Contender, ...] = (
    Contender("bf16", "cuBLAS: torch linear, dense bf16", False, _always, _always, _dense, lambda n, k: 2 * n * k),
    Contender("W2A16", "ours, bf16 activations", True, _always, _always, partial(_packed, int8=False), _packed_bytes),
    Contender("W2A8", "ours, int8 activations", True, _always, _always, partial(_packed, int8=True), _packed_bytes),
    Contender(
        "int8", "torch._int_mm, activations int8 per token", False, _always, _int8_refuses, _int8, lambda n, k: n * k
    ),
    Contender(
        "GemLite A16W158",
        "GemLite's ternary helper, bf16 activations",
        False,
        _gemlite_unavailable,
        _gemlite_refuses,
        _gemlite("A16W158_INT"),
        lambda n, k: n * k // 4,
    ),
    Contender(
        "GemLite A8W158",
        "GemLite's ternary helper, int8 activations",
        False,
        _gemlite_unavailable,
        _gemlite_refuses,
        _gemlite("A8W158_INT_dynamic"),
        lambda n, k: n * k // 4,
    ),
)
"""bf16 first: all others are compared with it."""
