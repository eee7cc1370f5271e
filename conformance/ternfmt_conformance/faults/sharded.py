"""Sharded models with something changed: what that breaks, if anything, is not known."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from ..driver import SPEC_FEATURES
from ..optional import st
from ..strategies import INDEX, models, sharded_models
from .edits import change_bytes, change_file

_NAMES = ["", ".", "..", "../model.safetensors", "/model.safetensors", "a/b", "a\\b", "C:x", "x\0", "n" * 256, "x\x7f"]
_INDEX_VALUES: list[Any] = [None, True, 0, -1, 1.5, "", [], {}, {"x": 1}]
_CONFIGS: list[Any] = [
    {},
    {"quantization_config": {"quant_method": "ternfmt"}},
    {"quantization_config": {"quant_method": "ternfmt", "format_version": "1.0"}},
    {"quantization_config": {"quant_method": "ternfmt", "format_version": "1.7"}},
    {"quantization_config": {"quant_method": "gptq"}},
    {"quantization_config": None},
    [],
]


@st.composite
def changed_models(draw: st.DrawFn, features: Collection[str] = SPEC_FEATURES) -> dict[str, bytes]:
    """File name -> bytes of a model with an index, a shard, the set of files or a config.json changed, or nothing.

    Args:
        draw: given by Hypothesis.
        features: those of SPEC section 5 that the model may use.
    """
    files = draw(models(features).flatmap(sharded_models))
    change = draw(st.sampled_from(["nothing", "shard name", "index", "index bytes", "shard", "files", "config"]))
    shards = sorted(set(files) - {INDEX})
    index = json.loads(files[INDEX])
    if change == "shard name":
        name = draw(st.sampled_from([*index["weight_map"], "x"]))
        index["weight_map"][name] = draw(st.sampled_from([*_NAMES, *shards, INDEX, "absent.safetensors"]))
        files[INDEX] = json.dumps(index).encode()
    elif change == "index":
        key = draw(st.sampled_from(["weight_map", "metadata", "x"]))
        value = draw(st.sampled_from(_INDEX_VALUES))
        index[key] = {"total_size": value} if draw(st.booleans()) else value
        files[INDEX] = json.dumps(index).encode()
    elif change == "index bytes":
        files[INDEX] = draw(change_bytes(files[INDEX]))
    elif change == "shard":
        name = draw(st.sampled_from(shards))
        files[name] = draw(change_file(files[name]))
    elif change == "files":
        name = draw(st.sampled_from([*shards, INDEX]))
        files[draw(st.sampled_from(["x.safetensors", "x.safetensors.index.json", "x"]))] = files[name]
        if draw(st.booleans()):
            del files[name]
    elif change == "config":
        files["config.json"] = json.dumps(draw(st.sampled_from(_CONFIGS))).encode()
    return files
