"""The product as custom operators: ``torch.ops.ternfmt.matmul`` and ``.matmul_transposed``.

Each is the other's gradient with respect to x. Codes and scales get no gradient.

They are registered by `torch.library.define`: `custom_op` turns Dynamo off around every call, which takes longer than a
call of ours, and CPython then runs what is inside at half its speed. Graphs of `torch.compile` call the operator as one
node either way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from .contract import check
from .registry import select

_SCHEMA = "(Tensor x, Tensor[] codes, Tensor[] scales, SymInt k, SymInt? group_size, ScalarType out_dtype) -> Tensor"


_F = TypeVar("_F", bound=Callable[..., Tensor])


def register_operator(name: str, schema: str) -> Callable[[_F], _F]:
    """Register what is decorated as ``torch.ops.ternfmt.name``, for every device, and put the operator in its place.

    How gradients and fake tensors go through it is the caller's to register.
    """

    def register(function: _F) -> _F:
        torch.library.define(f"ternfmt::{name}", schema, tags=torch.Tag.pt2_compliant_tag)
        torch.library.impl(f"ternfmt::{name}", "default", function)
        return cast(_F, getattr(torch.ops.ternfmt, name).default)

    return register


@register_operator("matmul", _SCHEMA)
def matmul(
    x: Tensor,
    codes: Sequence[Tensor],
    scales: Sequence[Tensor],
    k: int,
    group_size: int | None,
    out_dtype: torch.dtype,
) -> Tensor:
    """``[..., K] -> [..., N]``; arguments, result and errors as stated in `contract`.

    ``k`` is stated because the packed width rounds it up: x of other columns is an error.
    """
    call = check(x, codes, scales, k, group_size, out_dtype)
    y = x.new_empty((*x.shape[:-1], call.n), dtype=out_dtype)
    x, out = x.reshape(call.m, k), y.view(call.m, call.n)
    select(call).product(call, x, codes, scales, out)
    return y


@register_operator("matmul_transposed", _SCHEMA)
def matmul_transposed(
    x: Tensor,
    codes: Sequence[Tensor],
    scales: Sequence[Tensor],
    k: int,
    group_size: int | None,
    out_dtype: torch.dtype,
) -> Tensor:
    """``[..., N] -> [..., K]``, the gradient's product; otherwise as `matmul`."""
    call = check(x, codes, scales, k, group_size, out_dtype, transposed=True)
    z = x.new_empty((*x.shape[:-1], k), dtype=out_dtype)
    x, out = x.reshape(call.m, call.n), z.view(call.m, k)
    select(call).product(call, x, codes, scales, out)
    return z


def _fake_matmul(
    x: Tensor,
    codes: Sequence[Tensor],
    scales: Sequence[Tensor],
    k: int,
    group_size: int | None,
    out_dtype: torch.dtype,
) -> Tensor:
    call = check(x, codes, scales, k, group_size, out_dtype)
    return x.new_empty((*x.shape[:-1], call.n), dtype=out_dtype)


def _fake_matmul_transposed(
    x: Tensor,
    codes: Sequence[Tensor],
    scales: Sequence[Tensor],
    k: int,
    group_size: int | None,
    out_dtype: torch.dtype,
) -> Tensor:
    check(x, codes, scales, k, group_size, out_dtype, transposed=True)
    return x.new_empty((*x.shape[:-1], k), dtype=out_dtype)


Gradients = tuple[Tensor | list[None] | None, ...]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, codes, scales, ctx.k, ctx.group_size, _ = inputs
    ctx.x_dtype = x.dtype
    ctx.save_for_backward(*codes, *scales)


def _backward(ctx: Any, grad: Tensor, product: Callable[..., Tensor]) -> Gradients:
    saved = list(ctx.saved_tensors)
    planes = len(saved) // 2
    grad_x = product(grad, saved[:planes], saved[planes:], ctx.k, ctx.group_size, ctx.x_dtype)
    return grad_x, [None] * planes, [None] * planes, None, None, None


torch.library.register_fake("ternfmt::matmul", _fake_matmul)
torch.library.register_fake("ternfmt::matmul_transposed", _fake_matmul_transposed)
torch.library.register_autograd("ternfmt::matmul", partial(_backward, product=matmul_transposed), setup_context=_save)
torch.library.register_autograd("ternfmt::matmul_transposed", partial(_backward, product=matmul), setup_context=_save)
