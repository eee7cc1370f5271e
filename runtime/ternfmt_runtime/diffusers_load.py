"""From the files of a ternary checkpoint into a diffusers model on the meta device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ternfmt import Model, TensorInfo
from ternfmt.check import check_plane_codes, check_scale
from ternfmt.container import DTYPES
from ternfmt.names import CODES_SUFFIXES, DOWN_SUFFIX, SCALE_SUFFIXES, used_suffixes

from .arrays import to_array, to_tensor
from .linear import TernaryLinear
from .load import LoadError
from .swap import Places, places, swap, why_not_swappable

DeviceMap = Mapping[str, Any]
"""Module name -> where accelerate puts it: a device, or ``"disk"``."""


class Part(NamedTuple):
    """One stored tensor of the ternary tensor ``name``."""

    name: str
    suffix: str


def find_parts(file: Model) -> dict[str, Part]:
    """Stored name -> part, of all ternary tensors."""
    return {
        name + suffix: Part(name, suffix)
        for name, entry in file.document.entries.items()
        for suffix in used_suffixes(entry.planes, entry.low_rank is not None)
    }


def swap_in_empty(model: nn.Module, file: Model, compute_dtype: torch.dtype | None) -> None:
    """Replace the layers that are ternary in the file by empty ones on the meta device.

    Raises:
        LoadError: a ternary tensor does not fit the model, or the model has a tensor the file lacks.
    """
    infos = [info for info in file.tensors.values() if info.ternary]
    held = places(model)
    problems = [f"missing: {n!r}, {t.dtype} {list(t.shape)}" for n, t in model.state_dict().items() if n not in file]
    for info in infos:
        reason = misfit(model, info.name, info.shape, held)
        if reason is not None:
            problems.append(f"{info.file}: {info.name!r}: ternary, but {reason}")
    if problems:
        raise LoadError(str(file.source.path), problems)
    for info in infos:
        linear = model.get_submodule(info.name.removesuffix(".weight"))
        assert isinstance(linear, nn.Linear)
        swap(held, linear, _empty_layer(linear, info, file, compute_dtype))


def misfit(model: nn.Module, tensor: str, shape: tuple[int, ...], held: Places) -> str | None:
    """Why a ternary tensor of this name and shape cannot be a weight of the model, and what to do; or None."""
    name, _, attribute = tensor.rpartition(".")
    other = "the model's config is not this file's"
    try:
        module = model.get_submodule(name)
    except AttributeError:
        return f"{type(model).__name__} has no module {name!r}: {other}"
    hint = "convert again with --exclude, or `ternfmt dequantize` the file"
    reason = why_not_swappable(held, module)
    if reason is not None:
        return f"{name!r} {reason}: {hint}"
    if attribute != "weight":
        return f"{name!r} has it as {attribute!r}; only a weight can be ternary: {hint}"
    assert isinstance(module, nn.Linear)
    if shape != tuple(module.weight.shape):
        return f"{name!r} expects shape {list(module.weight.shape)}, got {list(shape)}: {other}"
    return None


def checked_copy(value: Tensor, part: Part, file: Model) -> Tensor:
    """A copy of what diffusers mapped into memory: checked, and independent of the file.

    Raises:
        FormatError: SCALE, CODE or PADDING.
    """
    copy = value.clone()
    where = f"{file.stored.spans[part.name + part.suffix].file}: {part.name + part.suffix!r}"
    if part.suffix in CODES_SUFFIXES:
        check_plane_codes(to_array(copy), file.document.entries[part.name].k, where)
    elif part.suffix in SCALE_SUFFIXES:
        check_scale(to_array(copy), where)
    return copy


def device_of(name: str, device_map: DeviceMap | None) -> Any:
    """Where accelerate's map puts a buffer: in memory where it puts the parameters on disk."""
    device = "cpu"
    for module in sorted(device_map or {}, key=len):
        if f"{name}.".startswith(f"{module}." if module else ""):
            device = (device_map or {})[module]
    return "cpu" if device == "disk" else device


def check_complete(model: nn.Module, checkpoint: str) -> None:
    """Check that no tensor is left on the meta device, but for those that accelerate reads from disk.

    Args:
        model: as loaded.
        checkpoint: what it was loaded from, for the message.

    Raises:
        LoadError: names the tensors.
    """
    problems = []
    for prefix, module in model.named_modules():
        if getattr(getattr(module, "_hf_hook", None), "offload", False):
            continue
        tensors = {**module._parameters, **module._buffers}
        for attribute, tensor in tensors.items():
            if tensor is not None and tensor.is_meta:
                problems.append(f"missing: '{prefix}.{attribute}', {tensor.dtype} {list(tensor.shape)}")
    if problems:
        raise LoadError(checkpoint, problems)


def _empty_layer(linear: nn.Linear, info: TensorInfo, file: Model, dtype: torch.dtype | None) -> TernaryLinear:
    down = file.stored.spans.get(info.name + DOWN_SUFFIX) if info.low_rank is not None else None
    layer = TernaryLinear(
        linear.in_features,
        linear.out_features,
        bias=False,
        planes=info.planes,
        group_size=info.group_size,
        low_rank=info.low_rank,
        scale_dtype=_torch_dtype(info.dtype),
        low_rank_dtype=_torch_dtype(info.dtype if down is None else down.dtype),
        compute_dtype=dtype or linear.weight.dtype,
        device="meta",
    )
    layer.bias = linear.bias
    return layer


def _torch_dtype(dtype: str) -> torch.dtype:
    return to_tensor(np.empty(0, DTYPES[dtype])).dtype
