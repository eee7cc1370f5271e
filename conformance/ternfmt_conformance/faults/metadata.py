"""Faults that show in SPEC section 10, steps 12 to 20."""

from __future__ import annotations

from typing import Any

from ternfmt.errors import Kind
from ternfmt.limits import INTEGER_MAX, K_MAX, PLANES_MAX, RANK_MAX
from ternfmt.metadata import FEATURES

from ..files.raw import DROP, RawFile
from ..optional import st
from .fault import Fault, entries

_NOT_OBJECTS = [None, True, 1, "", [], ["tensors"]]
_BAD_SHAPES: list[Any] = [None, [], [4], [0, 4], [1, "4"], [1, True], [1, K_MAX + 1], [1] * (RANK_MAX + 1)]
_BAD_ENTRIES: list[dict[str, Any]] = [
    {"encoding": "int3"},
    {"encoding": None},
    {"encoding": DROP},
    {"shape": DROP},
    *({"shape": shape} for shape in _BAD_SHAPES),
    *({"shape": [INTEGER_MAX, 2]}, {"shape": [1, 2**12, 2**12]}),
    *({"group_size": value} for value in (None, 0, -16, 8, 17, "16", True, K_MAX)),
    *({"planes": value} for value in (None, 0, 1, PLANES_MAX + 1, "2", "x")),
    *({"low_rank": value} for value in (None, 0, -1, K_MAX, "1")),
]


def _not_text(draw: st.DrawFn, raw: RawFile) -> None:
    values: list[Any] = [None, 1, True, [], {}]
    key, value = draw(st.sampled_from(["format", "ternfmt", "x"])), draw(st.sampled_from(values))
    raw.header_edits.append(lambda header: header["__metadata__"].update({key: value}))


def _strip(draw: st.DrawFn, raw: RawFile) -> None:
    raw.document = DROP


def _not_an_object(draw: st.DrawFn, raw: RawFile) -> None:
    raw.document = draw(st.sampled_from(_NOT_OBJECTS))


def _bad_version(draw: st.DrawFn, raw: RawFile) -> None:
    texts = ["", "1", "1.", ".0", "01.0", "1.00", "+1.0", "1.0 ", "1.0.0", "1,0", "v1.0"]
    _set(draw, raw, "version", [*texts, 1, None, ["1.0"], DROP])


def _other_version(draw: st.DrawFn, raw: RawFile) -> None:
    major = draw(st.just(0) | st.integers(2, 10**30))
    raw.document["version"] = f"{major}.{draw(st.integers(0, 99))}"


def _bad_required(draw: st.DrawFn, raw: RawFile) -> None:
    _set(draw, raw, "required", [None, "planes", {}, [1], [None], [["planes"]], ["planes", "planes"], DROP])


def _unknown_feature(draw: st.DrawFn, raw: RawFile) -> None:
    texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=9).filter(lambda text: text not in FEATURES)
    unknown = draw(st.sampled_from(["Planes", "example.org/rotation", "planes "]) | texts)
    raw.document["required"].insert(draw(st.integers(0, 3)), unknown)


def _unlisted_feature(draw: st.DrawFn, raw: RawFile) -> None:
    raw.document["required"].remove(draw(st.sampled_from(raw.document["required"])))


def _bad_tensors(draw: st.DrawFn, raw: RawFile) -> None:
    _set(draw, raw, "tensors", [None, True, [], ["w"], "w", {"w": None}, {"w": []}, {"w": {}}, DROP])


def _bad_entry(draw: st.DrawFn, raw: RawFile) -> None:
    entry = draw(st.sampled_from(list(entries(raw).values())))
    entry.update(draw(st.sampled_from(_BAD_ENTRIES)))
    for key in [key for key, value in entry.items() if value is DROP]:
        del entry[key]


def _bad_number(draw: st.DrawFn, raw: RawFile) -> None:
    value = draw(st.sampled_from([0.5, 1.0, 1e300, INTEGER_MAX + 1, -INTEGER_MAX - 1, -0.0]))
    raw.document["note"] = draw(st.sampled_from([value, [value], {"x": [None, {"": value}]}]))


def _bad_digests(draw: st.DrawFn, raw: RawFile) -> None:
    digest = draw(st.sampled_from([None, 1, "", "0" * 63, "0" * 65, "A" * 64, "g" * 64]))
    shapes: list[Any] = [None, [], {"header": digest}, {"tensors": {"w": digest}}, {"tensors": None}, {"tensors": []}]
    _set(draw, raw, "digests", shapes)


def _set(draw: st.DrawFn, raw: RawFile, key: str, values: list[Any]) -> None:
    value = draw(st.sampled_from(values))
    raw.document.pop(key, None)
    if value is not DROP:
        raw.document[key] = value


METADATA_FAULTS = (
    Fault("metadata that is not text", Kind.METADATA, "S-2.1", _not_text),
    Fault("no document", Kind.STRIPPED, "S-2.2", _strip),
    Fault("document that is no object", Kind.JSON, "S-2.2", _not_an_object),
    Fault("form of the version", Kind.METADATA, "S-2.3", _bad_version),
    Fault("another major version", Kind.VERSION, "S-13.1", _other_version),
    Fault("form of required", Kind.METADATA, "S-2.3", _bad_required),
    Fault("unknown feature", Kind.FEATURE, "S-5.1", _unknown_feature),
    Fault("feature used, not listed", Kind.FEATURE, "S-5.1", _unlisted_feature, lambda raw: raw.document["required"]),
    Fault("form of tensors", Kind.METADATA, "S-2.3", _bad_tensors),
    Fault("form of an entry", Kind.METADATA, "S-2.4", _bad_entry, entries),
    Fault("number that is no integer", Kind.METADATA, "S-2.3", _bad_number),
    Fault("form of digests", Kind.METADATA, "S-8.1", _bad_digests),
)
