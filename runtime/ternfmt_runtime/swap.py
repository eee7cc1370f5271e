"""Exchange modules inside a model, without making dense weights on the way."""

from __future__ import annotations

from torch import nn

from .linear import TernaryLinear

Places = dict[nn.Module, list[tuple[nn.Module, str]]]
"""Every submodule -> the (parent, attribute) pairs that hold it; a shared module has several."""


def places(model: nn.Module) -> Places:
    """Where each submodule of ``model`` is held; the model itself is held nowhere."""
    found: Places = {}
    for parent in model.modules():
        for attribute, child in parent._modules.items():
            if child is not None:
                found.setdefault(child, []).append((parent, attribute))
    return found


def swap(held: Places, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` wherever ``held`` has ``old``, in its training mode."""
    new.train(old.training)
    for parent, attribute in held.pop(old):
        setattr(parent, attribute, new)
        held.setdefault(new, []).append((parent, attribute))


def why_not_swappable(held: Places, module: nn.Module) -> str | None:
    """Why a TernaryLinear cannot stand in for ``module``, or None."""
    if type(module) is not nn.Linear and not isinstance(module, TernaryLinear):
        return f"is a {type(module).__name__}; only nn.Linear itself runs packed"
    if module not in held:
        return "is the model itself; it cannot be replaced in place"
    if any(isinstance(parent, nn.TransformerEncoderLayer) for parent, _ in held[module]):
        return "is in an nn.TransformerEncoderLayer, whose fast path reads the weight past the module"
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        return "has forward hooks, which would be lost; remove them and add them again afterwards"
    return None


def dequantize_(model: nn.Module) -> list[str]:
    """Replace every TernaryLinear inside ``model`` by its dense layer; returns their names."""
    held = places(model)
    names = []
    for name, module in list(model.named_modules()):
        if isinstance(module, TernaryLinear) and module is not model:
            swap(held, module, module.dequantize())
            names.append(name)
    return names
