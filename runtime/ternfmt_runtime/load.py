"""Load a ternfmt file into a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import ternfmt
from ternfmt import LowRank, Plane, TensorInfo, TernaryTensor
from ternfmt.check import check_ternary
from ternfmt.container import DTYPES

from .arrays import host_copy, to_tensor
from .casting import layer_class
from .linear import TernaryLinear
from .swap import Places, places, swap, why_not_swappable


class LoadError(ValueError):
    """File and model do not fit together; the model is untouched.

    Attributes:
        problems: one line for each tensor at fault.
    """

    def __init__(self, path: str, problems: list[str]) -> None:
        super().__init__(f"{path} does not fit the model:\n  " + "\n  ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class LoadReport:
    """What `load_into` did.

    Attributes:
        ternary: names of the tensors that stay packed.
        dense: names of the others that were loaded.
        missing: names of the model's tensors that the file lacks; empty if strict.
        unexpected: names of the file's tensors that the model lacks; empty if strict.
    """

    ternary: tuple[str, ...]
    dense: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


@dataclass(frozen=True)
class _Slot:
    """A tensor of the model: where it is held, and what is there now."""

    module: nn.Module
    attribute: str
    tensor: Tensor


def load_into(model: nn.Module, path: str | Path, *, strict: bool = True, mapped: bool = False) -> LoadReport:
    """Load a ternfmt file into a model, which may be on the meta device.

    Each nn.Linear whose weight is ternary in the file becomes a `TernaryLinear`; no dense weight is
    made for it. Dense tensors are cast to the dtype of the model's tensor, as ``load_state_dict``
    does. Meta tensors come to the CPU, others stay on their device. Everything is copied out of the
    file, a tensor at a time, and codes and scales are checked in the copy (page-locked, if they then
    go to another device): the model does not depend on the file afterwards.

    Args:
        model: changed in place.
        path: a file, an index JSON or a folder.
        strict: refuse missing and unexpected tensors, and non-persistent buffers on the meta
            device. Otherwise the former are reported and the latter left.
        mapped: codes, scales and factors that stay on the CPU, and dense tensors of the dtype that the
            model has on the meta device, are not copied but remain in the file, mapped: pages come into
            memory as they are used, and the system may drop them again. What is written to such a tensor
            stays in memory. The file must stay as it is for as long as the model is used.

    Raises:
        LoadError: a tensor's shape, dtype or module does not fit or, if strict, names differ.
        FormatError: the file is not valid ternfmt; if bad codes or scales, the model is half loaded.
    """
    with ternfmt.open(path, private=mapped) as file:
        held = places(model)
        slots = _slots(model)
        aliases = _aliases(slots)
        loaded = [info for name, info in file.tensors.items() if name in slots]
        missing = tuple(name for name in slots if not any(a in file for a in aliases[name]))
        unexpected = tuple(name for name in file if name not in slots)
        problems = [p for info in loaded for p in _misfits(info, slots, aliases, held)]
        if strict:
            problems += [f"missing: {name!r}, {_text(slots[name].tensor)}" for name in missing]
            problems += [f"unexpected: {file.tensors[n].file}: {n!r}" for n in unexpected]
            problems += _lost_buffers(model)
        if problems:
            raise LoadError(str(path), problems)
        # Dense tensors first: a layer takes over the bias of the one it replaces.
        for info in sorted(loaded, key=lambda info: info.ternary):
            value = file[info.name]
            if isinstance(value, TernaryTensor):
                slot = slots[info.name]
                _place_ternary(_checked(value, info, slot.tensor.device, mapped), slot.module, held)
            else:
                _place_dense(to_tensor(value), [slots[alias] for alias in aliases[info.name]])
    return LoadReport(
        ternary=tuple(info.name for info in loaded if info.ternary),
        dense=tuple(info.name for info in loaded if not info.ternary),
        missing=missing,
        unexpected=unexpected,
    )


def _slots(model: nn.Module) -> dict[str, _Slot]:
    """Every tensor the file should have; of a TernaryLinear, the logical weight and the bias."""
    slots = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        tensors = dict(module.named_parameters(recurse=False, remove_duplicate=False))
        if isinstance(module, TernaryLinear):
            tensors = {name: tensors[name] for name in ("weight", "bias") if name in tensors}
        else:
            buffers = module.named_buffers(recurse=False, remove_duplicate=False)
            tensors |= {n: b for n, b in buffers if n not in module._non_persistent_buffers_set}
        for attribute, tensor in tensors.items():
            name = f"{prefix}.{attribute}" if prefix else attribute
            slots[name] = _Slot(module, attribute, tensor)
    return slots


def _aliases(slots: Mapping[str, _Slot]) -> dict[str, list[str]]:
    """Name -> all names, itself included, under which the model has the same tensor."""
    by_tensor: dict[int, list[str]] = {}
    for name, slot in slots.items():
        by_tensor.setdefault(id(slot.tensor), []).append(name)
    return {name: by_tensor[id(slot.tensor)] for name, slot in slots.items()}


def _misfits(
    info: TensorInfo,
    slots: Mapping[str, _Slot],
    aliases: Mapping[str, list[str]],
    held: Places,
) -> Iterator[str]:
    """Why the file's tensor cannot go where the model has that name."""
    module, tensor = slots[info.name].module, slots[info.name].tensor
    where = f"{info.file}: {info.name!r}"
    shape = tuple(tensor.shape)
    if isinstance(module, TernaryLinear) and slots[info.name].attribute == "weight":
        shape = (module.out_features, module.in_features)
        if not info.ternary:
            yield f"{where}: dense {info.dtype}, but the model's layer is already a TernaryLinear"
    elif not info.ternary and not _castable(info.dtype, tensor.dtype):
        yield f"{where}: expected {tensor.dtype}, got {info.dtype}"
    if info.shape != shape:
        yield f"{where}: expected shape {list(shape)}, got {list(info.shape)}"
    if not info.ternary:
        return
    reason = why_not_swappable(held, module)
    if slots[info.name].attribute != "weight":
        reason = f"has it as {slots[info.name].attribute!r}; only a Linear's weight can be ternary"
    if reason is not None:
        hint = "dequantize the tensor in the file, or use another layer"
        yield f"{where}: ternary, but the module {reason} ({hint})"
    tied = [name for name in aliases[info.name] if slots[name].module is not module]
    if tied:
        yield f"{where}: ternary, but the model ties it to {', '.join(tied)}; untie them first"


def _castable(file_dtype: str, dtype: torch.dtype) -> bool:
    """Between float types only: numbers that merely happen to be stored as integers are codes."""
    stored = to_tensor(np.empty(0, DTYPES[file_dtype])).dtype
    return stored == dtype or (stored.is_floating_point and dtype.is_floating_point)


def _lost_buffers(model: nn.Module) -> Iterator[str]:
    for prefix, module in model.named_modules():
        for name in module._non_persistent_buffers_set:
            buffer = module._buffers[name]
            if buffer is not None and buffer.is_meta:
                yield (
                    f"non-persistent buffer '{prefix}.{name}', {_text(buffer)}, is on the meta "
                    "device and in no file: build it on a real device, or compute it before loading"
                )


def _checked(tensor: TernaryTensor, info: TensorInfo, device: torch.device, mapped: bool) -> TernaryTensor:
    """What ``device`` gets, codes and scales checked: a copy, as the file may change, or the mapped file itself."""
    if not mapped or device.type not in ("cpu", "meta"):
        planes = tuple(Plane(host_copy(p.codes, device), host_copy(p.scale, device)) for p in tensor.planes)
        low_rank = tensor.low_rank
        if low_rank is not None:
            low_rank = LowRank(host_copy(low_rank.down, device), host_copy(low_rank.up, device))
        tensor = replace(tensor, planes=planes, low_rank=low_rank)
    check_ternary(tensor, f"{info.file}: {info.name!r}")
    return tensor


def _place_ternary(tensor: TernaryTensor, module: nn.Module, held: Places) -> None:
    assert isinstance(module, nn.Linear)
    if module not in held:  # one module under two names, both in the file
        return
    dtype = module.compute_dtype if isinstance(module, TernaryLinear) else module.weight.dtype
    device = "cpu" if module.weight.is_meta else module.weight.device
    layer = layer_class(held[module][0][1]).from_ternary(tensor, module.bias, compute_dtype=dtype, device=device)
    swap(held, module, layer)


def _place_dense(value: Tensor, slots: list[_Slot]) -> None:
    """Copy into the model's tensor, or replace it everywhere if it is on the meta device."""
    tensor = slots[0].tensor
    if not tensor.is_meta:
        with torch.no_grad():
            tensor.copy_(value)
        return
    value = value.to(tensor.dtype)
    if isinstance(tensor, nn.Parameter):
        value = nn.Parameter(value, requires_grad=tensor.requires_grad)
    for slot in slots:
        setattr(slot.module, slot.attribute, value)


def _text(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"
