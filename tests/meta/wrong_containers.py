"""Readers that get SPEC section 1 wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

from ternfmt.container import DTYPES
from ternfmt.errors import FormatError, Kind
from tests.meta.mutant import Change, Mutant, constant, edit, replace, skip

CONTAINER = "ternfmt.container"
JSON = "ternfmt.strict_json"
PARSE = f"{JSON}:parse_object"
SPANS = f"{CONTAINER}:_make_spans"
LAYOUT = f"{CONTAINER}:_check_layout"


def refusing(kind: Kind, is_refused: Callable[[bytes], bool]) -> Change:
    """Refuse some headers."""

    def make(original: Any) -> Any:
        def parse_header(raw: bytes, file_size: int, file: str) -> Any:
            if is_refused(raw):
                raise FormatError(kind, file, "over-strict")
            return original(raw, file_size, file)

        return parse_header

    return replace(f"{CONTAINER}:parse_header", make)


def names(pattern: str) -> Change:
    return constant(f"{CONTAINER}:_NAME", re.compile(pattern))


class UpToLineEnd:
    """A pattern with `$`, which matches before a final line end."""

    fullmatch = re.compile(r"[\x21-\x7e]{1,255}$").match


def without_dtype(name: str) -> Change:
    def change() -> AbstractContextManager[Any]:
        return mock.patch.dict(DTYPES, {key: value for key, value in DTYPES.items() if key != name}, clear=True)

    return change


def edited_text(edit_text: Callable[[str], str]) -> Change:
    """Parse another text than the file holds."""
    return replace(
        PARSE, lambda original: lambda text, location, *, framed: original(edit_text(text), location, framed=framed)
    )


def refuse_zero_sizes(original: Any) -> Any:
    def check(spans: Any, file: str) -> None:
        original(spans, file)
        if any(0 in span.shape for span in spans.values()):
            raise FormatError(Kind.SIZE, file, "over-strict")

    return check


LENGTHS = [
    Mutant("S-1.1", "short files are HEADER_LEN", edit(f"{CONTAINER}:read_header", ("Kind.PREFIX", "Kind.HEADER_LEN"))),
    Mutant("S-1.2", "header length 0 is let through", edit(f"{CONTAINER}:read_header", ("not 1 <= length", "not 0 <= length"))),
    Mutant(
        "S-1.2",
        "no cap on the header",
        edit(f"{CONTAINER}:read_header", ("min(HEADER_MAX, size - PREFIX_BYTES)", "size - PREFIX_BYTES")),
    ),
    Mutant("S-1.2", "cap one too low", constant(f"{CONTAINER}:HEADER_MAX", (1 << 25) - 1)),
    Mutant("S-1.2", "cap one too high", constant(f"{CONTAINER}:HEADER_MAX", (1 << 25) + 1)),
    Mutant(
        "S-1.2",
        "header length of 32 bits",
        edit(f"{CONTAINER}:read_header", ("    if not 1 <=", "    length &= 0xFFFFFFFF\n    if not 1 <=")),
    ),
    Mutant(
        "S-1.2",
        "header length of 63 bits",
        edit(f"{CONTAINER}:read_header", ("    if not 1 <=", "    length &= 2**63 - 1\n    if not 1 <=")),
    ),
    Mutant(
        "S-1.2",
        "length + 8 wraps",
        edit(
            f"{CONTAINER}:read_header",
            ("not 1 <= length <= min(HEADER_MAX, size - PREFIX_BYTES)",
             "not (length + 8) % 2**64 <= min(HEADER_MAX, size)"),
            ("stream.read(length)", "stream.read(length % 2**31)"),
        ),
    ),
]  # fmt: skip

TEXT = [
    Mutant(
        "S-1.3",
        "byte order mark skipped",
        edit(f"{JSON}:decode_utf8", ("    if raw.startswith", "    raw = raw.removeprefix(codecs.BOM_UTF8)\n    if raw.startswith")),
    ),
    Mutant("S-1.3", "bad UTF-8 replaced", edit(f"{JSON}:decode_utf8", ('"utf-8")', '"utf-8", "replace")'))),
    Mutant("S-1.3", "encoded surrogates let through", edit(f"{JSON}:decode_utf8", ('"utf-8")', '"utf-8", "surrogatepass")'))),
    Mutant("S-1.3", "bad UTF-8 is JSON", edit(f"{JSON}:decode_utf8", ('Kind.ENCODING, location, f"', 'Kind.JSON, location, f"'))),
    Mutant("S-1.3", "lone surrogates let through", skip(f"{JSON}:_check_surrogates")),
    Mutant("S-1.3", "lone surrogates are JSON", edit(f"{JSON}:_check_surrogates", ("Kind.ENCODING", "Kind.JSON"))),
    Mutant(
        "S-1.3",
        "surrogate pairs refused",
        edit(PARSE, ("_check_surrogates(text, location)", "raise FormatError(Kind.ENCODING, location, '')")),
    ),
    Mutant("S-1.3", "escaped backslashes not seen", constant(f"{JSON}:_ESCAPE", re.compile(r"\\u([0-9a-fA-F]{4})"))),
    Mutant("S-1.3", "lower-case surrogates only", constant(f"{JSON}:_SURROGATE_ESCAPE", re.compile(r"\\u[d][89a-f]"))),
    Mutant("S-1.4", "leading white space skipped", edit(PARSE, ("start = 0 if framed else", "start ="))),
    Mutant("S-1.4", "any white space after the object", edit(PARSE, ('" " if framed else " \\t', '" \\t'))),
    Mutant("S-1.4", "Unicode white space after the object", edit(PARSE, ('" " if framed', "None if framed"))),
    Mutant("S-1.4", "zero bytes after the object", edit(PARSE, ('" " if framed', '" \\0" if framed'))),
    Mutant("S-1.4", "anything after the object", edit(PARSE, ("if text[end:]", "if not framed and text[end:]"))),
    Mutant("S-1.4", "control characters in strings", edit(PARSE, ("object_pairs_hook=unique,", "object_pairs_hook=unique, strict=False,"))),
    Mutant("S-1.4", "comments", edited_text(lambda text: text.replace("/**/", ""))),
    Mutant("S-1.4", "trailing commas", edited_text(lambda text: text.replace(",}", "}"))),
    Mutant("S-1.4", "single quotes", edited_text(lambda text: text.replace("'", '"'))),
    Mutant("S-1.4", "plus signs", edited_text(lambda text: text.replace("[+", "["))),
    Mutant("S-1.4", "leading zeros", edited_text(lambda text: re.sub(r"\[0(?=\d)", "[", text))),
    Mutant("S-1.4", "\\x escapes", edited_text(lambda text: text.replace(r"\x", r"\u00"))),
    Mutant("S-1.4", "only the escapes of C", edited_text(lambda text: text.replace(r"\/", r"\!"))),
    Mutant("S-1.4", "DEL refused", refusing(Kind.JSON, lambda raw: b"\x7f" in raw)),
    Mutant("S-1.4", "header must be padded", refusing(Kind.JSON, lambda raw: not raw.endswith(b" "))),
    Mutant("S-1.5", "NaN and Infinity are numbers", edit(PARSE, ('lambda name: fail(f"{name} is not JSON")', "float"))),
    Mutant("S-1.5", "any depth", skip(f"{JSON}:_check_depth")),
    Mutant("S-1.5", "depth of 33", edit(f"{JSON}:_check_depth", ("range(DEPTH_MAX)", "range(DEPTH_MAX + 1)"))),
    Mutant("S-1.5", "depth of 31", edit(f"{JSON}:_check_depth", ("range(DEPTH_MAX)", "range(DEPTH_MAX - 1)"))),
    Mutant("S-1.5", "arrays are not counted", edit(f"{JSON}:_check_depth", ("{dict, list} & kinds", "{dict} & kinds"))),
    Mutant("S-1.5", "numbers of 33 characters", constant(f"{JSON}:NUMBER_CHARS_MAX", 33)),
    Mutant("S-1.5", "numbers of 31 characters", constant(f"{JSON}:NUMBER_CHARS_MAX", 31)),
    Mutant(
        "S-1.5",
        "fractions of any length",
        edit(PARSE, ("def real(literal: str) -> NonInteger:\n        if len(literal)", "def real(literal: str) -> NonInteger:\n        if 0 * len(literal)")),
    ),
    Mutant("S-1.5", "the sign is not counted", edit(PARSE, ("int | NonInteger:\n        if len(literal)", "int | NonInteger:\n        if len(literal.strip('-'))"))),
    Mutant("S-1.6", "of two keys the last wins", edit(PARSE, ("if duplicates:", "if False:"))),
    Mutant("S-1.6", "of two keys the first wins", edit(PARSE, ("result = dict(pairs)", "return dict(reversed(pairs))"))),
    Mutant("S-1.6", "keys twice where values are objects only", edit(PARSE, ("if len(result) != len(pairs)", "if len(result) != len(pairs) and type(pairs[0][1]) is dict"))),
    Mutant("S-1.6", "keys compared before escapes are resolved", edit(PARSE, ("if duplicates:", r"if duplicates and '\\u0' not in text:"))),
    Mutant("S-1.6", "surrogate pairs compared before they are resolved", edit(PARSE, ("if duplicates:", r"if duplicates and '\\ud8' not in text:"))),
    *(
        Mutant("S-1.6", f"keys compared by their {what}", edit(PARSE, (
            "if len(result) != len(pairs):",
            f"if len({{{form} for k, _ in pairs}}) != len(pairs):\n            duplicates.append('')\n        if False:")))
        for what, form in {"lower case": "k.lower()", "normal form": "__import__('unicodedata').normalize('NFC', k)"}.items()
    ),
    Mutant("S-1.6", "a key twice is JSON", edit(PARSE, ("Kind.DUPLICATE", "Kind.JSON"))),
]  # fmt: skip

NAMES = [
    Mutant("S-1.7", "empty names", names(r"[\x21-\x7e]{0,255}")),
    Mutant("S-1.7", "names of 256 bytes", names(r"[\x21-\x7e]{1,256}")),
    Mutant("S-1.7", "names of 254 bytes only", names(r"[\x21-\x7e]{1,254}")),
    Mutant("S-1.7", "names with spaces", names(r"[\x20-\x7e]{1,255}")),
    Mutant("S-1.7", "names with DEL", names(r"[\x21-\x7f]{1,255}")),
    Mutant("S-1.7", "names beyond ASCII", names(r"[^\x00-\x20\x7f]{1,255}")),
    Mutant("S-1.7", "names with letters and dots only", names(r"[A-Za-z0-9_.]{1,255}")),
    Mutant("S-1.7", "names that a language knows refused", names(r"(?!constructor|toString)[\x21-\x7e]{1,255}")),
    Mutant("S-1.7", "names of digits refused", names(r"(?![0-9])[\x21-\x7e]{1,255}")),
    Mutant("S-1.7", "names up to a line end", constant(f"{CONTAINER}:_NAME", UpToLineEnd)),
]

INFOS = [
    Mutant("S-1.8", "unknown keys of a tensor ignored", edit(SPANS, ("info.keys() != _INFO_KEYS", "not info.keys() >= _INFO_KEYS"))),
    Mutant("S-1.8", "2.0 is an integer", edit(PARSE, ("return NonInteger(literal)", "return int(float(literal)) if float(literal).is_integer() else NonInteger(literal)"))),
    Mutant("S-1.8", "-0 is an integer", edit(PARSE, ('_MINUS_ZERO if literal == "-0" else int(literal)', "int(literal)"))),
    Mutant("S-1.8", "true is an integer", edit(SPANS, ("type(i) is int and i >= 0", "isinstance(i, int) and i >= 0"))),
    Mutant("S-1.8", "negative dimensions", edit(SPANS, ("type(i) is int and i >= 0", "type(i) is int"))),
    Mutant("S-1.8", "integers as strings", edit(SPANS, ('    dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]', "    dtype, shape, offsets = info['dtype'], [int(i) if type(i) is str and i.isdigit() else i for i in info['shape']] if type(info['shape']) is list else info['shape'], info['data_offsets']"))),
    Mutant("S-1.8", "more than two offsets", edit(SPANS, ("len(offsets) != 2", "len(offsets) < 2"), ("tuple(shape), *offsets", "tuple(shape), *offsets[:2]"))),
    Mutant("S-1.8", "any rank", constant(f"{CONTAINER}:RANK_MAX", 1000)),
    Mutant("S-1.8", "rank of 8 at most", constant(f"{CONTAINER}:RANK_MAX", 8)),
    Mutant("S-1.9", "dtypes in lower case", edit(SPANS, ('= info["dtype"],', "= str(info['dtype']).upper(),"))),
    Mutant("S-1.9", "dtypes with spaces", edit(SPANS, ('= info["dtype"],', "= str(info['dtype']).strip(),"))),
    Mutant("S-1.9", "F4 is a byte", edit(SPANS, ('= info["dtype"],', "= {'F4': 'U8'}.get(str(info['dtype']), info['dtype']),"))),
    *(Mutant("S-1.9", f"{name} unknown", without_dtype(name)) for name in ("C64", "F8_E8M0", "F8_E5M2", "U16", "BOOL")),
    Mutant("S-1.10", "products wrap at 2^64", replace(f"{CONTAINER}:nbytes", lambda original: lambda dtype, shape: original(dtype, shape) % 2**64)),
    Mutant("S-1.10", "a zero hides the other dimensions", edit(SPANS, ("[d or 1 for d in span.shape]", "span.shape"))),
    Mutant("S-1.10", "a zero hides the dimensions after it", edit(SPANS, ("[d or 1 for d in span.shape]", "(span.shape + (0,))[: (span.shape + (0,)).index(0)]"))),
    Mutant("S-1.10", "offsets of any size", edit(SPANS, (" or span.end > INTEGER_MAX or span.begin > INTEGER_MAX", ""))),
    Mutant("S-1.10", "dimensions of 31 bits", constant(f"{CONTAINER}:INTEGER_MAX", 2**31 - 1)),
    Mutant("S-1.10", "the dtype's bytes left out", edit(SPANS, ("nbytes(span.dtype, [", "nbytes('U8', ["))),
]  # fmt: skip

LAYOUTS = [
    Mutant("S-1.11", "gaps", edit(LAYOUT, ("begin != position", "begin < position"))),
    Mutant("S-1.11", "overlaps", edit(LAYOUT, ("begin != position", "begin > position"))),
    Mutant("S-1.11", "bytes after the last tensor", edit(LAYOUT, ("position != file_size", "position > file_size"))),
    Mutant("S-1.11", "end before begin", edit(LAYOUT, (" or end < begin", ""))),
    Mutant("S-1.11", "tensors without bytes anywhere", edit(LAYOUT, ("for name, span in spans.items()):", "for name, span in spans.items() if span.end > span.begin):"))),
    Mutant("S-1.11", "two tensors without bytes in one place refused", edit(LAYOUT, ("position = end", "position = max(end, begin + 1)"))),
    Mutant("S-1.11", "bytes where there are no tensors", edit(LAYOUT, ("    if data_start + position != file", "    if spans and data_start + position != file"))),
    Mutant("S-1.12", "alignment not checked", edit(LAYOUT, ("if (data_start + span.begin) %", "if 0 %"))),
    Mutant("S-1.12", "alignment in the data section", edit(LAYOUT, ("(data_start + span.begin) %", "span.begin %"))),
    Mutant("S-1.12", "alignment of tensors with bytes only", edit(LAYOUT, ("if (data_start", "if span.end > span.begin and (data_start"))),
    Mutant("S-1.12", "alignment to half the size", edit(LAYOUT, ("_ITEM_BYTES[span.dtype]:", "max(1, _ITEM_BYTES[span.dtype] // 2):"))),
    Mutant("S-1.13", "sizes not checked", skip(f"{CONTAINER}:_check_sizes")),
    Mutant("S-1.13", "more bytes than the shape takes", edit(f"{CONTAINER}:_check_sizes", ("span.begin != nbytes", "span.begin < nbytes"))),
    Mutant("S-1.13", "fewer bytes than the shape takes", edit(f"{CONTAINER}:_check_sizes", ("span.begin != nbytes", "span.begin > nbytes"))),
    Mutant("S-1.13", "rank 0 has no element", replace(f"{CONTAINER}:nbytes", lambda original: lambda dtype, shape: original(dtype, shape or [0]))),
    Mutant("S-1.13", "dimensions of 0 refused", replace(f"{CONTAINER}:_check_sizes", refuse_zero_sizes)),
    Mutant("S-1.14", "header in the data's order only", edit(LAYOUT, ("in sorted((span", "in list((span"))),
    Mutant("S-1.14", "padding to 8 only", refusing(Kind.LAYOUT, lambda raw: len(raw) % 8 != 0)),
    Mutant("S-1.14", "padding to 64 only", refusing(Kind.LAYOUT, lambda raw: len(raw) % 64 != 56)),
    Mutant("S-1.14", "no line ends", refusing(Kind.JSON, lambda raw: b"\n" in raw)),
    Mutant("S-1.14", "no escapes", refusing(Kind.JSON, lambda raw: b"\\u" in raw)),
    Mutant("S-1.14", "metadata first", refusing(Kind.JSON, lambda raw: not raw.startswith(b'{"__metadata__"'))),
    Mutant("S-1.14", "spaces after commas and colons", refusing(Kind.JSON, lambda raw: b'"dtype": "' not in raw)),
    Mutant("S-1.14", "keys of a tensor in one order", edit(SPANS, ("info.keys() != _INFO_KEYS", "list(info) != ['dtype', 'shape', 'data_offsets']"))),
]  # fmt: skip

WRONG_CONTAINERS = [*LENGTHS, *TEXT, *NAMES, *INFOS, *LAYOUTS]
