"""Product, low-rank term and bias as one custom operator: ``torch.ops.ternfmt.linear``.

One operator, so that a backend may compute all of it in one launch and round once. Where the backend
that serves the call has no such launch, the parts are added in float32 here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .contract import Call, Extras, check, check_extras, no_autocast
from .cpu_backend import direct
from .ops import matmul, matmul_transposed, register_operator
from .reference import quantise_rows
from .registry import select

_SCHEMA = (
    "(Tensor x, Tensor[] codes, Tensor[] scales, SymInt k, SymInt? group_size, "
    "Tensor? bias, Tensor? down, Tensor? up, bool int8) -> Tensor"
)


def linear(
    x: Tensor,
    codes: Sequence[Tensor],
    scales: Sequence[Tensor],
    k: int,
    group_size: int | None,
    bias: Tensor | None = None,
    down: Tensor | None = None,
    up: Tensor | None = None,
    int8: bool = False,
) -> Tensor:
    """``[..., K] -> [..., N]`` in x's dtype; arguments, result and errors as stated in `contract`.

    Gradients reach x, bias, down and up. With ``int8`` they are those of the product without it.
    """
    if down is None and up is None:
        y = direct.linear(x, codes, scales, k, group_size, bias, int8)
        if y is not None:
            return y
    # Defaults are not in the operator's schema: autograd would miss arguments that PyTorch then leaves out.
    return _linear(x, codes, scales, k, group_size, bias, down, up, int8)


@register_operator("linear", _SCHEMA)
def _linear(
    x: Tensor,
    codes: Sequence[Tensor],
    scales: Sequence[Tensor],
    k: int,
    group_size: int | None,
    bias: Tensor | None,
    down: Tensor | None,
    up: Tensor | None,
    int8: bool,
) -> Tensor:
    call, extras = _check(x, codes, scales, k, group_size, bias, down, up, int8)
    y = x.new_empty((*x.shape[:-1], call.n))
    x, out = x.reshape(call.m, k), y.view(call.m, call.n)
    backend = select(call)
    if backend.linear is not None:
        backend.linear(call, x, codes, scales, extras, out)
    else:
        with no_autocast(x.device):
            _add_up(x, codes, scales, k, group_size, extras, out)
    return y


def _add_up(
    x: Tensor,
    codes: Sequence[Tensor],
    scales: Sequence[Tensor],
    k: int,
    group_size: int | None,
    extras: Extras,
    out: Tensor,
) -> None:
    if extras.int8:
        q, scale = quantise_rows(x)
        before = _power_below(scale)
        y = matmul(q * before[:, None], codes, scales, k, group_size, torch.float32) * (scale / before)[:, None]
    elif extras == Extras():
        out.copy_(matmul(x, codes, scales, k, group_size, out.dtype))
        return
    else:
        y = matmul(x, codes, scales, k, group_size, torch.float32)
    if extras.low_rank is not None:
        down, up = extras.low_rank
        y += F.linear(F.linear(x.float(), down.float()), up.float())
    if extras.bias is not None:
        y += extras.bias
    out.copy_(y)


def _power_below(scale: Tensor) -> Tensor:
    """The largest power of two that is neither above the scale of a row nor above 1.

    Activations that it has multiplied, which rounds nothing, overflow by the weight's scales only where results do.
    """
    power = (scale.view(torch.int32) & 0x7F800000).view(torch.float32)  # the exponent alone
    return torch.where(scale > 0, power.clamp(max=1), 1)


def _check(
    x: Tensor,
    codes: Sequence[Tensor],
    scales: Sequence[Tensor],
    k: int,
    group_size: int | None,
    bias: Tensor | None,
    down: Tensor | None,
    up: Tensor | None,
    int8: bool,
) -> tuple[Call, Extras]:
    call = check(x, codes, scales, k, group_size, x.dtype, int8=int8)
    if (down is None) != (up is None):
        raise ValueError("low-rank term: expected down and up, or neither; got one of them")
    extras = Extras(bias, None if down is None or up is None else (down, up), int8)
    check_extras(call, extras)
    return call, extras


def _fake_linear(x: Tensor, *rest: Any) -> Tensor:
    call, _ = _check(x, *rest)
    return x.new_empty((*x.shape[:-1], call.n))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, codes, scales, ctx.k, ctx.group_size, bias, down, up, _ = inputs
    ctx.planes = len(codes)
    ctx.x_dtype = x.dtype
    ctx.bias_dtype = None if bias is None else bias.dtype
    factors_learn = down is not None and (down.requires_grad or up.requires_grad)
    ctx.save_for_backward(*codes, *scales, down, up, x if factors_learn else None)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | list[None] | None, ...]:
    """From grad ``[..., N]``: the transposed product, and what the chain rule gives for the dense parts."""
    *parts, down, up, x = ctx.saved_tensors
    nothing: list[None] = [None] * ctx.planes
    codes, scales = parts[: ctx.planes], parts[ctx.planes :]
    wants = ctx.needs_input_grad
    grad_x = grad_bias = grad_down = grad_up = None
    with no_autocast(grad.device):
        inner = None if down is None else grad.float() @ up.float()  # [..., R]
        if wants[0]:
            dtype = ctx.x_dtype if inner is None else torch.float32
            grad_x = matmul_transposed(grad, codes, scales, ctx.k, ctx.group_size, dtype)
            if inner is not None:
                grad_x = (grad_x + inner @ down.float()).to(ctx.x_dtype)
        if ctx.bias_dtype is not None and wants[5]:
            grad_bias = grad.float().flatten(0, -2).sum(0).to(ctx.bias_dtype)
        if x is not None and inner is not None:
            rows, at = x.float().reshape(-1, ctx.k), grad.float().reshape(-1, grad.shape[-1])
            if wants[6]:
                grad_down = (inner.reshape(-1, inner.shape[-1]).mT @ rows).to(down.dtype)
            if wants[7]:
                grad_up = (at.mT @ (rows @ down.float().mT)).to(up.dtype)
    return grad_x, nothing, nothing, None, None, grad_bias, grad_down, grad_up, None


torch.library.register_fake("ternfmt::linear", _fake_linear)
torch.library.register_autograd("ternfmt::linear", _backward, setup_context=_save)
