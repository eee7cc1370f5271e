"""Cases of level S: hostile files, each to be answered in bounded time and memory (SPEC S-9.1)."""

from __future__ import annotations

import struct
from typing import Any

from .collect import Collector, Recipe, slug

SIZE = 1 << 22
"""Bytes of a hostile header: enough for quadratic time to show, as 17 million million steps."""

SECONDS = 20
HEADER_TIMES = 64
"""SPEC S-9.1: memory is at most the file plus this many times the header."""

SLACK = 32 << 20
"""The runtime's own: allocators round up, and pages come in larger pieces."""

# Title -> class, what the header starts with, the unit that it repeats, what it ends with.
HEADERS: dict[str, tuple[str, str, str, str]] = {
    "spaces": ("STRIPPED", "{}", " ", ""),
    "spaces inside": ("STRIPPED", "{", " ", "}"),
    "line ends after the object": ("JSON", "{}", "\n", ""),
    "small integers": ("TENSOR_INFO", '{"a":[', "7,", "7]}"),
    "large integers": ("TENSOR_INFO", '{"a":[', "12345678901234567,", "7]}"),
    "minus zeros": ("TENSOR_INFO", '{"a":[', "-0,", "7]}"),
    "fractions": ("TENSOR_INFO", '{"a":[', "1.5,", "7]}"),
    "large exponents": ("TENSOR_INFO", '{"a":[', "1e99999999999999999,", "7]}"),
    "strings": ("TENSOR_INFO", '{"a":[', '"ab",', "7]}"),
    "escapes": ("TENSOR_INFO", '{"a":"', "\\n", '"}'),
    "unicode escapes": ("TENSOR_INFO", '{"a":"', "\\u00e9", '"}'),
    "surrogate pairs": ("TENSOR_INFO", '{"a":"', "\\ud83d\\ude00", '"}'),
    "wide characters": ("TENSOR_INFO", '{"a":"', "\U0001f600", '"}'),
    "backslashes": ("TENSOR_INFO", '{"a":"', "\\\\", '"}'),
    "a lone surrogate after many": ("ENCODING", '{"a":"', "\\ud83d\\ude00", '\\ud83d"}'),
    "one long string": ("TENSOR_INFO", '{"a":"', "x", '"}'),
    "one long name": ("NAME", '{"', "x", '":0}'),
    "one long number": ("JSON", '{"a":', "1", "}"),
    "one long fraction": ("JSON", '{"a":0.', "1", "}"),
    "one long exponent": ("JSON", '{"a":1e', "1", "}"),
    "one array left open": ("JSON", '{"a":[', "0,", ""),
    "one string left open": ("JSON", '{"a":"', "x", ""),
    "empty arrays": ("TENSOR_INFO", '{"a":[', "[],", "[]]}"),
    "empty objects": ("TENSOR_INFO", '{"a":[', "{},", "{}]}"),
    "small objects": ("TENSOR_INFO", '{"a":[', '{"":0},', "{}]}"),
    "deep arrays": ("TENSOR_INFO", '{"a":[', "[" * 29 + "]" * 29 + ",", "[]]}"),
    "deep objects": ("TENSOR_INFO", '{"a":[', '{"":' * 29 + "0" + "}" * 29 + ",", "[]]}"),
    "arrays too deep": ("JSON", '{"a":', "[", ""),
    "objects too deep": ("JSON", '{"a":', '{"":', ""),
    "one key again and again": ("DUPLICATE", "{", '"a":0,', '"a":0}'),
    "one key in two spellings": ("DUPLICATE", "{", '"a":0,"\\u0061":0,', '"a":0}'),
    "document too deep": ("JSON", '{"__metadata__":{"ternfmt":"{\\"a\\":', "[", '"}}'),
    "document of spaces": ("METADATA", '{"__metadata__":{"ternfmt":"{', " ", '}"}}'),
    "document with one long number": ("JSON", '{"__metadata__":{"ternfmt":"{\\"a\\":', "1", '}"}}'),
    "document with small objects": (
        "METADATA", '{"__metadata__":{"ternfmt":"{\\"a\\":[', '{\\"\\":0},', '{}]}"}}'),
}  # fmt: skip
REQUIRED_LIST = '{"__metadata__":{"ternfmt":"{\\"version\\":\\"1.0\\",\\"tensors\\":{},\\"required\\":['
HEADERS["features without end"] = ("METADATA", REQUIRED_LIST, '\\"a\\",', '\\"a\\"]}"}}')


def add_budgets(corpus: Collector) -> None:
    """All cases of level S."""
    for title, (kind, start, unit, end) in HEADERS.items():
        rules = ["S-9.1", "S-1.5"] if kind == "JSON" else ["S-9.1"]
        _add(corpus, f"header: {title}", {"class": kind}, _header(start, unit, end), SIZE, rules)
    zeros = {"size": str((1 << 25) + 8), "writes": [{"offset": "0", "hex": struct.pack("<Q", 1 << 25).hex()}]}
    _add(corpus, "header of 2^25 zero bytes", {"class": "JSON"}, zeros, 1 << 25, ["S-9.1", "S-1.4"])
    over = {"size": str((1 << 32) + 8), "writes": [{"offset": "0", "hex": struct.pack("<Q", 1 << 32).hex()}]}
    _add(corpus, "header of 2^32 zero bytes", {"class": "HEADER_LEN"}, over, 0, ["S-9.1", "S-1.2"])
    absent = {"size": "8", "writes": [{"offset": "0", "hex": struct.pack("<Q", 1 << 25).hex()}]}
    _add(corpus, "header of 2^25 bytes that are not there", {"class": "HEADER_LEN"}, absent, 0, ["S-9.1", "S-1.2"])
    text = b'{"a":{"dtype":"U8","shape":[4294967296],"data_offsets":[0,4294967296]}}'.ljust(120)
    huge = struct.pack("<Q", len(text)) + text
    for title, size in (
        ("4 GiB and no document", 1 << 32),
        ("4 GiB and a byte", (1 << 32) + 1),
        ("4 GiB less a byte", (1 << 32) - 1),
    ):
        part = {"size": str(len(huge) + size), "writes": [{"offset": "0", "hex": huge.hex()}]}
        kind = "STRIPPED" if size == 1 << 32 else "LAYOUT"
        _add(corpus, f"data of {title}", {"class": kind}, part, 0, ["S-9.1", "S-1.11"])
    index = {
        "model.safetensors.index.json": _repeated('{"weight_map":{', '"a":"b",', '"a":"b"}}'),
    }
    corpus.case("budget/index-one-key-again-and-again", "index: one key again and again", "S", ["S-9.1", "S-7.3"],
                "validate", {"class": "DUPLICATE"}, path="model.safetensors.index.json", recipe=index,
                budget=_budget(SIZE))  # fmt: skip


def _add(
    corpus: Collector, title: str, expect: dict[str, str], part: dict[str, Any], header: int, rules: list[str]
) -> None:
    recipe: Recipe = {"hostile.safetensors": part}
    corpus.case(f"budget/{slug(title)}", title, "S", rules, "validate", expect, path="hostile.safetensors",
                recipe=recipe, budget=_budget(header))  # fmt: skip


def _budget(header: int) -> dict[str, Any]:
    # Of the file its header is all that these answers take; data need not be touched.
    return {"seconds": SECONDS, "memory_bytes": str(header * (1 + HEADER_TIMES) + SLACK)}


def _header(start: str, unit: str, end: str) -> dict[str, Any]:
    """A file that is a header of about SIZE bytes, padded to a multiple of 64."""
    part = _repeated(start, unit, end)
    padding = -(8 + int(part["size"])) % 64
    length = int(part["size"]) + padding
    writes = [{"offset": "0", "hex": struct.pack("<Q", length).hex()}]
    writes += [{**write, "offset": str(int(write["offset"]) + 8)} for write in part["writes"]]
    if padding:
        writes.append({"offset": str(8 + length - padding), "hex": "20", "repeat": str(padding)})
    return {"size": str(8 + length), "writes": writes}


def _repeated(start: str, unit: str, end: str) -> dict[str, Any]:
    """A text of about SIZE bytes."""
    writes, position = [], 0
    count = SIZE // len(unit.encode())
    for text, repeat in ((start, 1), (unit, count), (end, 1)):
        data = text.encode()
        if data:
            times = {"repeat": str(repeat)} if repeat > 1 else {}
            writes.append({"offset": str(position), "hex": data.hex(), **times})
            position += len(data) * repeat
    return {"size": str(position), "writes": writes}
