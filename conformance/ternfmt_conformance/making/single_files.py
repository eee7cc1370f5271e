"""Cases about one file: those at fault, those with two faults, and the valid ones with their values."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from ternfmt_conformance.files.bad_documents import DOCUMENT_CASES, TEXT
from ternfmt_conformance.files.bad_headers import HEADER_CASES, Case
from ternfmt_conformance.files.bad_tensors import ORDER, TENSOR_CASES
from ternfmt_conformance.files.decode import Decoder
from ternfmt_conformance.files.good import CONTAINER, METADATA, VALUES, Good
from ternfmt_conformance.files.raw import features

from .collect import Collector, slug
from .expect import dequantized, description, sha256

ALL_FEATURES = ("group-scale", "low-rank", "planes")
R0_CLASSES = (
    *("PREFIX", "HEADER_LEN", "ENCODING", "JSON", "DUPLICATE", "NAME", "TENSOR_INFO", "OVERFLOW", "LAYOUT", "SIZE"),
)
R2_CLASSES = ("CODE", "PADDING", "DIGEST")
FLOATS = ("F32", "F16", "BF16")

# One fault for each step of SPEC section 10, in its order; of two faults the earlier step's is reported.
HEADER_STEPS = [
    "seven bytes",
    "length 0",
    "byte 0xff",
    "NaN",
    "high surrogate alone",
    "tensor name twice",
    "name with a space",
    "dtype missing",
    "end past 2^53-1",
    "header length odd",
    "span longer than shape",
    "__metadata__ with a number",
]
DOCUMENT_STEPS = [
    "__metadata__ with a number",
    "document is not JSON",
    "document has a lone surrogate",
    "document has a key twice",
    "version absent",
    "version 2.0",
    "required absent",
    "unknown feature",
    "encoding absent",
    "planes not listed",
    "codes of an uncalled-for plane",
    "codes of rank 1",
    "scale of dtype F64",
    "NaN scale",
    "forbidden code in the first lane",
    "padding in the last lane",
    "tensor digest differs",
]
# Pairs that are not neighbours, and readers that check as they go get wrong.
FAR_STEPS = [
    ("byte 0xff", "__metadata__ with a number"),
    ("NaN", "span longer than shape"),
    ("tensor name twice", "header length odd"),
    ("name with a space", "span longer than shape"),
    ("header length odd", "__metadata__ with a number"),
    ("version 2.0", "document has a lone surrogate"),
    ("version 2.0", "encoding absent"),
    ("encoding absent", "codes of rank 1"),
    ("codes of an uncalled-for plane", "scale of dtype F64"),
    ("codes of rank 1", "NaN scale"),
    ("scale of dtype F64", "forbidden code in the first lane"),
    ("forbidden code in the first lane", "tensor digest differs"),
]
# Valid files whose values are asked for in every float dtype; of the others, in F32.
EVERY_DTYPE = ("scale F16", "scale BF16", "scale F32", "largest scale F32", "subnormal scale", "codes under scale 0")


def add_single_files(corpus: Collector) -> None:
    """All cases about one file."""
    for table, in_header in ((HEADER_CASES, True), (DOCUMENT_CASES, False), (TENSOR_CASES, False)):
        for case in table:
            _add_bad(corpus, case, in_header)
    by_name = {case.name: case for case in [*HEADER_CASES, *DOCUMENT_CASES, *TENSOR_CASES]}
    pairs = [*pairwise(HEADER_STEPS), *pairwise(DOCUMENT_STEPS)]
    pairs += [pair if _position(*pair) else (pair[1], pair[0]) for pair in FAR_STEPS]
    for earlier, later in pairs:
        _add_order(corpus, by_name[earlier], by_name[later], earlier in HEADER_STEPS)
    for level, goods in (("R0", CONTAINER), ("R1", METADATA), ("R2", VALUES)):
        for good in goods:
            _add_good(corpus, good, level)
    _add_unpack(corpus)
    _add_guards(corpus)


def _position(earlier: str, later: str) -> bool:
    steps = HEADER_STEPS[:-1] + DOCUMENT_STEPS
    return steps.index(earlier) < steps.index(later)


def level_of(kind: str, in_header: bool, step_24: bool) -> str:
    """The level at which a class is checked; SCALE is of step 23 or 24, others occur twice, too."""
    if kind in R2_CLASSES or (kind == "SCALE" and step_24):
        return "R2"
    return "R0" if in_header and kind in R0_CLASSES else "R1"


def _rules(case: Case, level: str) -> list[str]:
    """The case's rule, and the ones that the same fault breaks."""
    rules = [case.rule]
    if case in TEXT:  # the rules of the header's text apply to the document's
        rules.append({"JSON": "S-1.4", "ENCODING": "S-1.3", "DUPLICATE": "S-1.6"}[case.kind.value])
    if case in ORDER:
        rules += ["S-10.1", "S-10.5"]
    if case.name == "private feature":
        rules.append("S-13.3")
    return rules


def _add_bad(corpus: Collector, case: Case, in_header: bool) -> None:
    kind = case.kind.value
    level = level_of(kind, in_header, case.rule == "S-4.2")
    name = f"{kind.lower()}/{slug(case.name)}"
    corpus.case(
        name,
        case.name,
        level,
        _rules(case, level),
        "validate",
        {"class": kind},
        features=ALL_FEATURES if case.base is features else (),
        digests=True if kind == "DIGEST" else None,
        **corpus.place(f"invalid/{name}.safetensors", case.build()),
    )


def _add_order(corpus: Collector, one: Case, two: Case, in_header: bool) -> None:
    raw = one.base()
    two.mutate(raw)
    one.mutate(raw)
    kind = one.kind.value
    level = level_of(kind, in_header, one.rule == "S-4.2")
    name = f"order/{slug(one.name)}-before-{slug(two.name)}"
    corpus.case(
        name,
        f"{one.name}, and {two.name}",
        level,
        ["S-10.1", one.rule],
        "validate",
        {"class": kind},
        digests=True if two.kind.value == "DIGEST" else None,
        **corpus.place(f"invalid/{name}.safetensors", raw.build()),
    )


def _add_good(corpus: Collector, good: Good, level: str) -> None:
    data = good.build()
    document = metadata_document(data)
    name = slug(good.name)
    place = corpus.place(f"valid/{name}.safetensors", data)
    used = [feature for feature in ALL_FEATURES if feature in document["required"]]
    digests = True if "digests" in document and level == "R2" else None
    rules = [good.rule, *(["S-6.3"] if "planes" in used else [])]
    corpus.case(f"valid/{name}", good.name, level, rules, "validate", {"ok": True}, features=used,
                digests=digests, **place)  # fmt: skip
    value_rules = [good.rule, "S-3.1", "S-3.3", "S-3.4"]
    corpus.case(f"describe/{name}", f"describe: {good.name}", "R2", value_rules, "describe",
                {"tensors": description(data)}, features=used, **place)  # fmt: skip
    if level != "R2" and good.rule != "S-5.5":
        return
    for tensor in document["tensors"]:
        for dtype in FLOATS if good.name in EVERY_DTYPE else FLOATS[:1]:
            _add_dequantize(corpus, f"{name}-{dtype.lower()}", good.name, [good.rule], data, tensor, dtype, used, place)


def _add_dequantize(
    corpus: Collector,
    name: str,
    title: str,
    rules: list[str],
    data: bytes,
    tensor: str,
    dtype: str,
    used: Iterable[str],
    place: dict[str, Any],
) -> None:
    decoder = Decoder(data)
    if "NaN" in title:
        return
    corpus.case(f"dequantize/{name}", f"dequantize to {dtype}: {title}", "R2", [*rules, "S-4.6", "S-4.3"],
                "dequantize", {"sha256": sha256(dequantized(decoder, tensor, dtype))}, features=tuple(used),
                tensor=tensor, dtype=dtype, **place)  # fmt: skip


def _add_unpack(corpus: Collector) -> None:
    goods = {good.name: good.build() for good in VALUES + METADATA}
    for title, source, plane, rows in [
        ("all rows", "K = 7", 1, (0, 2)),
        ("the last row", "K = 5", 1, (1, 2)),
        ("no row", "K = 5", 1, (1, 1)),
        ("no row, past the last", "K = 5", 1, (2, 2)),
        ("rows in the middle", "many rows", 1, (97, 203)),
        ("a convolution", "convolution", 1, (0, 2)),
        ("every byte", "every byte of valid codes", 1, (0, 1)),
        ("the first of two planes", "all features", 1, (0, 2)),
        ("the second of two planes", "all features", 2, (1, 2)),
        ("the fourth plane", "four planes", 4, (0, 2)),
    ]:
        data = goods[source]
        codes = Decoder(data).codes("w", plane)[slice(*rows)]
        used = [feature for feature in ALL_FEATURES if feature in metadata_document(data)["required"]]
        corpus.case(f"unpack/{slug(title)}", f"unpack {title}", "R2", ["S-3.4", "S-3.3", "S-3.1"], "unpack",
                    {"sha256": sha256(codes.tobytes())}, features=used, tensor="w", plane=plane,
                    rows=list(map(str, rows)), **corpus.place(f"valid/{slug(source)}.safetensors", data))  # fmt: skip


def _add_guards(corpus: Collector) -> None:
    """No operation gives values of a file at fault (SPEC S-3.2, S-10.4)."""
    by_name = {case.name: case for case in TENSOR_CASES}
    for name in ("forbidden code in the last row", "padding in the last row", "NaN scale"):
        case = by_name[name]
        kind = case.kind.value
        path = corpus.file(f"invalid/{kind.lower()}/{slug(name)}.safetensors", case.build())
        for op, arguments in (
            ("describe", {}),
            ("unpack", {"tensor": "w", "plane": 1, "rows": ["0", "1"]}),
            ("dequantize", {"tensor": "w", "dtype": "F32"}),
        ):
            corpus.case(f"guard/{op}-{slug(name)}", f"{op}: {name}", "R2", ["S-10.4", case.rule], op,
                        {"class": kind}, path=path, **arguments)  # fmt: skip


def metadata_document(file: bytes) -> dict[str, Any]:
    """The metadata document of a valid file."""
    (length,) = struct.unpack("<Q", file[:8])
    document: dict[str, Any] = json.loads(json.loads(file[8 : 8 + length])["__metadata__"]["ternfmt"])
    return document
