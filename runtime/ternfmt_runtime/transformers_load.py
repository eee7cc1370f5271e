"""From the files of a ternary checkpoint to layers on the meta device that wait for their tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from ternfmt import Model, TensorInfo
from ternfmt.check import check_ternary
from ternfmt.container import DTYPES
from ternfmt.names import DOWN_SUFFIX, used_suffixes

from .arrays import to_tensor
from .casting import layer_class
from .linear import TernaryLinear
from .load import LoadError
from .swap import Places, places, swap, why_not_swappable

Rename = Callable[[str, Mapping[str, Any]], tuple[str, Any]]
"""(name in the file, the model's state dict) -> (name in the model, the WeightConverter that applies or None)."""


@dataclass(frozen=True)
class Placed:
    """A layer in the model and the ternary tensor of the file that belongs in it."""

    layer: TernaryLinear
    info: TensorInfo


def place_layers(
    model: Any, file: Model, conversions: Sequence[Any], compute_dtype: torch.dtype | None
) -> dict[str, Placed]:
    """Replace nn.Linear layers by ternary ones on the meta device, wherever the file has a ternary tensor.

    Tensors of the file that have no place in the model are left to transformers, which reports them
    and goes on: a model without the head that the file has is a common use.

    Args:
        model: on the meta device.
        file: the checkpoint.
        conversions: how transformers renames and transforms the file's tensors.
        compute_dtype: the layers'; None is the model's dtype, and float32 where the model insists on it.

    Returns:
        Names of modules -> what was placed there.

    Raises:
        LoadError: a ternary tensor does not fit its layer, none has a place, or the model's own class
            misses a tensor.
    """
    rename = _renamer(model, conversions)
    held, dense = places(model), model.state_dict()
    keeps_float32 = _float32_names(model)
    ternary = [info for info in file.tensors.values() if info.ternary]
    placed: dict[str, Placed] = {}
    problems: list[str] = []
    for info in ternary:
        target, converter = rename(info.name, dense)
        if converter is None and target not in dense:
            continue
        reason = _misfit(model, info, target, converter, held)
        if reason is not None:
            problems.append(f"{info.file}: {info.name!r}: ternary, but {reason}")
            continue
        name = target.removesuffix(".weight")
        linear = model.get_submodule(name)
        dtype = torch.float32 if keeps_float32(target) else linear.weight.dtype
        layer = _meta_layer(name, linear, info, file, compute_dtype or dtype)
        swap(held, linear, layer)
        placed[name] = Placed(layer, info)
    if not problems and ternary and not placed:
        problems.append(
            f"none of its {len(ternary)} ternary tensors, such as {ternary[0].name!r}, has a place in "
            f"{type(model).__name__}: config.json says it is for {model.config.architectures}"
        )
    problems = problems or _misnamed(placed, rename, model) or _missing(model, file, rename)
    if problems:
        raise LoadError(str(file.source.path), problems)
    return placed


def mark_initialized(layer: TernaryLinear) -> None:
    """Keep transformers from drawing the layer's tensors at random, which fails for codes."""
    for tensor in (*layer.parameters(), *layer.buffers()):
        setattr(tensor, "_is_hf_initialized", True)  # noqa: B010 - mypy refuses the assignment


def check_biases(model: Any) -> None:
    """Check that no ternary layer's bias was missing.

    transformers leaves it uninitialised, because it leaves the whole layer alone.

    Raises:
        LoadError: one was.
    """
    missing = [
        f"missing: '{name}.bias', {list(module.bias.shape)}, of a layer whose weight is there"
        for name, module in model.named_modules()
        if isinstance(module, TernaryLinear)
        and module.bias is not None
        and not module.bias.is_meta
        and not getattr(module.bias, "_is_hf_initialized", False)
    ]
    if missing:
        raise LoadError(str(model.config.name_or_path), missing)


def check_loaded(placed: Mapping[str, Placed], file: Model) -> None:
    """Check scales, codes and padding where they are: in memory, or in the file if they are offloaded.

    Raises:
        FormatError: SCALE, CODE or PADDING.
    """
    for p in placed.values():
        if p.layer.weight.is_meta:
            file.check(p.info.name)
        else:
            check_ternary(p.layer.to_ternary(), f"{p.info.file}: {p.info.name!r}")


def _renamer(model: Any, conversions: Sequence[Any]) -> Rename:
    """The renaming of transformers' loader."""
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    renamings = [c for c in conversions if isinstance(c, WeightRenaming)]
    converters = [c for c in conversions if isinstance(c, WeightConverter)]
    by_pattern = {pattern: c for c in converters for pattern in c.source_patterns}

    def rename(name: str, state: Mapping[str, Any]) -> tuple[str, Any]:
        target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if target not in state and name in state:
            return name, None
        return target, by_pattern.get(pattern)

    return rename


def _float32_names(model: Any) -> Callable[[str], bool]:
    """Whether the model keeps a tensor of this name in float32, whatever its own dtype."""
    from transformers.core_model_loading import build_glob_alternation

    plan = model._get_dtype_plan(model.dtype)
    if not plan:
        return lambda name: False
    pattern, _, _ = build_glob_alternation(list(plan))
    return lambda name: pattern.search(name) is not None


def _misfit(model: Any, info: TensorInfo, target: str, converter: Any, held: Places) -> str | None:
    """Why the file's ternary tensor cannot be the model's ``target``, and what to do; or None."""
    hint = "convert again with --exclude, or `ternfmt dequantize` the file"
    if converter is not None:
        return f"transformers makes {', '.join(converter.target_patterns)} of it by arithmetic on dense weights: {hint}"
    name, _, attribute = target.rpartition(".")
    module = model.get_submodule(name)
    if attribute != "weight":
        return f"{type(module).__name__} {name!r} has it as {attribute!r}; only a weight can be ternary: {hint}"
    reason = why_not_swappable(held, module)
    if reason is not None:
        return f"{name!r} {reason}: {hint}"
    if info.shape != tuple(module.weight.shape):
        expected = list(module.weight.shape)
        return f"{name!r} expects shape {expected}, got {list(info.shape)}: config.json is not this file's"
    tied = model.all_tied_weights_keys
    if target in {*tied, *tied.values()}:
        return f"the model ties {name!r} to another weight: set tie_word_embeddings to false in config.json, or {hint}"
    return None


def _meta_layer(
    name: str, linear: nn.Linear, info: TensorInfo, file: Model, compute_dtype: torch.dtype
) -> TernaryLinear:
    """The layer that the file's tensor fits, without memory."""
    down = file.stored.spans.get(f"{info.name}{DOWN_SUFFIX}") if info.low_rank is not None else None
    layer = layer_class(name)(
        linear.in_features,
        linear.out_features,
        bias=False,
        planes=info.planes,
        group_size=info.group_size,
        low_rank=info.low_rank,
        scale_dtype=_dtype(info.dtype),
        low_rank_dtype=torch.bfloat16 if down is None else _dtype(down.dtype),
        compute_dtype=compute_dtype,
        device="meta",
    )
    layer.register_parameter("bias", linear.bias)
    mark_initialized(layer)
    return layer


def _misnamed(placed: Mapping[str, Placed], rename: Rename, model: Any) -> list[str]:
    """Scales and further planes that transformers renames otherwise than the codes they belong to."""
    state = model.state_dict()
    problems = []
    for name, p in placed.items():
        for suffix in used_suffixes(p.info.planes, p.info.low_rank is not None):
            target, _ = rename(p.info.name + suffix, state)
            if target != f"{name}.weight{suffix}":
                problems.append(
                    f"{p.info.file}: {p.info.name + suffix!r}: transformers loads it as {target!r}, not with "
                    f"{name!r}: `ternfmt dequantize` the file, save it with save_pretrained, and convert that"
                )
    return problems


def _missing(model: Any, file: Model, rename: Rename) -> list[str]:
    """Tensors the model would draw at random though config.json says the file is for this very class."""
    if type(model).__name__ not in (model.config.architectures or ()):
        return []
    state = model.state_dict()
    found: set[str] = set()
    for name in file.stored.spans:
        target, converter = rename(name, state)
        found.add(target)
        if converter is not None:
            patterns = converter.target_patterns
            found.update(target.replace(patterns[0], pattern) for pattern in patterns)
    for one, other in model.all_tied_weights_keys.items():
        if one in found or other in found:
            found.update((one, other))
    info = SimpleNamespace(missing_keys=state.keys() - found, unexpected_keys=set())
    model._adjust_missing_and_unexpected_keys(info)
    return [
        f"missing: {name!r}, {state[name].dtype} {list(state[name].shape)}; to draw it at random, remove "
        '"architectures" from config.json'
        for name in sorted(info.missing_keys)
    ]


def _dtype(name: str) -> torch.dtype:
    return to_tensor(np.empty(0, DTYPES[name])).dtype
