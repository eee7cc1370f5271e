"""Faults that show when one shard is read, or a folder without an index, and ones of digests across shards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ternfmt import Kind

from .bad_models import ONE, TWO, Folder, attributes, no_codes, shard, two_shards
from .good_models import INDEX, absent, digested_shards, one_file, three_shards
from .raw import RawFile, declare, document, entry, features, plain, poke, put

ALL = ("group-scale", "low-rank", "planes")


@dataclass(frozen=True)
class PartCase:
    """One fault in a shard read by itself, or in a folder made otherwise than `two_shards`."""

    name: str
    rule: str
    kind: Kind
    folder: Callable[[], Folder]
    arguments: dict[str, Any] = field(default_factory=dict)
    features: tuple[str, ...] = ()


def opened(name: str, *mutations: Any, base: Callable[[], Folder] = two_shards) -> Callable[[], Folder]:
    """A folder of which one file is opened."""

    def make() -> Folder:
        model = base()
        for mutation in mutations:
            mutation(model)
        attributes(open=name)(model)
        return model

    return make


def single(name: str, *mutations: Any, base: Callable[[], RawFile] = plain) -> Callable[[], Folder]:
    """One file of this name."""

    def make() -> Folder:
        raw = base()
        for mutation in mutations:
            mutation(raw)
        return one_file(raw, name)

    return make


def _two_scales(raw: RawFile) -> None:
    entry(planes=3)(raw)
    raw.tensors = {}
    put("w_plane2_scale", "F16", [2, 2])(raw)
    put("w_plane3_scale", "BF16", [2, 2])(raw)


def _further_scale_alone(raw: RawFile) -> None:
    raw.tensors = {name: raw.tensors[name] for name in ("w_plane2_scale", "w_scale", "w")}
    poke("w_plane2_scale", 0, b"\0\x7e")(raw)


def _codes_alone(raw: RawFile) -> None:
    raw.tensors = {name: raw.tensors[name] for name in ("w", "w_plane2")}


MORE = declare("v", shape=[1, 1], encoding="int2")

PART_CASES = [
    PartCase("shard read as a whole", "S-7.2", Kind.SCALE, opened(ONE), {"read_as": "whole"}),
    PartCase(
        "whole file called like a shard, read as a whole",
        "S-7.2",
        Kind.METADATA,
        single(ONE, MORE),
        {"read_as": "whole"},
    ),
    *(
        PartCase(
            f"{what} with an absent tensor, to be read as a shard",
            "S-7.2",
            Kind.METADATA,
            opened(name, no_codes),
            {"read_as": "shard"},
        )
        for what, name in (("index", INDEX), ("folder", "."))
    ),
    PartCase("folder whose one file is a shard", "S-7.2", Kind.METADATA, lambda: _folder_of(single(ONE, MORE))),
    *(
        PartCase(f"file called {name} is no shard", "S-7.2", Kind.METADATA, single(name, MORE))
        for name in (
            *("model.safetensors", "model-0001-of-0002.safetensors", "model-000001-of-000002.safetensors"),
            *(
                "model-00001-of-00002.safetensors.safetensors",
                "model-00001-of-00002.bin",
                "model_00001-of-00002.safetensors",
            ),
            *("model-00001-of-00002.SAFETENSORS", "model-\u0661\u0661\u0661\u0661\u0661-of-00002.safetensors"),
        )
    ),
    PartCase("shard with a forbidden code", "S-3.2", Kind.CODE, opened(ONE, shard(ONE, poke("w", 0, b"\2")))),
    PartCase("shard with a NaN scale", "S-4.2", Kind.SCALE, opened(TWO, shard(TWO, poke("w_scale", 0, b"\0\x7e")))),
    PartCase(
        "shard with a NaN scale of a further plane alone",
        "S-10.1",
        Kind.SCALE,
        single(ONE, _further_scale_alone, base=features),
        features=ALL,
    ),
    PartCase(
        "shard with a forbidden code, and a NaN scale of a further plane alone",
        "S-10.1",
        Kind.CODE,
        single(ONE, _further_scale_alone, poke("w", 0, b"\2"), base=features),
        features=ALL,
    ),
    PartCase(
        "shard with padding in a plane without its scales, and a forbidden code in the next",
        "S-10.1",
        Kind.PADDING,
        single(ONE, _codes_alone, poke("w", 4, b"\x1d"), poke("w_plane2", 0, b"\2"), base=features),
        features=ALL,
    ),
    PartCase("shard with padding", "S-3.5", Kind.PADDING, opened(ONE, shard(ONE, poke("w", 1, b"\x07")))),
    PartCase("shard with a scale of another shape", "S-4.1", Kind.SCALE, single(TWO, put("w_scale", "F16", [2, 1]))),
    PartCase("shard with codes of another shape", "S-3.3", Kind.METADATA, single(ONE, put("w", "U8", [2, 3]))),
    PartCase(
        "shard with a plane that is not called for", "S-6.1", Kind.NAME, single(ONE, put("w_plane2", "U8", [2, 2]))
    ),
    PartCase("shard with undeclared codes", "S-6.3", Kind.METADATA, single(ONE, document(tensors={}))),
    PartCase(
        "shard whose scales have two dtypes",
        "S-5.3",
        Kind.SCALE,
        single(ONE, _two_scales, base=features),
        features=ALL,
    ),
    PartCase(
        "shard, derived name of an absent tensor over-long",
        "S-6.2",
        Kind.NAME,
        single(ONE, declare("v" * 250, shape=[1, 1], encoding="int2")),
    ),
    *(
        PartCase(
            f"absent tensor: {what}", "S-2.4", Kind.METADATA, lambda changes=changes: absent(**changes), features=ALL
        )
        for what, changes in {
            "K over the cap": {"shape": [1, 2**24]},
            "K over the cap in two dimensions": {"shape": [1, 2**12, 2**12]},
            "dimension of 2^53": {"shape": [2**53, 1]},
            "N * K too large": {"shape": [2**30, 2**23]},
            "dimension of 0": {"shape": [0, 5]},
        }.items()
    ),
    PartCase(
        "absent tensor: rank over K", "S-5.4", Kind.METADATA, lambda: absent(shape=[2, 3, 2], low_rank=7), features=ALL
    ),
    PartCase(
        "digest of a tensor that is in no shard",
        "S-8.4",
        Kind.METADATA,
        opened(".", shard(ONE, document(digests={"tensors": {"v": "0" * 64}}))),
    ),
    PartCase(
        "digest in the other shard differs",
        "S-8.1",
        Kind.DIGEST,
        opened(".", shard(ONE, document(digests={"tensors": {"w_scale": "0" * 64}}))),
        {"digests": True},
    ),
    PartCase(
        "header digest of the second shard differs",
        "S-8.2",
        Kind.DIGEST,
        opened(".", shard(TWO, document(encoder={"method": "Exact"})), base=digested_shards),
        {"digests": True},
    ),
    PartCase(
        "features listed in the other shards alone",
        "S-10.2",
        Kind.FEATURE,
        opened(
            ".",
            lambda model: model.shards["model-00002-of-00003.safetensors"].document.update(required=[]),
            base=three_shards,
        ),
    ),
    PartCase(
        "feature of a later shard unknown",
        "S-5.1",
        Kind.FEATURE,
        opened(".", shard(TWO, document(required=["example.org/rotation"]))),
    ),
]


def _folder_of(make: Callable[[], Folder]) -> Folder:
    model = make()
    model.open = "."
    return model
