"""The metadata document that ``save_pretrained`` puts into every file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ternfmt import Model
from ternfmt.encode.settings import Settings
from ternfmt.metadata import KEY, Document, Entry
from ternfmt.names import used_suffixes
from ternfmt.strict_json import canonical
from ternfmt.writer import make_document

from .config import TernaryConfig
from .linear import TernaryLinear


def make_metadata(model: Any, file: Model | None, config: TernaryConfig) -> dict[str, str]:
    """``__metadata__`` for the model as it is now.

    What the file it came from says beside the layers (producer, source, encoder) is kept, digests are
    not: `ternfmt canonicalize` computes them anew.

    Args:
        model: a transformers model.
        file: the checkpoint it was loaded from; None if it was quantised as it was loaded.
        config: how, in that case.

    Raises:
        ValueError: transformers would save codes and scales under names that do not belong together.
    """
    known = {} if file is None else file.document.entries
    rename = _saved_name(model)
    entries = {}
    for module, layer in model.named_modules():
        if isinstance(layer, TernaryLinear):
            name = rename(f"{module}.weight")
            for suffix in used_suffixes(layer.planes, layer.low_rank is not None):
                if rename(f"{module}.weight{suffix}") != name + suffix:
                    raise ValueError(
                        f"transformers saves '{module}.weight' as {name!r} and '{module}.weight{suffix}' as "
                        f"{rename(f'{module}.weight{suffix}')!r}; dequantize the model to save it"
                    )
            ancillary = known[name].ancillary if name in known else {}
            entries[name] = Entry(
                (layer.out_features, layer.in_features), layer.group_size, layer.planes, layer.low_rank, ancillary
            )
    if file is None:
        settings = Settings(config.method, config.planes or 2, config.group_size)
        document = make_document(entries, entries, {"encoder": settings.to_json()})
        return {KEY: canonical(document.to_json())}
    required = sorted(set().union(*(entry.features for entry in entries.values())))
    document = Document(file.document.version, tuple(required), entries, ancillary=file.document.ancillary)
    return {**file.stored.headers[0].metadata, KEY: canonical(document.to_json())}


def _saved_name(model: Any) -> Callable[[str], str]:
    """From the model's names to the file's: transformers undoes the renamings that loading used."""
    from transformers.core_model_loading import WeightRenaming, apply_renamings

    used = [c for c in reversed(model._weight_conversions) if isinstance(c, WeightRenaming)]
    renamings = [c.reverse_transform() for c in used]
    return lambda name: str(apply_renamings(name, renamings))
