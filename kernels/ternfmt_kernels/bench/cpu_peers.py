"""What multiplies by a ternary weight on the processor: our two modes, what PyTorch has, and others where installed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..linear import linear
from . import ggml_peer, litespark_peer
from .contenders import Product, Weight

Copies = list[Product]
"""The same product with a weight in so many places, so that none stays in the caches."""


@dataclass(frozen=True)
class Peer:
    """One way to multiply. It runs on ``torch.get_num_threads()`` threads.

    Attributes:
        name: as in the tables.
        what: it is, in a line.
        ours: it is one of our two modes, which every run times.
        x_dtype: of the activations that it is given.
        weight_bits: that it reads for each weight.
        copies: makes that many products of a weight.
        unavailable: why it cannot run here, or None.
    """

    name: str
    what: str
    ours: bool
    x_dtype: torch.dtype
    weight_bits: float
    copies: Callable[[Weight, int], Copies]
    unavailable: Callable[[], str | None] = lambda: None


GROUP_SIZE = 128
"""Columns of the groups that ours is timed with beside one scale a row."""


def _packed(weight: Weight, count: int, *, int8: bool, group_size: int | None = None) -> Copies:
    scale = weight.scale
    if group_size is not None:
        scale = scale[:, None].repeat(1, math.ceil(weight.k / group_size))
    return [_one_packed(weight.codes.clone(), scale, weight.k, group_size, int8) for _ in range(count)]


def _one_packed(codes: Tensor, scale: Tensor, k: int, group_size: int | None, int8: bool) -> Product:
    return lambda x: linear(x, [codes], [scale], k, group_size, None, None, None, int8)


def _dense(weight: Weight, count: int, *, dtype: torch.dtype) -> Copies:
    dense = weight.dense(dtype)
    return [partial(F.linear, weight=dense.clone()) for _ in range(count)]


def _dynamic(weight: Weight, count: int) -> Copies:
    layers = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and still the fastest
        quantised = torch._make_per_channel_quantized_tensor(
            weight.ternary(), weight.scale.double(), torch.zeros(weight.n, dtype=torch.long), 0
        )
        for _ in range(count):
            layer: Any = getattr(torch.ao.nn.quantized.dynamic, "Linear")(weight.k, weight.n, bias_=False)  # noqa: B009
            layer.set_weight_bias(quantised, None)
            layers.append(layer.forward)
    return layers


def _int_mm(weight: Weight, count: int) -> Copies:
    ternary, scale = weight.ternary(), weight.scale.float()
    return [partial(_int_mm_product, ternary=ternary.clone().t(), scale=scale) for _ in range(count)]


def _int_mm_product(x: Tensor, *, ternary: Tensor, scale: Tensor) -> Tensor:
    per_token = x.abs().amax(1, keepdim=True).float().clamp_(min=1e-12).div_(127)
    quantised = (x / per_token).round_().to(torch.int8)
    return (torch._int_mm(quantised, ternary) * per_token * scale).to(x.dtype)


X_STEP, X_ZERO = 1 / 32, 128
"""One step and the zero of activations that qlinear gets as uint8."""


def _qlinear(weight: Weight, count: int) -> Copies:
    ternary, scale, zeros = weight.ternary(), weight.scale.float(), torch.zeros(weight.n, dtype=torch.int32)
    packed = [torch.ops.onednn.qlinear_prepack(ternary, None) for _ in range(count)]
    return [partial(_qlinear_product, packed=p, scale=scale, zeros=zeros) for p in packed]


def _qlinear_product(x: Tensor, *, packed: Tensor, scale: Tensor, zeros: Tensor) -> Tensor:
    # On processors without VNNI oneDNN's signed activations are up to ten times slower.
    return torch.ops.onednn.qlinear_pointwise(
        x, X_STEP, X_ZERO, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )


def activations(peer: Peer, x: Tensor) -> Tensor:
    """``x`` as the peer takes it."""
    if peer.x_dtype == torch.uint8:
        return (x / X_STEP).round_().add_(X_ZERO).clamp_(0, 255).to(torch.uint8)
    return x.to(peer.x_dtype)


def _works(make: Callable[[Weight, int], Copies], x_dtype: torch.dtype) -> str | None:
    """Why this build of torch cannot, or None."""
    weight = Weight(torch.zeros(32, 8, dtype=torch.uint8), torch.ones(32, dtype=torch.float16), None, 32)
    try:
        make(weight, 1)[0](torch.ones(1, 32, dtype=x_dtype))
    except (AttributeError, RuntimeError) as error:
        return str(error).partition("\n")[0]
    return None


def _torch_peer(name: str, what: str, x_dtype: torch.dtype, make: Callable[[Weight, int], Copies]) -> Peer:
    return Peer(name, what, False, x_dtype, 8, make, partial(_works, make, x_dtype))


def peers(ggml: Path | None = None) -> list[Peer]:
    """Ours first.

    Args:
        ggml: the folder of libggml-base and libggml-cpu, if there is one.
    """
    bf16, f32 = torch.bfloat16, torch.float32
    grouped = partial(partial, _packed, group_size=GROUP_SIZE)
    found = [
        Peer("a8", "ours, activations int8 per token", True, bf16, 2, partial(_packed, int8=True)),
        Peer("a16", "ours, activations as they are", True, bf16, 2, partial(_packed, int8=False)),
        Peer(f"a8 g{GROUP_SIZE}", "a8 with a scale for so many columns", False, bf16, 2, grouped(int8=True)),
        Peer(f"a16 g{GROUP_SIZE}", "a16 with a scale for so many columns", False, bf16, 2, grouped(int8=False)),
        Peer("bf16", "torch linear, dense", False, bf16, 16, partial(_dense, dtype=bf16)),
        Peer("fp32", "torch linear, dense", False, f32, 32, partial(_dense, dtype=f32)),
        _torch_peer("dynamic int8", "torch's quantised dynamic Linear; activations 8 bits a tensor", f32, _dynamic),
        _torch_peer("_int_mm", "torch._int_mm, activations int8 per token", f32, _int_mm),
        _torch_peer("qlinear", "oneDNN's int8 linear; its activations are uint8 already", torch.uint8, _qlinear),
    ]
    for kind in ggml_peer.KINDS:
        found.append(
            Peer(
                kind.name,
                kind.what,
                False,
                f32,
                kind.bits,
                partial(ggml_peer.copies, ggml, kind),
                partial(ggml_peer.unavailable, ggml),
            )
        )
    what = "litespark-inference, activations int8 per token, one scale a tensor, 64 rows at a time"
    found.append(Peer("litespark", what, False, f32, 2, litespark_peer.copies, litespark_peer.unavailable))
    return found
