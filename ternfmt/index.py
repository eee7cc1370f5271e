"""From a path to files: shards, index and folders (SPEC section 7)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from .container import Span
from .errors import FormatError, Kind
from .limits import HEADER_MAX, NAME_MAX
from .strict_json import NonInteger, decode_utf8, parse_object

INDEX_SUFFIX = ".safetensors.index.json"
FILE_SUFFIX = ".safetensors"

_SHARD_NAME = re.compile(r"-[0-9]{5}-of-[0-9]{5}\.safetensors\Z")
_NOT_PLAIN = re.compile(r"[/\\:\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Index:
    """A checked index: which shard holds which stored tensor.

    Attributes:
        path: the index file.
        weight_map: stored tensor name -> shard file name.
        total_size: bytes of all tensors, if stated; a `NonInteger` as it is written.
    """

    path: Path
    weight_map: Mapping[str, str]
    total_size: int | NonInteger | None


@dataclass(frozen=True)
class Source:
    """The files that make up what a path names.

    Attributes:
        path: as the caller gave it.
        files: the safetensors files, by ascending name.
        index: the index, if there is one.
        config: the folder's ``config.json``, if a folder was given and has one.
        whole: a whole model; else one shard of it.
    """

    path: Path
    files: tuple[Path, ...]
    index: Index | None
    config: Path | None
    whole: bool


def is_shard_name(name: str) -> bool:
    """Whether a file of this name is read as a shard (SPEC S-7.2)."""
    return _SHARD_NAME.search(name) is not None


def find_source(path: Path, *, shard: bool | None = None, strict_links: bool = False) -> Source:
    """Find the files behind a path.

    Args:
        path: a safetensors file, an index JSON or a folder.
        shard: read a single file as a shard (True) or as a whole model (False); None decides by name.
        strict_links: refuse shards that are symbolic links (SPEC S-7.4).

    Raises:
        FormatError: PATH, INDEX, or an error of the index's text.
        OSError: the path does not exist or cannot be read.
    """
    if path.is_dir():
        weights = _weights_in(path)
        config = path / "config.json"
        source = find_source(weights, shard=False, strict_links=strict_links)
        return Source(path, source.files, source.index, config if config.is_file() else None, True)
    if not path.name.endswith(INDEX_SUFFIX):
        os.stat(path)
        whole = not (is_shard_name(path.name) if shard is None else shard)
        return Source(path, (path,), None, None, whole)
    index = read_index(path)
    files = tuple(path.parent / name for name in sorted(set(index.weight_map.values())))
    for file in files:
        if strict_links and file.is_symlink():
            raise FormatError(Kind.PATH, str(path), f"shard {file.name!r} is a symbolic link (strict mode)")
    for file in files:
        if not file.is_file():
            raise FormatError(Kind.INDEX, str(path), f"lists shard {file.name!r}, which is not in {path.parent}")
    return Source(path, files, index, None, True)


def read_index(path: Path) -> Index:
    """Read and check an index: SPEC S-10.2 (a) and (b).

    Raises:
        FormatError: ENCODING, JSON, DUPLICATE, INDEX or PATH.
    """
    location = str(path)
    with path.open("rb") as stream:
        raw = stream.read(HEADER_MAX + 1)
    if len(raw) > HEADER_MAX:
        raise FormatError(Kind.INDEX, location, f"more than {HEADER_MAX} bytes")
    value = parse_object(decode_utf8(raw, location), location, framed=False)
    weight_map = value.get("weight_map")
    metadata = value.get("metadata", {})
    if not isinstance(weight_map, dict) or not all(type(v) is str for v in weight_map.values()):
        raise FormatError(Kind.INDEX, location, "weight_map: expected an object of file names")
    if not isinstance(metadata, dict):
        raise FormatError(Kind.INDEX, location, f"metadata: expected an object, got {metadata!r}")
    total_size = metadata.get("total_size")
    if "total_size" in metadata and type(total_size) not in (int, NonInteger):
        raise FormatError(Kind.INDEX, location, f"total_size: expected a number, got {total_size!r}")
    for name in weight_map.values():
        if not _is_plain(name):
            raise FormatError(
                Kind.PATH,
                location,
                f"shard {name[:NAME_MAX]!r}: expected a plain file name in the folder of the index",
            )
    return Index(path, weight_map, total_size)


def check_index(index: Index, spans_by_file: Mapping[Path, Mapping[str, Span]]) -> None:
    """Check the index against its shards: SPEC S-7.5 and ``total_size``.

    Raises:
        FormatError: INDEX.
    """

    def fail(message: str) -> NoReturn:
        raise FormatError(Kind.INDEX, str(index.path), message)

    for name, shard in index.weight_map.items():
        if name not in spans_by_file[index.path.parent / shard]:
            fail(f"lists {name!r} in {shard!r}, which does not hold it")
    total = 0
    for file, spans in spans_by_file.items():
        for name, span in spans.items():
            listed = index.weight_map.get(name)
            if listed != file.name:
                fail(f"{file.name!r} holds {name!r}, which the index lists in {listed!r}")
            total += span.end - span.begin
    if index.total_size is not None and not _equals(index.total_size, total):
        fail(f"total_size {index.total_size}; the shards hold {total} bytes")


def check_config(config: Path, versions: set[str]) -> None:
    """Check ``config.json`` against the files (SPEC S-7.8).

    Raises:
        FormatError: CONFIG.
    """

    def fail(message: str) -> NoReturn:
        raise FormatError(Kind.CONFIG, str(config), message)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError(f"a key occurs twice in one object, of {[key for key, _ in pairs]}")
        return dict(pairs)

    try:
        value = json.loads(config.read_bytes().decode("utf-8-sig"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        fail(f"not JSON: {error}")
    if not isinstance(value, dict):
        fail(f"expected an object, got {type(value).__name__}")
    if "quantization_config" not in value:
        return
    quantization: Any = value["quantization_config"]
    if not isinstance(quantization, dict) or quantization.get("quant_method") != "ternfmt":
        fail(f'quantization_config: expected quant_method "ternfmt", got {quantization!r}')
    stated = quantization.get("format_version")
    if "format_version" in quantization and any(stated != version for version in versions):
        fail(f"format_version {stated!r}; the files are version {sorted(versions)}")


def _equals(number: int | NonInteger, total: int) -> bool:
    """Whether a JSON number has exactly this value (SPEC S-7.3); a large exponent costs no more than a small one."""
    mantissa, _, exponent = str(number).lower().partition("e")
    whole, _, fraction = mantissa.removeprefix("-").partition(".")
    digits = (whole + fraction).lstrip("0")
    significant = digits.rstrip("0")
    if not significant:
        return total == 0
    zeros = int(exponent or 0) - len(fraction) + len(digits) - len(significant)
    # The first test also keeps the last from writing out zeros without end.
    return 0 <= zeros < len(str(total)) and not mantissa.startswith("-") and significant + "0" * zeros == str(total)


def _is_plain(name: str) -> bool:
    return 0 < len(name.encode()) <= NAME_MAX and name not in (".", "..") and not _NOT_PLAIN.search(name)


def _weights_in(folder: Path) -> Path:
    """The one index or safetensors file of a folder (SPEC S-7.7)."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    for suffix in (INDEX_SUFFIX, FILE_SUFFIX):
        candidates = [name for name in names if name.endswith(suffix)]
        if len(candidates) == 1:
            return folder / candidates[0]
        if candidates:
            raise FormatError(Kind.INDEX, str(folder), f"expected one *{suffix}, got {candidates}: name one of them")
    parts = sorted(path.parent.name for path in folder.glob(f"*/*{FILE_SUFFIX}"))
    hint = f": name one of the folders in it: {', '.join(dict.fromkeys(parts))}" if parts else ""
    raise FormatError(Kind.INDEX, str(folder), f"expected one *{INDEX_SUFFIX} or *{FILE_SUFFIX}, got none{hint}")
