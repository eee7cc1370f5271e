"""The metadata document (SPEC section 2): what the header's ``ternfmt`` string says."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn

from .container import Header
from .errors import FormatError, Kind
from .limits import GROUP_MULTIPLE, INTEGER_MAX, K_MAX, PLANES_MAX, RANK_MAX
from .strict_json import NonInteger, consist_of, parse_object

VERSION = "1.0"
FEATURES = frozenset({"group-scale", "planes", "low-rank"})
KEY = "ternfmt"

_VERSION = re.compile(r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """What the document says of one ternary tensor (SPEC S-2.4).

    Attributes:
        shape: logical shape.
        group_size: columns that share a scale, or None.
        planes: number of planes that add up.
        low_rank: rank R of the low-rank term, or None.
        ancillary: keys this version does not know, preserved.
    """

    shape: tuple[int, ...]
    group_size: int | None = None
    planes: int = 1
    low_rank: int | None = None
    ancillary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Rows."""
        return self.shape[0]

    @cached_property
    def k(self) -> int:
        """Columns."""
        return math.prod(self.shape[1:])

    @cached_property
    def scale_shape(self) -> tuple[int, ...]:
        """``(N,)``, or ``(N, ceil(K/group_size))``."""
        return (self.n,) if self.group_size is None else (self.n, -(-self.k // self.group_size))

    @property
    def features(self) -> set[str]:
        """The features of SPEC section 5 that this entry uses."""
        used = {
            "group-scale": self.group_size is not None,
            "planes": self.planes > 1,
            "low-rank": self.low_rank is not None,
        }
        return {name for name, is_used in used.items() if is_used}

    def to_json(self) -> dict[str, Any]:
        """The entry as the document writes it."""
        value: dict[str, Any] = {**self.ancillary, "shape": list(self.shape), "encoding": "int2"}
        if self.group_size is not None:
            value["group_size"] = self.group_size
        if self.planes > 1:
            value["planes"] = self.planes
        if self.low_rank is not None:
            value["low_rank"] = self.low_rank
        return value


@dataclass(frozen=True)
class Document:
    """A checked metadata document.

    Attributes:
        version: ``"major.minor"``.
        required: features a reader must know.
        entries: the ternary tensors by name.
        tensor_digests: SHA-256 of stored tensors' bytes, by name.
        header_digest: SHA-256 of the header (SPEC S-8.2), or None.
        ancillary: all other keys, ``producer``, ``source`` and ``encoder`` among them, preserved.
    """

    version: str = VERSION
    required: tuple[str, ...] = ()
    entries: Mapping[str, Entry] = field(default_factory=dict)
    tensor_digests: Mapping[str, str] = field(default_factory=dict)
    header_digest: str | None = None
    ancillary: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The document as JSON values."""
        value: dict[str, Any] = {
            **self.ancillary,
            "version": self.version,
            "required": list(self.required),
            "tensors": {name: entry.to_json() for name, entry in self.entries.items()},
        }
        digests: dict[str, Any] = {}
        if self.tensor_digests:
            digests["tensors"] = dict(self.tensor_digests)
        if self.header_digest is not None:
            digests["header"] = self.header_digest
        if digests:
            value["digests"] = digests
        return value


def parse_document(header: Header) -> Document:
    """Read and check the metadata document: SPEC section 10, steps 13 to 20.

    Raises:
        FormatError: the class of the first failing step.
    """
    if KEY not in header.metadata:
        raise FormatError(
            Kind.STRIPPED,
            header.file,
            f"no {KEY!r} in __metadata__: not a ternfmt file, or a tool dropped its metadata when copying. "
            "If it was one, `ternfmt canonicalize FILE OUT --rebuild --like ORIGINAL` restores it",
        )
    location = f"{header.file}: metadata document"
    value = parse_object(header.metadata[KEY], location, framed=True)
    version = _parse_version(value.pop("version", None), location)
    required = _parse_required(value.pop("required", None), location)
    entries_json = _expect_object(value.pop("tensors", None), "tensors", location)
    entries = _parse_entries(entries_json, location)
    tensor_digests, header_digest = _parse_digests(value.pop("digests", {}), location)
    _check_numbers(value, location)
    _check_listed(entries, required, location)
    return Document(version, required, entries, tensor_digests, header_digest, value)


def _parse_version(version: Any, location: str) -> str:
    match = _VERSION.fullmatch(version) if type(version) is str else None  # not NonInteger
    if match is None:
        _fail(location, f'version: expected "major.minor", got {version!r}')
    if match[1] != VERSION.split(".")[0]:
        raise FormatError(Kind.VERSION, location, f"version {version}; this reader knows 1.x: update ternfmt")
    return match[0]


def _parse_required(required: Any, location: str) -> tuple[str, ...]:
    if (
        not isinstance(required, list)
        or not all(type(f) is str for f in required)
        or len(set(required)) != len(required)
    ):
        _fail(location, f"required: expected an array of distinct strings, got {required!r}")
    unknown = sorted(set(required) - FEATURES)
    if unknown:
        raise FormatError(
            Kind.FEATURE,
            location,
            f"requires {unknown}, which this reader lacks (it knows {sorted(FEATURES)}): update ternfmt",
        )
    return tuple(required)


def _check_numbers(value: dict[str, Any], location: str) -> None:
    """Check the numbers in ancillary keys and digests; those of other keys have limits of their own."""
    pending: list[Any] = [value]
    while pending:
        item = pending.pop()
        if type(item) is dict:
            pending.extend(item.values())
        elif type(item) is list:
            pending.extend(item)
        elif type(item) is NonInteger or (type(item) is int and abs(item) > INTEGER_MAX):
            _fail(location, f"number {item}: expected an integer of magnitude <= {INTEGER_MAX}")


def _parse_entries(value: dict[str, Any], location: str) -> dict[str, Entry]:
    """Every entry; the many that are alike share one `Entry`."""
    known: dict[str, Entry] = {}
    entries: dict[str, Entry] = {}
    for name, entry_json in value.items():
        text = repr(entry_json)
        if text not in known:
            known[text] = _parse_entry(entry_json, f"{location}: tensor {name!r}")
        entries[name] = known[text]
    return entries


def _check_listed(entries: Mapping[str, Entry], required: tuple[str, ...], location: str) -> None:
    """Step 20; entries that are one object are looked at once."""
    for entry in {id(entry): entry for entry in entries.values()}.values():
        for feature in sorted(entry.features.difference(required)):
            name = next(name for name, other in entries.items() if other is entry)
            raise FormatError(
                Kind.FEATURE,
                f"{location}: tensor {name!r}",
                f"uses {feature!r}, which `required` = {list(required)} does not list",
            )


def _parse_entry(entry: Any, location: str) -> Entry:
    rest = dict(_expect_object(entry, "entry", location))
    shape = rest.pop("shape", None)
    if type(shape) is not list or not 2 <= len(shape) <= RANK_MAX or set(map(type, shape)) != {int} or min(shape) < 1:
        _fail(location, f"shape: expected 2 to {RANK_MAX} integers >= 1, got {shape!r}")
    encoding = rest.pop("encoding", None)
    if encoding != "int2":
        _fail(location, f'encoding: expected "int2", got {encoding!r}')
    k = math.prod(shape[1:])
    if k > K_MAX or shape[0] * k > INTEGER_MAX:
        _fail(location, f"shape {shape}: K = {k}, at most {K_MAX}; N * K at most {INTEGER_MAX}")
    group_size = _optional_integer(rest, "group_size", GROUP_MULTIPLE, K_MAX, location)
    if group_size is not None and group_size % GROUP_MULTIPLE:
        _fail(location, f"group_size: expected a multiple of {GROUP_MULTIPLE}, got {group_size}")
    planes = _optional_integer(rest, "planes", 2, PLANES_MAX, location)
    low_rank = _optional_integer(rest, "low_rank", 1, k, location)
    _check_numbers(rest, location)
    return Entry(tuple(shape), group_size, planes or 1, low_rank, rest)


def _optional_integer(entry: dict[str, Any], key: str, low: int, high: int, location: str) -> int | None:
    if key not in entry:
        return None
    value = entry.pop(key)
    if type(value) is not int or not low <= value <= high:
        _fail(location, f"{key}: expected an integer from {low} to {high}, got {value!r}")
    return value


def _parse_digests(digests: Any, location: str) -> tuple[dict[str, str], str | None]:
    digests = _expect_object(digests, "digests", location)
    tensors = _expect_object(digests.get("tensors", {}), "digests.tensors", location)
    _check_numbers({key: digests[key] for key in digests.keys() - {"tensors"}}, location)
    values = [*tensors.values(), *([digests["header"]] if "header" in digests else [])]
    if set(map(type, values)) - {str}:
        _fail(location, "digests: expected strings")
    plain = set(map(len, values)) == {64} and consist_of(values, b"0123456789abcdef")  # as the pattern, but at once
    if not plain and not all(map(_DIGEST.fullmatch, values)):
        _fail(location, "digests: expected 64 lower-case hex digits each")
    return tensors, digests.get("header")


def _expect_object(value: Any, what: str, location: str) -> dict[str, Any]:
    if type(value) is not dict:
        _fail(location, f"{what}: expected an object, got {value!r}")
    return value


def _fail(location: str, message: str) -> NoReturn:
    raise FormatError(Kind.METADATA, location, message)
