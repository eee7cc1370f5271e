"""Faults in what makes several files one model: SPEC section 7."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ternfmt import Kind

from .raw import (
    DROP,
    Mutation,
    RawFile,
    both,
    document,
    entry,
    info,
    plain,
    poke,
    put,
    replaced,
    setting,
    updated,
)

ONE = "model-00001-of-00002.safetensors"
TWO = "model-00002-of-00002.safetensors"


@dataclass
class Folder:
    """A folder of shards, index and config, with every lever needed to make one fault.

    Attributes:
        shards: name -> file.
        index, config: JSON values; DROP leaves the file out.
        index_texts: (old, new) replacements in the index's JSON text.
        index_bytes, config_bytes: change the finished files.
        index_name: of the index.
        links: file name -> target of a symbolic link, where the file then lies.
        others: further files.
        strict_links: read it in strict mode.
        open: what is opened in the folder.
    """

    shards: dict[str, RawFile]
    index: Any
    config: Any
    index_texts: list[tuple[str, str]] = field(default_factory=list)
    index_bytes: Callable[[bytes], bytes] = bytes
    config_bytes: Callable[[bytes], bytes] = bytes
    index_name: str = "model.safetensors.index.json"
    links: dict[str, str] = field(default_factory=dict)  # name -> target
    others: dict[str, bytes] = field(default_factory=dict)
    strict_links: bool = False
    open: str = "."

    def files(self) -> dict[str, bytes]:
        """Path in the folder -> bytes; of a link, that of its target."""
        files = {name: raw.build() for name, raw in self.shards.items()}
        if self.index is not DROP:
            index = replaced(json.dumps(self.index), self.index_texts)
            files[self.index_name] = self.index_bytes(index.encode())
        if self.config is not DROP:
            files["config.json"] = self.config_bytes(json.dumps(self.config).encode())
        return {self.links.get(name, name): data for name, data in {**files, **self.others}.items()}

    def write(self, folder: Path) -> Path:
        """Write everything, and return the path to open."""
        for name, data in self.files().items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
        for name, target in self.links.items():
            (folder / name).symlink_to(target)
        return folder / self.open


def two_shards() -> Folder:
    """`plain` in two shards."""
    one, two = plain(), plain()
    one.tensors = {"b": one.tensors["b"], "w": one.tensors["w"]}
    two.tensors = {"w_scale": two.tensors["w_scale"]}
    return Folder(
        {ONE: one, TWO: two},
        {"metadata": {"total_size": 16}, "weight_map": {"b": ONE, "w": ONE, "w_scale": TWO}},
        {
            "model_type": "example",
            "quantization_config": {"quant_method": "ternfmt", "format_version": "1.0"},
        },
    )


FolderMutation = Callable[[Folder], Any]


@dataclass(frozen=True)
class ModelCase:
    name: str
    rule: str
    kind: Kind
    mutate: FolderMutation

    def write(self, folder: Path) -> Path:
        model = two_shards()
        self.mutate(model)
        return model.write(folder)


def shard(name: str, *mutations: Mutation) -> FolderMutation:
    return lambda model: both(*mutations)(model.shards[name])


def index(**changes: Any) -> FolderMutation:
    return lambda model: updated(model.index, changes)


def weight_map(**changes: Any) -> FolderMutation:
    return lambda model: updated(model.index["weight_map"], changes)


def config(**changes: Any) -> FolderMutation:
    return lambda model: updated(model.config["quantization_config"], changes)


def config_text(old: str, new: str) -> FolderMutation:
    return attributes(config_bytes=lambda raw: replaced(raw.decode(), [(old, new)]).encode())


def attributes(**changes: Any) -> FolderMutation:
    return lambda model: model.__dict__.update(changes)


def several(*mutations: FolderMutation) -> FolderMutation:
    return lambda model: [mutation(model) for mutation in mutations]


def index_text(old: str, new: str) -> FolderMutation:
    return lambda model: model.index_texts.append((old, new))


def no_codes(model: Folder) -> None:
    del model.shards[ONE].tensors["w"], model.index["weight_map"]["w"]
    model.index["metadata"] = {}


def no_tensors(model: Folder) -> None:
    model.shards = {}
    model.index = {"metadata": {"total_size": 0}, "weight_map": {}}


INDEX_TEXT = [
    ModelCase(f"index {name}", rule, kind, mutation)
    for name, rule, kind, mutation in [
        ("is not UTF-8", "S-1.3", Kind.ENCODING, attributes(index_bytes=lambda raw: raw + b"\xff")),
        ("has a byte order mark", "S-1.3", Kind.ENCODING, attributes(index_bytes=lambda raw: b"\xef\xbb\xbf" + raw)),
        ("has a lone surrogate", "S-1.3", Kind.ENCODING, index_text('"metadata"', r'"\ud83d"')),
        ("is empty", "S-7.3", Kind.JSON, attributes(index_bytes=lambda _: b"")),
        ("is an array", "S-7.3", Kind.JSON, attributes(index=[])),
        ("has a second value", "S-7.3", Kind.JSON, attributes(index_bytes=lambda raw: raw + b"{}")),
        ("ends in NUL", "S-7.3", Kind.JSON, attributes(index_bytes=lambda raw: raw + b"\0")),
        ("holds NaN", "S-1.5", Kind.JSON, index_text("16", "NaN")),
        ("nests 33 deep", "S-1.5", Kind.JSON, index_text('"metadata"', f'"note": {"[" * 32}{"]" * 32}, "metadata"')),
        ("nests 100,000 deep", "S-1.5", Kind.JSON, index_text("16", "[" * 100_000 + "]" * 100_000)),
        ("has 5,000 digits", "S-1.5", Kind.JSON, index_text("16", "1" * 5000)),
        ("names a tensor twice", "S-1.6", Kind.DUPLICATE, index_text('"b": ', f'"b": "{ONE}", "b": ')),
        ("has two weight maps", "S-1.6", Kind.DUPLICATE, index_text('"weight_map"', '"weight_map": {}, "weight_map"')),
    ]
]

INDEX_FORM = [
    ModelCase(f"{name}", "S-7.3", Kind.INDEX, mutation)
    for name, mutation in {
        "index over the cap": attributes(index_bytes=lambda raw: raw.ljust((1 << 25) + 1)),
        "weight_map absent": index(weight_map=DROP, metadata=DROP),
        "weight_map null": index(weight_map=None, metadata=DROP),
        "weight_map array": index(weight_map=[ONE]),
        "shard name null": weight_map(b=None),
        "shard name a number": index_text(f'"b": "{ONE}"', '"b": 1.5'),
        "index metadata null": index(metadata=None),
        "index metadata array": index(metadata=[]),
        "total_size too large": index(metadata={"total_size": 17}),
        "total_size too small": index(metadata={"total_size": 15}),
        "total_size a string": index(metadata={"total_size": "16"}),
        "total_size null": index(metadata={"total_size": None}),
        "total_size true": index(metadata={"total_size": True}),
        "total_size 16.5": index(metadata={"total_size": 16.5}),
        "total_size 1e999": index_text("16", "1e999"),
        **{
            f"total_size {text}": index_text("16", text)
            for text in (
                *("16.00000000000000000000000000001", "15.99999999999999999999999999999", "-16", "1.6", "16e1", "0"),
                *("16e999999999", "16e-99999999999999999", "1600000e-99999999999999999999", "18446744073709551632"),
            )
        },
        **{
            f"total_size {text} of no bytes": several(
                no_tensors, index_text('"total_size": 0', f'"total_size": {text}')
            )
            for text in ("1e-400", "-1e-400", "1e-99999999999999999", "1")
        },
    }.items()
]

PATH = [
    ModelCase(
        f"shard named {name!r}" if len(name) < 100 else f"shard named {name[0]}, {len(name)} times",
        "S-7.4",
        Kind.PATH,
        weight_map(b=name),
    )
    for name in (
        *("", ".", "..", "../" + ONE, "/" + ONE, "sub/" + ONE, "./" + ONE, ONE + "/", "..\\" + ONE),
        *("C:" + ONE, "C:\\x", "\\\\host\\x", "file:" + ONE, "x\0", "x\n", "x\x7f", "\x1b[31m"),
        *("x" * 256, "\u00fc" * 128),
    )
] + [
    ModelCase(
        "shard is a symbolic link, strictly",
        "S-7.4",
        Kind.PATH,
        attributes(strict_links=True, links={TWO: "blobs/two"}),
    ),
    ModelCase(
        "one shard absent, a later one a symbolic link, strictly",
        "S-10.2",
        Kind.PATH,
        several(attributes(strict_links=True, links={TWO: "blobs/two"}), lambda model: model.shards.pop(ONE)),
    ),
    ModelCase(
        "shard name not plain, and total_size wrong",
        "S-10.2",
        Kind.PATH,
        several(weight_map(b=".."), index(metadata={"total_size": 1})),
    ),
]

INDEX_SHARDS = [
    ModelCase(name, rule, Kind.INDEX, mutation)
    for name, rule, mutation in [
        ("shard absent", "S-10.2", lambda model: model.shards.pop(TWO)),
        (
            "shard is a dangling link",
            "S-10.2",
            several(lambda model: model.shards.pop(TWO), attributes(links={TWO: "nothing"})),
        ),
        (
            "shard is a link to itself",
            "S-10.2",
            several(lambda model: model.shards.pop(TWO), attributes(links={TWO: TWO})),
        ),
        (
            "shard is a folder",
            "S-10.2",
            several(lambda model: model.shards.pop(TWO), attributes(others={TWO + "/note.txt": b"a folder\n"})),
        ),
        ("tensor listed, but absent", "S-7.5", weight_map(c=ONE)),
        ("tensor present, but not listed", "S-7.5", weight_map(b=DROP)),
        ("tensor listed in the other shard", "S-7.5", weight_map(b=TWO)),
        ("tensor in two shards", "S-7.5", several(shard(TWO, put("w", "U8", [2, 2])), index(metadata={}))),
        ("two indices", "S-7.7", lambda model: model.shards.update({"b.safetensors.index.json": plain()})),
        ("two files, no index", "S-7.7", attributes(index=DROP)),
        ("no weights", "S-7.7", attributes(index=DROP, shards={})),
    ]
]

DISAGREEMENT = [
    ModelCase(name, "S-7.6", Kind.METADATA, mutation)
    for name, mutation in {
        "logical shapes differ": shard(TWO, entry(shape=[2, 1, 5])),
        "an ancillary key of one entry": shard(TWO, entry(error="0.25")),
        "ancillary keys 1 and true": several(shard(ONE, entry(x=1)), shard(TWO, entry(x=True))),
        "digests differ": several(
            *(shard(name, document(digests={"tensors": {"w": digit * 64}})) for name, digit in [(ONE, "0"), (TWO, "1")])
        ),
    }.items()
]

UNION = [
    ModelCase(name, rule, kind, mutation)
    for name, rule, kind, mutation in [
        ("file is at fault", "S-10.2", Kind.LAYOUT, shard(TWO, setting(cut=-1))),
        ("shard without a document", "S-7.1", Kind.STRIPPED, shard(TWO, setting(document=DROP))),
        (
            "codes in no shard",
            "S-7.2",
            Kind.METADATA,
            no_codes,
        ),
        (
            "scale in no shard",
            "S-7.2",
            Kind.SCALE,
            several(shard(TWO, lambda raw: raw.tensors.pop("w_scale")), weight_map(w_scale=DROP), index(metadata={})),
        ),
        ("scale of another dtype", "S-4.1", Kind.SCALE, several(shard(TWO, info("w_scale", dtype="U16")))),
        (
            "entry absent from all shards",
            "S-6.3",
            Kind.METADATA,
            several(shard(ONE, document(tensors={})), shard(TWO, document(tensors={}))),
        ),
        (
            "uncalled-for plane in the other shard",
            "S-6.1",
            Kind.NAME,
            several(shard(TWO, put("w_plane2", "U8", [1])), weight_map(w_plane2=TWO), index(metadata={})),
        ),
        ("NaN scale in the other shard", "S-4.2", Kind.SCALE, shard(TWO, poke("w_scale", 0, b"\0\x7e"))),
        ("forbidden code", "S-3.2", Kind.CODE, shard(ONE, poke("w", 0, b"\2"))),
        (
            "earlier shard's document before later shard's header",
            "S-10.2",
            Kind.VERSION,
            several(shard(ONE, document(version="2.0")), shard(TWO, setting(length=0))),
        ),
        ("earlier shard before INDEX", "S-10.2", Kind.LAYOUT, several(shard(TWO, setting(cut=-1)), weight_map(c=ONE))),
        (
            "INDEX before METADATA",
            "S-10.2",
            Kind.INDEX,
            several(index(metadata={"total_size": 1}), shard(TWO, entry(error="1"))),
        ),
        (
            "METADATA before NAME",
            "S-10.2",
            Kind.METADATA,
            several(
                shard(TWO, entry(error="1"), put("w_plane2", "U8", [1])), weight_map(w_plane2=TWO), index(metadata={})
            ),
        ),
        (
            "SCALE before CONFIG",
            "S-10.3",
            Kind.SCALE,
            several(shard(TWO, info("w_scale", dtype="U16")), config(quant_method="gptq")),
        ),
        (
            "CONFIG before CODE",
            "S-10.3",
            Kind.CONFIG,
            several(shard(ONE, poke("w", 0, b"\2")), config(quant_method="gptq")),
        ),
    ]
]

CONFIG = [
    ModelCase(f"config {name}", "S-7.8", Kind.CONFIG, mutation)
    for name, mutation in {
        "is not JSON": attributes(config_bytes=lambda raw: raw + b"}"),
        "is empty": attributes(config_bytes=lambda _: b""),
        "is an array": attributes(config=[]),
        "is not UTF-8": attributes(config_bytes=lambda raw: raw.replace(b"example", b"\xff")),
        "nests 100,000 deep": attributes(config_bytes=lambda _: b"[" * 100_000),
        "has another quant_method": config(quant_method="gptq"),
        "has no quant_method": config(quant_method=DROP),
        "has a quantization_config that is no object": attributes(config={"quantization_config": "ternfmt"}),
        "has another format_version": config(format_version="1.1"),
        "has format_version 1": config(format_version=1),
        "has format_version 1.0, a number": config(format_version=1.0),
        "has format_version null": config(format_version=None),
        "has an array as format_version": config(format_version=["1.0"]),
        "has two quantization_configs": config_text(
            '"model_type"', '"quantization_config": {"quant_method": "ternfmt"}, "model_type"'
        ),
        "has quant_method twice": config_text('"quant_method"', '"quant_method": "ternfmt", "quant_method"'),
        "has format_version twice": config_text('"format_version"', '"format_version": "1.0", "format_version"'),
        "has a key that nobody asks for twice": config_text('"model_type"', '"x": [{"y": 1, "y": 1}], "model_type"'),
        "has a key and its escape": config_text('"model_type"', r'"model\u005ftype": "example", "model_type"'),
        "is UTF-16": attributes(config_bytes=lambda raw: raw.decode().encode("utf-16")),
        "holds an encoded surrogate": attributes(config_bytes=lambda raw: raw.replace(b"example", b"\xed\xa0\xbd")),
        "holds a control character": config_text("example", "\n"),
        "has a trailing comma": config_text("}}", "},}"),
        "disagrees with one of two shards": shard(TWO, document(version="1.1")),
    }.items()
]

MODEL_CASES = [*INDEX_TEXT, *INDEX_FORM, *PATH, *INDEX_SHARDS, *DISAGREEMENT, *UNION, *CONFIG]
