"""JSON as SPEC section 1 reads it and section 11 writes it.

The standard parser does the work; this module adds what it lets through: duplicate keys, NaN, unpaired
surrogates, unbounded depth and unbounded numbers.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable
from itertools import chain
from typing import Any, NoReturn

import numpy as np

from .errors import FormatError, Kind
from .limits import DEPTH_MAX, NUMBER_CHARS_MAX

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)")
_PAIRS = json.JSONDecoder(object_pairs_hook=tuple)
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


class NonInteger(str):
    """The text of a JSON number that is not a plain integer: ``2.0``, ``1e3``, ``-0``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"NonInteger({str.__repr__(self)})"


_MINUS_ZERO = NonInteger("-0")


def decode_utf8(raw: bytes, location: str) -> str:
    """Decode UTF-8 without byte order mark (SPEC S-1.3).

    Raises:
        FormatError: ENCODING.
    """
    if raw.startswith(codecs.BOM_UTF8):
        raise FormatError(Kind.ENCODING, location, "starts with a byte order mark; expected none")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(Kind.ENCODING, location, f"not UTF-8 at byte {error.start}: {error.reason}") from None


def parse_object(text: str, location: str, *, framed: bool) -> dict[str, Any]:
    """Parse one JSON object; numbers that are not plain integers become `NonInteger`.

    Args:
        text: the JSON text.
        location: for error messages.
        framed: first character ``{`` and nothing but spaces after the last ``}`` (SPEC S-1.4); else any
            JSON white space around the object.

    Raises:
        FormatError: JSON, ENCODING or DUPLICATE, checked in this order (SPEC section 10, steps 4 to 6).
    """
    duplicates: list[str] = []

    def fail(message: str) -> NoReturn:
        raise FormatError(Kind.JSON, location, message)

    def integer(literal: str) -> int | NonInteger:
        if len(literal) > NUMBER_CHARS_MAX:
            fail(f"number of {len(literal)} characters; at most {NUMBER_CHARS_MAX}")
        return _MINUS_ZERO if literal == "-0" else int(literal)

    def real(literal: str) -> NonInteger:
        if len(literal) > NUMBER_CHARS_MAX:
            fail(f"number of {len(literal)} characters; at most {NUMBER_CHARS_MAX}")
        return NonInteger(literal)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            duplicates.append(next(k for k, _ in pairs if k in seen or seen.add(k)))  # type: ignore[func-returns-value]
        return result

    decoder = json.JSONDecoder(
        object_pairs_hook=unique,
        parse_int=integer if _may_hold_odd_integer(text) else int,
        parse_float=real,
        parse_constant=lambda name: fail(f"{name} is not JSON"),
    )
    start = 0 if framed else len(text) - len(text.lstrip(" \t\n\r"))
    try:
        value, end = decoder.raw_decode(text, start)
    except json.JSONDecodeError as error:
        fail(f"{error.msg} at character {error.pos}")
    except RecursionError:
        fail(f"nested deeper than {DEPTH_MAX}")
    if not isinstance(value, dict):
        fail(f"expected an object, got {type(value).__name__}")
    if text[end:].strip(" " if framed else " \t\n\r"):
        fail(f"unexpected text after the object, at character {end}")
    _check_depth(value, location)
    if _SURROGATE_ESCAPE.search(text):
        _check_surrogates(text, location)
    if duplicates:
        raise FormatError(Kind.DUPLICATE, location, f"key {duplicates[0]!r} occurs twice in one object")
    return value


def parse_pairs(text: str) -> tuple[tuple[str, Any], ...] | None:
    """A framed object as the standard parser reads it, objects as tuples of pairs, arrays as lists.

    For fast paths: None where only `parse_object` can tell. Left to the caller are duplicate keys, depth, unpaired
    surrogates, and numbers of too many digits or with a fraction, which come as floats.
    """
    if "-" in text and "-0" in text:  # the first test is the cheaper one, and mostly enough
        return None
    try:
        pairs, end = _PAIRS.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return pairs if type(pairs) is tuple and not text[end:].strip(" ") else None


def unique_keys(pairs: Any) -> dict[str, Any] | None:
    """The dict of an object from `parse_pairs`; None where a key occurs twice or ``pairs`` is another kind of value."""
    if type(pairs) is not tuple:
        return None
    value = dict(pairs)
    return value if len(value) == len(pairs) else None


def consist_of(strings: Iterable[str], characters: bytes) -> bool:
    """Whether the strings hold no character but these ASCII ones; faster than a pattern for each string."""
    text = "".join(strings)
    return text.isascii() and not text.encode().translate(None, characters)


def canonical(value: Any) -> str:
    """Canonical JSON (SPEC S-11.1) of a value made of dict, list, str, int, bool and None.

    Raises:
        TypeError: ``value`` holds a float or anything else that the format does not store.
    """
    _refuse_floats(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _may_hold_odd_integer(text: str) -> bool:
    """Whether some integer could be ``-0`` or too long; a cheap test that spares a call for each integer."""
    raw = text.encode("utf-8", "surrogatepass")
    run = np.frombuffer(raw, np.uint8) - np.uint8(ord("0")) < 10
    length = 1
    while length < NUMBER_CHARS_MAX and run.any():  # run[i]: the `length` characters from i on are digits
        run = run[:-length] & run[length:]
        length *= 2
    return (b"-" in raw and b"-0" in raw) or bool(run.any())


def _check_depth(value: dict[str, Any], location: str) -> None:
    dicts: list[dict[str, Any]] = [value]
    lists: list[list[Any]] = []
    for _ in range(DEPTH_MAX):
        children = [*chain.from_iterable(map(dict.values, dicts)), *chain.from_iterable(lists)]
        kinds = set(map(type, children))
        if not {dict, list} & kinds:
            return
        dicts = [child for child in children if type(child) is dict] if dict in kinds else []
        lists = [child for child in children if type(child) is list] if list in kinds else []
    raise FormatError(Kind.JSON, location, f"nested deeper than {DEPTH_MAX}")


def _check_surrogates(text: str, location: str) -> None:
    """Backslashes occur only inside strings of valid JSON, so scanning the text for escapes is enough."""

    def fail() -> NoReturn:
        raise FormatError(Kind.ENCODING, location, "a \\u escape stands for an unpaired surrogate")

    high_ends_at: int | None = None
    for match in _ESCAPE.finditer(text):
        unit = int(match[1], 16) if match[1] else 0
        if (high_ends_at == match.start()) != (0xDC00 <= unit <= 0xDFFF):
            fail()
        if high_ends_at not in (None, match.start()):
            fail()
        high_ends_at = match.end() if 0xD800 <= unit <= 0xDBFF else None
    if high_ends_at is not None:
        fail()


def _refuse_floats(value: Any) -> None:
    if isinstance(value, dict):
        for key, child in value.items():
            if not isinstance(key, str):
                raise TypeError(f"metadata holds the key {key!r}; expected a string")
            _refuse_floats(child)
    elif isinstance(value, (list, tuple)):
        for child in value:
            _refuse_floats(child)
    elif not isinstance(value, (str, int, type(None))) or isinstance(value, NonInteger):
        raise TypeError(f"metadata holds {value!r}; store numbers that are not integers as strings")
