"""The one JSON parser, and canonical JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ternfmt import FormatError, Kind, strict_json
from ternfmt.strict_json import NonInteger, canonical, decode_utf8, parse_object
from ternfmt_conformance.strategies import json_values


def parse(text: str, framed: bool = True) -> dict[str, Any]:
    return parse_object(text, "x", framed=framed)


def kind_of(text: str, framed: bool = True) -> Kind:
    with pytest.raises(FormatError) as caught:
        parse(text, framed)
    return caught.value.kind


@given(st.dictionaries(st.text(max_size=4).filter(lambda s: not has_surrogate(s)), json_values, max_size=4))
def test_canonical_json_is_read_back(value: dict[str, Any]) -> None:
    text = canonical(value)
    assert parse(text) == value
    assert canonical(parse(text)) == text
    assert text.isascii()
    assert text.isprintable()


@given(st.dictionaries(st.sampled_from(["a", "b", "\u00e9", "z", "A", "10", "9"]), st.integers(), max_size=7))
def test_canonical_json_does_not_depend_on_insertion(value: dict[str, int]) -> None:
    assert canonical(dict(reversed(value.items()))) == canonical(value)


def has_surrogate(text: str) -> bool:
    return any(0xD800 <= ord(c) < 0xE000 for c in text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({}, "{}"),
        ({"b": [1, -2, True, False, None], "a": {}}, '{"a":{},"b":[1,-2,true,false,null]}'),
        ({"x": '"\\/\b\t\n\f\r'}, r'{"x":"\"\\/\b\t\n\f\r"}'),
        ({"x": "\x00\x1f\x7f\u00e9\uffff"}, r'{"x":"\u0000\u001f\u007f\u00e9\uffff"}'),
        ({"x": "\U0001f600"}, r'{"x":"\ud83d\ude00"}'),
        # by code point, not by UTF-16 unit
        ({"\U0001f600": 1, "\uffff": 2}, r'{"\uffff":2,"\ud83d\ude00":1}'),
        ({"x": 2**53 - 1}, '{"x":9007199254740991}'),
    ],
)
def test_canonical_json(value: Any, text: str) -> None:
    assert canonical(value) == text


@pytest.mark.parametrize("value", [1.0, float("nan"), {"x": [0.5]}, b"x", {1: 2}, {"x": {None: 1}}, NonInteger("-0")])
def test_canonical_json_holds_nothing_else(value: Any) -> None:
    with pytest.raises(TypeError):
        canonical({"x": value})


@pytest.mark.parametrize("framed", [False, True])
def test_depth_has_a_limit(framed: bool) -> None:
    for opening, closing in (("[", "]"), ('{"x":', "}")):
        inner = opening * 31 + ("0" if opening != "[" else "") + closing * 31
        assert parse('{"x":' + inner + "}", framed)
        assert kind_of('{"x":' + opening + inner + closing + "}", framed) is Kind.JSON


def test_depth_is_counted_in_every_branch() -> None:
    deep = "[" * 32 + "]" * 32
    assert kind_of('{"a":[1,2],"b":{"c":' + deep + '},"d":3}') is Kind.JSON


@pytest.mark.parametrize("digits", [1, 16, 17, 31, 32])
def test_integers_up_to_the_limit_are_exact(digits: int) -> None:
    value = int("9" * digits)
    assert parse(f'{{"x":{value}}}') == {"x": value}
    if digits < 32:
        assert parse(f'{{"x":{-value}}}') == {"x": -value}


@pytest.mark.parametrize("number", ["1" * 33, "-" + "1" * 32, "1" * 5000, "1." + "0" * 31, "1e" + "0" * 5000])
def test_numbers_past_the_limit_are_refused(number: str) -> None:
    assert kind_of(f'{{"x":{number}}}') is Kind.JSON
    assert parse(f'{{"x":"{number}"}}') == {"x": number}


@pytest.mark.parametrize("text", ["-0", "0.0", "-0.0", "1.0", "1e3", "1E+2", "-1.5e-3", "1." + "0" * 30])
def test_other_numbers_keep_their_text(text: str) -> None:
    value = parse(f'{{"x":{text}}}')["x"]
    assert type(value) is NonInteger
    assert value == text
    assert repr(value) != repr(text)


numbers = st.one_of(
    st.integers(-(10**34), 10**34).map(str),
    st.sampled_from(["-0", "0", "-1", "1.5", "-0.0", "1" * 32, "1" * 33, "-" + "1" * 31]),
)


@given(st.lists(numbers, max_size=3), st.lists(st.sampled_from(["", "-0", "-", "0" * 40, "1" * 33]), max_size=2))
def test_the_short_cut_for_integers_changes_nothing(found: list[str], strings: list[str]) -> None:
    text = '{"x":[' + ",".join([*found, *map(json.dumps, strings)]) + "]}"

    def outcome() -> Any:
        try:
            return repr(parse(text))
        except FormatError as error:
            return error.kind

    quick = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strict_json, "_may_hold_odd_integer", lambda text: True)
        assert outcome() == quick


units = st.sampled_from([r"\ud83d", r"\ude00", r"\uD800", r"\uDFFF", r"\u0041", r"\\", r"\n", "a", "u", "\U0001f600"])


@given(st.lists(st.lists(units, max_size=5), min_size=1, max_size=3))
def test_surrogates_must_come_in_pairs(strings: list[list[str]]) -> None:
    text = '{"x":[' + ",".join('"' + "".join(string) + '"' for string in strings) + "]}"
    if has_surrogate("".join(json.loads(text)["x"])):
        assert kind_of(text) is Kind.ENCODING
    else:
        assert parse(text) == json.loads(text)


def test_of_two_faults_the_earlier_is_reported() -> None:
    assert kind_of(r'{"x":"\ud83d","x":1') is Kind.JSON
    assert kind_of(r'{"x":"\ud83d","x":1}}') is Kind.JSON
    assert kind_of(r'{"x":"\ud83d","x":' + "[" * 40 + "]" * 40 + "}") is Kind.JSON
    assert kind_of(r'{"x":"\ud83d","x":1}') is Kind.ENCODING
    assert kind_of(r'{"x":1,"\u0078":1}') is Kind.DUPLICATE


def test_framing() -> None:
    assert parse('{"a": 1}   ') == {"a": 1}
    assert parse('\t\r\n {"a": 1}\n ', framed=False) == {"a": 1}
    for text in (' {"a": 1}', '{"a": 1}\n', '{"a": 1}\0', '{"a": 1}{}', "", " ", "[]", "1", "null"):
        assert kind_of(text) is Kind.JSON
    for text in ('\u00a0{"a": 1}', '{"a": 1}\u2003', '{"a": 1}\x0b', "", "[]"):
        assert kind_of(text, framed=False) is Kind.JSON


@pytest.mark.parametrize(
    "raw",
    [b"\xef\xbb\xbf{}", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"],
)
def test_what_is_not_utf8_is_refused(raw: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        decode_utf8(raw, "x")
    assert caught.value.kind is Kind.ENCODING


def test_utf8_is_decoded() -> None:
    text = "a\u00e9\u20ac\ufeff\uffff\U0001f600\0"
    assert decode_utf8(text.encode(), "x") == text
