"""Which level, rule and features the right answer to a question depends on."""

from __future__ import annotations

from pathlib import Path

from ternfmt.container import read_header
from ternfmt.errors import FormatError
from ternfmt.reader import open_model
from ternfmt.validate import validate

from ..driver import SPEC_FEATURES
from .subject import Subject

SHARD_READINGS = {"auto": None, "whole": False, "shard": True}

RULES = {
    "PREFIX": "S-1.1",
    "HEADER_LEN": "S-1.2",
    "ENCODING": "S-1.3",
    "JSON": "S-1.4",
    "DUPLICATE": "S-1.6",
    "NAME": "S-1.7",
    "TENSOR_INFO": "S-1.8",
    "OVERFLOW": "S-1.10",
    "LAYOUT": "S-1.11",
    "SIZE": "S-1.13",
    "STRIPPED": "S-2.2",
    "VERSION": "S-13.1",
    "FEATURE": "S-5.1",
    "METADATA": "S-2.3",
    "SCALE": "S-4.2",
    "CODE": "S-3.2",
    "PADDING": "S-3.5",
    "PATH": "S-7.4",
    "INDEX": "S-7.3",
    "CONFIG": "S-7.8",
    "DIGEST": "S-8.1",
}
"""Error class -> the rule most likely broken: a first guess for whoever freezes the case."""

OP_RULES = {"validate": "S-1.14", "describe": "S-3.4", "unpack": "S-3.4", "dequantize": "S-4.6", "matmul": "S-12.3"}
"""Operation -> the rule that decides its values, where the file is valid."""


def level_of(path: Path, subject: Subject) -> str:
    """The lowest level at which ``validate`` must give the right answer."""
    if path.is_dir() or path.name.endswith(".json"):
        return "R3"
    try:
        with path.open("rb") as stream:
            read_header(stream, str(path))
    except FormatError:
        return "R0"
    shard = SHARD_READINGS[subject.read_as]
    try:
        open_model(path, shard=shard).close()
    except FormatError:
        return "R1"
    try:
        validate(path, subject.digests, shard=shard)
    except FormatError:
        return "R2"
    return "R0"


def features_of(path: Path, subject: Subject) -> list[str]:
    """The features that a reader must know to come to the right answer: none where the model cannot be opened."""
    try:
        with open_model(path, shard=SHARD_READINGS[subject.read_as]) as model:
            required = {feature for document in model.documents for feature in document.required}
    except FormatError:
        return []
    return sorted(required.intersection(SPEC_FEATURES))
