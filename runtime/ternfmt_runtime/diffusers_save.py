"""The metadata document that diffusers' ``save_pretrained`` puts into every file."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ternfmt import Model
from ternfmt.encode.settings import Settings
from ternfmt.metadata import KEY, Document, Entry
from ternfmt.strict_json import canonical
from ternfmt.writer import make_document

from .config import TernaryConfig
from .linear import ENTRY


def make_metadata(state_dict: Mapping[str, Tensor], file: Model | None, config: TernaryConfig) -> dict[str, str]:
    """``__metadata__`` for a model with this state dict.

    What the file it came from says beside the layers (producer, source, encoder) is kept, digests are
    not: `ternfmt canonicalize` computes them anew.

    Args:
        state_dict: of the whole model, as ``state_dict()`` returns it.
        file: what the model was loaded from; None if it was quantised as it was loaded.
        config: how, in that case.

    Raises:
        ValueError: a tensor is on disk, or belongs to an adapter.
    """
    for name, value in state_dict.items():
        if value.is_meta:
            raise ValueError(f"{name}: is offloaded to disk; load the model with another device_map to save it")
        if ".base_layer." in name:
            raise ValueError(
                f"{name}: has an adapter. Fuse and then unload it (fuse_lora, unload_lora_weights) to save the sum, "
                "or only unload it to save the model without it; save_lora_adapter saves the adapter"
            )
    known = {} if file is None else file.document.entries
    entries = {}
    for module, metadata in state_dict._metadata.items():  # type: ignore[attr-defined]
        if ENTRY in metadata:
            name = f"{module}.weight"
            ancillary = known[name].ancillary if name in known else {}
            entries[name] = Entry(**metadata[ENTRY], ancillary=ancillary)
    if file is None:
        settings = Settings(config.method, config.planes or 2, config.group_size)
        document = make_document(entries, entries, {"encoder": settings.to_json()})
        return {KEY: canonical(document.to_json())}
    required = sorted(set().union(*(entry.features for entry in entries.values())))
    document = Document(file.document.version, tuple(required), entries, ancillary=file.document.ancillary)
    return {**file.stored.headers[0].metadata, KEY: canonical(document.to_json())}
