"""Which tensors become ternary."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod

from ...container import DTYPES
from ...limits import K_MAX
from ..weights import WEIGHT_DTYPES
from .recipe import Shaped

COMFYUI_PREFIX = "model.diffusion_model."
"""Before the names of the diffusion model where a file also holds other models, and often where it does not."""

_EMBEDDING = re.compile(r"embed|^wte$|^wpe$|^shared$|^relative_attention_bias$|^lm_head$")
_NORM = re.compile(r"norm|^ln(_|\d|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Choice:
    """What becomes of one tensor.

    Attributes:
        ternary: quantised; else copied as it is.
        reason: why, in words for people.
    """

    ternary: bool
    reason: str


@dataclass(frozen=True)
class Policy:
    """What is ternary in one architecture: the linears of its repeated blocks.

    What lies outside of the blocks (embedders, modulation that blocks share, the last layers) is small and sensitive.

    Attributes:
        name: for ``--policy``.
        title: for people.
        blocks: names of the model's lists of blocks, under every naming; empty for any numbered list.
        classes: what ``config.json`` calls such a model (``_class_name``, ``architectures`` or ``model_type``).
        markers: tensors that tell such a checkpoint, where there is no config.
        dense: why nothing in such a model can be ternary, or None.
    """

    name: str
    title: str
    blocks: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    dense: str | None = None

    def pattern(self, names: Iterable[str]) -> re.Pattern[str] | None:
        """Matches at the start of what lies in a block; None where the checkpoint has no blocks at all."""
        if self.blocks:
            return re.compile(rf"(?:{re.escape(COMFYUI_PREFIX)})?(?:{'|'.join(self.blocks)})\.\d+\.")
        prefix = re.escape(COMFYUI_PREFIX) if any(name.startswith(COMFYUI_PREFIX) for name in names) else ""
        # A number and a module's name. A number alone, as in net.2.weight, is a step of a sequence.
        pattern = re.compile(rf"{prefix}(?:.*\.)?\d+\.[^.]+\.")
        return pattern if any(map(pattern.match, names)) else None


GENERAL = Policy("general", "any model")
"""Where nothing is known of the architecture: numbered lists are blocks; without any, everything is one block."""


def choose(
    tensors: Mapping[str, Shaped],
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    policy: Policy = GENERAL,
) -> dict[str, Choice]:
    """Decide for every tensor of a checkpoint.

    Args:
        tensors: dtype and shape by name.
        include: glob patterns on full names; given any, they take the place of the policy.
        exclude: glob patterns of tensors to keep dense in any case.
        policy: 2-D ``*.weight`` in its blocks that is neither an embedding nor a norm is ternary.

    Raises:
        ValueError: a pattern matches no tensor.
    """
    for pattern in (*include, *exclude):
        if not any(fnmatchcase(name, pattern) for name in tensors):
            raise ValueError(f"pattern {pattern!r} matches none of the {len(tensors)} tensors")
    block = policy.pattern(tensors)

    def decide(name: str, tensor: Shaped) -> Choice:
        reason = _why_not_possible(tensor)
        if reason is not None:
            return Choice(False, reason)
        for pattern in exclude:
            if fnmatchcase(name, pattern):
                return Choice(False, f"excluded by {pattern!r}")
        for pattern in include:
            if fnmatchcase(name, pattern):
                return Choice(True, f"included by {pattern!r}")
        if include:
            return Choice(False, "not included")
        if policy.dense is not None:
            return Choice(False, policy.dense)
        modules = name.split(".")
        if len(tensor.shape) != 2 or modules[-1] != "weight":
            return Choice(False, "not a 2-D tensor named *.weight")
        if any(map(_EMBEDDING.search, modules[:-1])):
            return Choice(False, "an embedding")
        if any(map(_NORM.search, modules[-2:-1])):
            return Choice(False, "a norm")
        if block is None:
            return Choice(True, "2-D *.weight")
        if not block.match(name):
            return Choice(False, "outside of the repeated blocks")
        return Choice(True, "2-D *.weight in a block")

    return {name: decide(name, tensor) for name, tensor in tensors.items()}


def _why_not_possible(tensor: Shaped) -> str | None:
    """Why a tensor has no ternary form."""
    if DTYPES[tensor.dtype] not in WEIGHT_DTYPES:
        return f"dtype {tensor.dtype} is not F32, F16 or BF16"
    if len(tensor.shape) < 2 or 0 in tensor.shape:
        return f"shape {list(tensor.shape)} has no rows and columns"
    columns = prod(tensor.shape[1:])
    return f"{columns} columns, more than {K_MAX}" if columns > K_MAX else None
