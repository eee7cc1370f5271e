"""Models in several files, and single shards, that SPEC section 7 allows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .bad_models import (
    ONE,
    TWO,
    Folder,
    FolderMutation,
    attributes,
    config,
    config_text,
    index,
    index_text,
    no_tensors,
    several,
    shard,
    two_shards,
    weight_map,
)
from .good import as_safetensors_writes
from .raw import DROP, RawFile, Tensor, add_digests, declare, document, entry, features, plain, put

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class GoodModel:
    """A valid model, or a valid shard.

    Attributes:
        name: what it shows.
        rule: the rule that allows it.
        mutate: changes ``base`` within what the rules allow.
        base: a valid folder.
        shards: those that are read; None for all.
        arguments: further ones of the operation `validate`.
    """

    name: str
    rule: str
    mutate: FolderMutation
    base: Callable[[], Folder] = two_shards
    shards: tuple[str, ...] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)

    def folder(self) -> Folder:
        model = self.base()
        self.mutate(model)
        return model


def one_file(raw: RawFile, name: str = "model.safetensors") -> Folder:
    """A folder with one file and neither index nor config."""
    return Folder({name: raw}, DROP, DROP, open=name)


def three_shards() -> Folder:
    """`features` in three shards: codes, scales and low-rank factors apart, planes mixed."""
    parts = {
        "model-00001-of-00003.safetensors": ["w_plane2_scale", "w", "w_lowrank_up"],
        "model-00002-of-00003.safetensors": ["w_scale"],
        "model-00003-of-00003.safetensors": ["w_lowrank_down", "w_plane2"],
    }
    shards = {name: holding(features(), names) for name, names in parts.items()}
    listed = {tensor: name for name, names in parts.items() for tensor in names}
    return Folder(shards, {"weight_map": listed}, {"quantization_config": {"quant_method": "ternfmt"}})


def digested_shards() -> Folder:
    """`two_shards` with digests of everything in every shard."""
    model = two_shards()
    for raw in model.shards.values():
        add_digests(raw)
    return model


def saved_shards() -> Folder:
    """As save_pretrained writes a sharded model: one metadata in all files, a sorted and indented index."""
    model = two_shards()
    for raw in model.shards.values():
        as_safetensors_writes(raw)
    model.index = {"metadata": {"total_parameters": 12, "total_size": 16}, "weight_map": model.index["weight_map"]}
    model.index_bytes = lambda raw: (json.dumps(json.loads(raw), indent=2, sort_keys=True) + "\n").encode()
    model.config_bytes = model.index_bytes
    model.config["quantization_config"]["modules_to_not_convert"] = ["b"]
    return model


def holding(raw: RawFile, names: list[str]) -> RawFile:
    """The file with these of its tensors alone."""
    raw.tensors = {name: raw.tensors[name] for name in names}
    return raw


def further(name: str, raw: RawFile, **listed: str) -> FolderMutation:
    """Add a shard to `two_shards`, and its tensors to the index, which then states no size."""

    def edit(model: Folder) -> None:
        model.shards[name] = raw
        model.index["weight_map"].update(listed)
        model.index["metadata"] = {}

    return edit


def dense_only(**tensors: Tensor) -> RawFile:
    return RawFile(dict(tensors), {"version": "1.0", "required": [], "tensors": {}})


def link_to_blob(name: str) -> FolderMutation:
    return lambda model: model.links.update({name: f"blobs/{name.split('.')[0]}"})


NOTHING = several()
BIAS = plain().tensors["b"]

MODELS = [
    GoodModel("folder", "S-7.7", NOTHING),
    GoodModel("index", "S-7.3", attributes(open=INDEX)),
    GoodModel("folder, strictly", "S-7.4", NOTHING, arguments={"strict_links": True}),
    GoodModel("index, to be read as a shard", "S-7.2", attributes(open=INDEX), arguments={"read_as": "shard"}),
    GoodModel("three shards, features", "S-7.1", NOTHING, three_shards),
    GoodModel("digests in shards", "S-8.1", NOTHING, digested_shards, arguments={"digests": True}),
    GoodModel("as save_pretrained writes", "S-7.3", NOTHING, saved_shards),
    GoodModel("shards are symbolic links", "S-7.4", several(link_to_blob(ONE), link_to_blob(TWO))),
    GoodModel(
        "index is a symbolic link",
        "S-7.4",
        several(attributes(open=INDEX), link_to_blob(INDEX)),
        arguments={"strict_links": True},
    ),
    GoodModel(
        "config and the only file are symbolic links",
        "S-7.7",
        several(link_to_blob("model.safetensors"), lambda model: model.__dict__.update(config={}, open=".")),
        lambda: one_file(plain()),
    ),
    GoodModel(
        "index with white space around it",
        "S-7.3",
        attributes(index_bytes=lambda raw: b" \n\t\r" + raw.replace(b": ", b" :\n") + b"\n\n \t"),
    ),
    GoodModel("index with escapes", "S-7.3", index_text('"b"', r'"\u0062"')),
    GoodModel("index with unknown keys", "S-7.3", index(note=[1.5, -0.0, {"x": None}])),
    GoodModel(
        "index with unknown keys in its metadata", "S-7.3", index(metadata={"total_size": 16, "total_parameters": 1e3})
    ),
    GoodModel("index without metadata", "S-7.3", index(metadata=DROP)),
    GoodModel("index without total_size", "S-7.3", index(metadata={})),
    *(
        GoodModel(f"total_size {text}", "S-7.3", index_text('"total_size": 16', f'"total_size": {text}'))
        for text in (
            *("16.0", "1.6e1", "160e-1", "1600E-2", "0.16e+2", "16e-0", "16.00000000000000000000000000000"),
            *("1600000000000000000000000000e-26", "0.00000000000000000000000016e26"),
        )
    ),
    GoodModel("empty weight_map", "S-7.3", several(no_tensors, attributes(config=DROP))),
    GoodModel("empty weight_map, the index named", "S-7.3", several(no_tensors, attributes(open=INDEX))),
    *(
        GoodModel(
            f"total_size {text} of no bytes",
            "S-7.3",
            several(no_tensors, index_text('"total_size": 0', f'"total_size": {text}')),
        )
        for text in ("-0", "0.0", "-0e1", "0e99999999999999999999", "0.00e-99999999999999999999")
    ),
    GoodModel("index nests 32 deep", "S-1.5", index_text('"metadata"', f'"note": {"[" * 31}{"]" * 31}, "metadata"')),
    GoodModel("number of 32 characters in the index", "S-1.5", index(note=int("1" * 32))),
    GoodModel("index of another name", "S-7.7", attributes(index_name="other.variant.safetensors.index.json")),
    GoodModel(
        "index wins over other files", "S-7.7", lambda model: model.shards.update({"other.safetensors": plain()})
    ),
    GoodModel("folder called like a file", "S-7.7", attributes(others={"other.safetensors/note.txt": b"a folder\n"})),
    GoodModel(
        "folder called like an index",
        "S-7.7",
        attributes(others={"other.safetensors.index.json/note.txt": b"a folder\n"}),
    ),
    GoodModel(
        "dangling links called like a file and an index",
        "S-7.7",
        several(
            attributes(open="."), lambda model: model.links.update({"a.safetensors": "nothing", "a" + INDEX: "nothing"})
        ),
        lambda: one_file(plain()),
    ),
    GoodModel(
        "names in upper case are no candidates",
        "S-7.7",
        attributes(others={"OTHER.SAFETENSORS": b"", "OTHER.SAFETENSORS.INDEX.JSON": b"", "x.safetensors.bak": b""}),
    ),
    GoodModel(
        "names that hold a suffix, not at their end",
        "S-7.7",
        attributes(
            open=".", others={"x.safetensors.bak": b"", "x.safetensors.index.json.bak": b"", "safetensors": b""}
        ),
        lambda: one_file(plain()),
    ),
    GoodModel("one file, no index", "S-7.7", attributes(open="."), lambda: one_file(features(), "any.safetensors")),
    GoodModel("one whole file called like a shard", "S-7.2", attributes(open="."), lambda: one_file(plain(), ONE)),
    GoodModel(
        "shard names with unusual characters",
        "S-7.4",
        several(
            lambda model: model.shards.update({"... $~%41 \u00fc.bin": model.shards.pop(TWO)}),
            weight_map(w_scale="... $~%41 \u00fc.bin"),
        ),
    ),
    GoodModel("config absent", "S-7.8", attributes(config=DROP)),
    GoodModel("config empty", "S-7.8", attributes(config={})),
    GoodModel("config without quantization_config", "S-7.8", attributes(config={"quant_method": "gptq"})),
    GoodModel("config without format_version", "S-7.8", config(format_version=DROP)),
    GoodModel("config with unknown keys", "S-7.8", config(bits=1.58, modules=None)),
    GoodModel("config with Infinity", "S-7.8", lambda model: model.config.update(rope=float("inf"))),
    GoodModel("config with NaN", "S-7.8", lambda model: model.config.update(rope=float("nan"))),
    GoodModel("config with -Infinity", "S-7.8", lambda model: model.config.update(rope=float("-inf"))),
    GoodModel("config with an unpaired surrogate", "S-7.8", config_text("example", r"\ud83d")),
    GoodModel("config nests 32 deep", "S-7.8", config_text('"example"', "[" * 31 + "]" * 31)),
    GoodModel("config with a number of 32 characters", "S-7.8", config_text('"example"', "-1." + "2" * 26 + "E+9")),
    GoodModel(
        "config with white space around it", "S-7.8", attributes(config_bytes=lambda raw: b" \r\n\t" + raw + b"\n")
    ),
    GoodModel("config is a folder", "S-7.8", attributes(config=DROP, others={"config.json/note.txt": b"a folder\n"})),
    GoodModel("config is a dangling link", "S-7.8", attributes(config=DROP, links={"config.json": "nothing"})),
    GoodModel("config is a link to itself", "S-7.8", attributes(config=DROP, links={"config.json": "config.json"})),
    GoodModel(
        "config of another method, the index named",
        "S-7.8",
        several(config(quant_method="gptq"), attributes(open=INDEX)),
    ),
    GoodModel(
        "config of another method, the file named",
        "S-7.8",
        attributes(config={"quantization_config": {"quant_method": "gptq"}}),
        lambda: one_file(plain()),
    ),
    GoodModel(
        "later minor version in files and config",
        "S-7.8",
        several(*(shard(name, document(version="1.7")) for name in (ONE, TWO)), config(format_version="1.7")),
    ),
    GoodModel(
        "minor versions differ, config states none",
        "S-7.6",
        several(shard(TWO, document(version="1.1", producer={"name": "other"})), config(format_version=DROP)),
    ),
    GoodModel(
        "shard with dense tensors only", "S-7.1", further("c.safetensors", dense_only(c=BIAS), c="c.safetensors")
    ),
    GoodModel("entry in the second shard's document alone", "S-7.1", shard(ONE, document(tensors={}))),
    GoodModel("entry in the first shard's document alone", "S-7.1", shard(TWO, document(tensors={}))),
    GoodModel(
        "entries equal but for order and form",
        "S-7.6",
        shard(TWO, document(tensors={"w": {"encoding": "int2", "shape": [2, 5]}})),
    ),
    GoodModel(
        "digest in the other shard",
        "S-8.1",
        shard(ONE, lambda raw: raw.document.update(digests={"tensors": {"w_scale": sha256_of(TWO, "w_scale")}})),
        arguments={"digests": True},
    ),
    GoodModel(
        "features listed in one shard alone",
        "S-5.1",
        lambda model: model.shards["model-00002-of-00003.safetensors"].document.update(tensors={}, required=[]),
        three_shards,
    ),
]

V = {"shape": [1, 1], "encoding": "int2"}


def absent(**changes: Any) -> Folder:
    """`plain` in a file called like a shard, with an entry of which it holds nothing."""
    raw = plain()
    raw.document["required"] = ["group-scale", "low-rank", "planes"]
    declare("v", **{**V, **changes})(raw)
    return one_file(raw, ONE)


SHARDS = [
    GoodModel("first shard alone", "S-7.2", attributes(open=ONE), shards=(ONE,)),
    GoodModel("second shard alone", "S-7.2", attributes(open=TWO), shards=(TWO,)),
    GoodModel("shard that describes more than it holds", "S-7.2", NOTHING, absent, arguments={"read_as": "shard"}),
    *(
        GoodModel(f"absent tensor of {what}", "S-2.4", NOTHING, lambda changes=changes: absent(**changes))
        for what, changes in {
            "largest K": {"shape": [1, 2**24 - 1]},
            "largest N": {"shape": [2**53 - 1, 1]},
            "rank K": {"shape": [2, 3, 2], "low_rank": 6},
            "four planes": {"planes": 4},
            "largest group": {"group_size": 2**24 - 16},
        }.items()
    ),
    GoodModel(
        "shard with a digest of an absent tensor",
        "S-8.4",
        NOTHING,
        lambda: one_file(_with_absent_digest(), ONE),
        arguments={"digests": True},
    ),
    GoodModel("shard with scales of a further plane alone", "S-5.3", NOTHING, lambda: one_file(_scales_alone(), ONE)),
    GoodModel(
        "a name that only starts like a shard's",
        "S-7.2",
        NOTHING,
        lambda: one_file(plain(), "-00001-of-00002.safetensors.safetensors"),
    ),
    *(
        GoodModel(
            f"part called {name}", "S-7.2", NOTHING, lambda name=name: one_file(_part(), name), arguments=arguments
        )
        for name, arguments in [
            ("-00001-of-00002.safetensors", {}),
            ("x-99999-of-00000.safetensors", {}),
            ("part.safetensors", {"read_as": "shard"}),
        ]
    ),
]
GOOD_MODELS = [*MODELS, *SHARDS]


def _part() -> RawFile:
    return two_shards().shards[ONE]


def _with_absent_digest() -> RawFile:
    raw = plain()
    document(digests={"tensors": {"v": "0" * 64}})(raw)
    return raw


def _scales_alone() -> RawFile:
    raw = features()
    entry(planes=3)(raw)
    raw.tensors = {}
    put("w_plane2_scale", "F16", [2, 2])(raw)
    put("w_plane3_scale", "F16", [2, 2])(raw)
    return raw


def sha256_of(shard_name: str, name: str) -> str:
    """Digest of a tensor of `two_shards`."""
    digests = add_digests(two_shards().shards[shard_name]).document["digests"]
    return str(digests["tensors"][name])
