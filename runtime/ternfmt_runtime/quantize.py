"""Quantise the Linear layers of a model that is in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy.typing as npt
from torch import nn

import ternfmt

from .arrays import to_array
from .casting import layer_class
from .linear import TernaryLinear
from .swap import places, swap, why_not_swappable


@dataclass(frozen=True)
class QuantizeReport:
    """What `quantize_` did.

    Attributes:
        quantized: names of the modules that are now ternary.
        kept: name of each other nn.Linear -> why it stayed dense.
        dense_bytes, ternary_bytes: the quantised weights before and after.
    """

    quantized: tuple[str, ...]
    kept: dict[str, str]
    dense_bytes: int
    ternary_bytes: int


def quantize_(
    model: nn.Module,
    method: str = "exact",
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    planes: int = 2,
    group_size: int | None = None,
    scale_dtype: npt.DTypeLike | None = None,
) -> QuantizeReport:
    """Quantise the model's nn.Linear weights in place, a layer at a time; dense weights are let go.

    Every nn.Linear inside the model is chosen whose weight no other module shares (an output head
    tied to an embedding stays dense). ``include`` and ``exclude`` narrow that down by module name,
    as shell patterns. The other arguments are those of `ternfmt.quantize`.

    Raises:
        ValueError: a pattern matches no nn.Linear, or (layers before it stay quantised) a weight
            cannot be quantised.
    """
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not isinstance(module, TernaryLinear)
    }
    for pattern in (*(include or ()), *(exclude or ())):
        if not any(fnmatchcase(name, pattern) for name in linears):
            raise ValueError(f"{pattern!r} matches no nn.Linear of {type(model).__name__}")
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    held = places(model)

    def why_not(name: str, linear: nn.Linear) -> str | None:
        if include is not None and not any(fnmatchcase(name, pattern) for pattern in include):
            return "not in include"
        if exclude is not None and any(fnmatchcase(name, pattern) for pattern in exclude):
            return "in exclude"
        if owners[id(linear.weight)] > 1:
            return "shares its weight with another module"
        if linear.weight.is_meta:
            return "is on the meta device; load its weight first"
        return why_not_swappable(held, linear)

    reasons = {name: why_not(name, linear) for name, linear in linears.items()}
    kept = {name: reason for name, reason in reasons.items() if reason is not None}
    chosen = [name for name in linears if name not in kept]
    dense_bytes = ternary_bytes = 0
    for name in chosen:
        linear = linears.pop(name)
        weight = linear.weight
        tensor = ternfmt.quantize(
            to_array(weight),
            method,
            planes=planes,
            group_size=group_size,
            scale_dtype=scale_dtype,
            name=f"{name}.weight",
        )
        layer = layer_class(name).from_ternary(tensor, linear.bias, compute_dtype=weight.dtype, device=weight.device)
        swap(held, linear, layer)
        dense_bytes += weight.nbytes
        ternary_bytes += tensor.nbytes
    return QuantizeReport(tuple(chosen), kept, dense_bytes, ternary_bytes)
