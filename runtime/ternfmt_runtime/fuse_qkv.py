"""``fuse_qkv_projections``: one ternary layer for the projections of one input, joined row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from ternfmt import concatenate_rows

from .linear import TernaryLinear

_ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")


def fuse_projections(attention: Any) -> bool:
    """Make the fused layers that diffusers' attention expects; False if none of its projections is ternary.

    Raises:
        ValueError: projections that belong together are of different kinds.
    """
    groups: dict[str, tuple[str, ...]] = (
        {"to_kv": ("to_k", "to_v")}
        if getattr(attention, "is_cross_attention", False)
        else {"to_qkv": ("to_q", "to_k", "to_v")}
    )
    added = tuple(name for name in _ADDED if getattr(attention, name, None) is not None)
    if len(added) == 3:
        groups["to_added_qkv"] = added
    elif added == _ADDED[1:]:
        groups["to_added_kv"] = added
    layers = {fused: [getattr(attention, name) for name in names] for fused, names in groups.items()}
    if not any(isinstance(layer, TernaryLinear) for group in layers.values() for layer in group):
        return False
    for fused, group in layers.items():
        setattr(attention, fused, join(group, f"{fused} of {', '.join(groups[fused])}"))
    attention.fused_projections = True
    return True


def join(layers: Sequence[nn.Linear], what: str) -> nn.Linear:
    """The layer whose output is the outputs of ``layers``, one after another.

    Raises:
        ValueError: some are ternary and some are not, or their planes, groups or scale dtypes differ.
    """
    biases = [layer.bias for layer in layers if layer.bias is not None]
    if len(biases) not in (0, len(layers)):
        raise ValueError(f"cannot fuse {what}: some have a bias and some do not")
    bias = nn.Parameter(torch.cat([b.detach() for b in biases]), requires_grad=False) if biases else None
    ternary = [layer for layer in layers if isinstance(layer, TernaryLinear)]
    if not ternary:
        weight = torch.cat([layer.weight.detach() for layer in layers])
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        linear.weight = nn.Parameter(weight)
        linear.register_parameter("bias", bias)
        return linear
    kinds = [type(layer).__name__ for layer in layers]
    if len(ternary) < len(layers):
        raise ValueError(f"cannot fuse {what}: they are {', '.join(kinds)}. Unload adapters first, or leave them apart")
    try:
        tensor = concatenate_rows([replace(layer.to_ternary(), low_rank=None) for layer in ternary])
    except ValueError as error:
        raise ValueError(f"cannot fuse {what}: {error}. Leave them apart") from None
    first = ternary[0]
    fused = TernaryLinear.from_ternary(tensor, bias, compute_dtype=first.compute_dtype, device=first.weight.device)
    fused.set_low_rank(_join_low_rank(ternary))
    return fused


def _join_low_rank(layers: Sequence[TernaryLinear]) -> tuple[Tensor, Tensor] | None:
    """One term for all: ``down`` factors stacked, ``up`` factors on the diagonal of an otherwise zero matrix."""
    dtypes = [factor.dtype for layer in layers for factor in layer.factors()]
    if not dtypes:
        return None
    dtype = reduce(torch.promote_types, dtypes)
    downs, ups = [], []
    for layer in layers:
        none = [layer.weight.new_empty((0, layer.in_features)), layer.weight.new_empty((layer.out_features, 0))]
        down, up = layer.factors() or none
        downs.append(down.to(dtype))
        ups.append(up.to(dtype))
    return torch.cat(downs), torch.block_diag(*ups)  # type: ignore[no-untyped-call]
