"""What multiplies by a ternary weight on the processor: our two modes, and what PyTorch has."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..linear import linear
from .contenders import Product, Weight


@dataclass(frozen=True)
class Peer:
    """One way to multiply.

    Attributes:
        name: as in the tables.
        what: it is, in a line.
        ours: it reads the packed bytes.
        x_dtype: of the activations that it is given.
        weight_bits: that it reads for each weight.
        prepare: makes the product from a weight; None where this build of torch cannot.
    """

    name: str
    what: str
    ours: bool
    x_dtype: torch.dtype
    weight_bits: int
    prepare: Callable[[Weight], Product | None]


def _packed(weight: Weight, *, int8: bool) -> Product:
    codes, scales, k = [weight.codes], [weight.scale], weight.k
    return lambda x: linear(x, codes, scales, k, None, None, None, None, int8)


def _dense(weight: Weight, *, dtype: torch.dtype) -> Product:
    dense = weight.dense(dtype)
    return lambda x: F.linear(x, dense)


def _dynamic(weight: Weight) -> Product | None:
    """Activations are quantised per tensor, to 7 or 8 bits: less exact than ours, and less work."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and still the fastest
        try:
            layer: Any = getattr(torch.ao.nn.quantized.dynamic, "Linear")(weight.k, weight.n, bias_=False)  # noqa: B009
            scale = weight.scale.float()
            quantised = torch._make_per_channel_quantized_tensor(
                weight.ternary(), scale.double(), torch.zeros(weight.n, dtype=torch.long), 0
            )
            layer.set_weight_bias(quantised, None)
        except (AttributeError, RuntimeError):
            return None
    product: Product = layer.forward
    return product


def _int_mm(weight: Weight) -> Product | None:
    ternary, scale = weight.ternary().t(), weight.scale.float()

    def product(x: Tensor) -> Tensor:
        per_token = x.abs().amax(1, keepdim=True).float().clamp_(min=1e-12).div_(127)
        quantised = (x / per_token).round_().to(torch.int8)
        return (torch._int_mm(quantised, ternary) * per_token * scale).to(x.dtype)

    try:
        product(torch.ones(1, weight.k))
    except RuntimeError:
        return None
    return product


PEERS: tuple[Peer, ...] = (
    Peer("a8", "ours, activations int8 per token", True, torch.bfloat16, 2, partial(_packed, int8=True)),
    Peer("a16", "ours, activations as they are", True, torch.bfloat16, 2, partial(_packed, int8=False)),
    Peer("bf16", "torch linear, dense", False, torch.bfloat16, 16, partial(_dense, dtype=torch.bfloat16)),
    Peer("fp32", "torch linear, dense", False, torch.float32, 32, partial(_dense, dtype=torch.float32)),
    Peer("dynamic int8", "torch's quantised dynamic Linear, per tensor", False, torch.float32, 8, _dynamic),
    Peer("_int_mm", "torch._int_mm, activations int8 per token", False, torch.float32, 8, _int_mm),
)
