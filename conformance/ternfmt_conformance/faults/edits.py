"""Bytes replaced at random, with a liking for what parsers stumble over."""

from __future__ import annotations

from ..optional import st

SPICES = [
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"-", b"+", b"0", b"1", b".0", b"e0", b" ", b"\n", b"\0"),
    *(b"9" * 20, b"null", b"true", b"NaN", b"[]", b"{}", b'""', b"\\u0000", b"\\ud800", b'\\"', b"\xc3\xa9", b"/**/"),
]


@st.composite
def change_bytes(draw: st.DrawFn, text: bytes) -> bytes:
    """One to three places changed in a text."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(SPICES) | st.binary(max_size=2)) + text[at + draw(st.integers(0, 2)) :]
    return text


@st.composite
def change_file(draw: st.DrawFn, file: bytes) -> bytes:
    """A file with its header or its data changed; the stated header length is kept right, or not."""
    length = int.from_bytes(file[:8], "little")
    prefix, header, data = file[:8], file[8 : 8 + length], file[8 + length :]
    where = draw(st.sampled_from(["header", "header, its length kept right", "data", "anywhere"]))
    if where == "header":
        header = draw(change_bytes(header))
    elif where == "header, its length kept right":
        header = draw(change_bytes(header))
        prefix = len(header).to_bytes(8, "little")
    elif where == "data":
        data = draw(change_bytes(data))
    else:
        return draw(change_bytes(file))
    return prefix + header + data
