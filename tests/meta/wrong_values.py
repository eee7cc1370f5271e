"""Readers that get codes, scales, weights or products wrong: SPEC sections 3, 4, 5, 8, 10 and 12."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ternfmt.errors import FormatError, Kind
from ternfmt.pack import _BYTE_TO_CODES
from ternfmt.reader import Model
from tests.meta.mutant import Change, Mutant, both, constant, edit, replace, skip
from tests.meta.wrong_containers import CONTAINER, PARSE

PACK = "ternfmt.pack"
CODES = f"{PACK}:check_codes"
CHECK = "ternfmt.check"
SCALE = f"{CHECK}:check_scale"
PLANE = f"{CHECK}:check_plane_codes"
MODEL = "ternfmt.reader:Model"
DEQUANTIZE = "ternfmt.tensor:TernaryTensor.dequantize"
LOW_RANK = "ternfmt.tensor:_low_rank_product"
REFERENCE = "ternfmt_conformance.reference"
PRODUCT = f"{REFERENCE}:product"
VALIDATE = "ternfmt.validate:validate"
DOCUMENT = "ternfmt.metadata:parse_document"

Codes = npt.NDArray[np.int8]


def unpacking(change: Callable[[Codes], Codes]) -> Change:
    """Change the codes ``[N, K]`` that are read."""
    return replace(
        f"{PACK}:unpack",
        lambda original: lambda packed, k: np.ascontiguousarray(change(original(packed, k)).astype(np.int8)),
    )


def unpacking_lanes(change: Callable[[Codes, int], Codes]) -> Change:
    """Make codes of all lanes ``[N, 4 * ceil(K/4)]`` and K."""
    return replace(
        f"{PACK}:unpack",
        lambda original: lambda packed, k: np.ascontiguousarray(change(original(packed, 4 * packed.shape[1]), k)),
    )


def interleaved(lanes: Codes, k: int) -> Codes:
    return lanes.reshape(len(lanes), -1, 4).transpose(0, 2, 1).reshape(len(lanes), -1)[:, :k]


def rounding(change: Callable[[npt.NDArray[np.float32], np.dtype[Any]], npt.NDArray[Any]]) -> Change:
    """Round the F32 sums otherwise."""

    def make(original: Any) -> Any:
        def dequantize(self: Any, dtype: Any = np.float32) -> Any:
            with np.errstate(all="ignore"):
                return change(original(self, np.float32), np.dtype(dtype)).astype(dtype)

        return dequantize

    return replace(DEQUANTIZE, make)


def truncated(total: npt.NDArray[np.float32], dtype: np.dtype[Any]) -> npt.NDArray[np.float32]:
    return (total.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32) if dtype == ml_dtypes.bfloat16 else total


def half_up(total: npt.NDArray[np.float32], dtype: np.dtype[Any]) -> npt.NDArray[np.float32]:
    """Ties away from zero."""
    if dtype != ml_dtypes.bfloat16:
        return total
    return ((total.view(np.uint32).astype(np.uint64) + 0x8000 & 0xFFFF0000).astype(np.uint32)).view(np.float32)


def saturated(total: npt.NDArray[np.float32], dtype: np.dtype[Any]) -> npt.NDArray[np.float32]:
    return np.clip(total, -65504, 65504) if dtype == np.float16 else total


def flushed(total: npt.NDArray[np.float32], dtype: np.dtype[Any]) -> npt.NDArray[np.float32]:
    smallest = np.float32(2.0**-14 if dtype == np.float16 else 2.0**-126)
    return np.where(np.abs(total) < smallest, np.copysign(np.float32(0), total), total)


def refuse_codes_under_zero(original: Any) -> Any:
    def check(self: Model, name: str) -> None:
        original(self, name)
        tensor: Any = self[name] if name in self.tensors else None
        if tensor is not None and tensor.group_size is None:
            for number, plane in enumerate(tensor.planes):
                if np.any((plane.scale == 0) & np.any(tensor.unpack(number).reshape(tensor.n, -1), axis=1)):
                    raise FormatError(Kind.SCALE, name, "over-strict")

    return check


def refuse_zero_rows(original: Any) -> Any:
    def check(self: Model, name: str) -> None:
        original(self, name)
        tensor: Any = self[name] if name in self.tensors else None
        if tensor is not None and tensor.group_size is None:
            for number, plane in enumerate(tensor.planes):
                if np.any((plane.scale != 0) & ~np.any(tensor.unpack(number).reshape(tensor.n, -1), axis=1)):
                    raise FormatError(Kind.SCALE, name, "over-strict")

    return check


def hashing(text: Callable[[Any], str]) -> Change:
    """Another text under the header's digest."""
    return constant(f"{CHECK}:canonical", text)


def compact(value: Any, **options: Any) -> str:
    return json.dumps(value, separators=(",", ":"), **options)


def by_utf16(value: Any) -> Any:
    """Keys in the order of their UTF-16 units."""
    if isinstance(value, dict):
        return {key: by_utf16(value[key]) for key in sorted(value, key=lambda key: key.encode("utf-16-be"))}
    return value


PACKING = [
    Mutant("S-3.1", "codes are t + 1", unpacking(lambda codes: (codes & 3) - 1)),
    Mutant("S-3.1", "signs swapped", unpacking(lambda codes: -codes)),
    Mutant("S-3.1", "sign and magnitude", unpacking(lambda codes: np.where(codes == -1, -2, codes))),
    Mutant("S-3.1", "11 is 0", unpacking(lambda codes: np.where(codes == -1, 0, codes))),
    Mutant("S-3.1", "the two bits swapped", unpacking(lambda codes: np.where(codes == 1, -2, codes))),
    Mutant("S-3.2", "forbidden code let through", edit(CODES, ("if forbidden.any():", "if False:"))),
    Mutant("S-3.2", "forbidden code looked for in plane 1 only", edit(f"{MODEL}.check", ("if codes in spans:", "if codes in spans and p == 0:"))),
    Mutant("S-3.2", "forbidden code looked for in row 1 only", edit(CODES, ("if forbidden.any():", "if forbidden[:1].any():"))),
    Mutant("S-3.2", "forbidden code looked for in whole bytes only", edit(CODES, ("if forbidden.any():", "if forbidden[:, : k // 4].any():"))),
    Mutant("S-3.2", "forbidden code looked for in the first lane only", edit(CODES, ("& 0x55", "& 0x01"))),
    Mutant("S-3.2", "forbidden code in every lane only", edit(CODES, ("if forbidden.any():", "if (forbidden == 0x55).any():"))),
    Mutant("S-3.2", "row by row, padding before a later code", edit(PLANE, ("max(1, BLOCK_BYTES // codes.shape[1])", "1"), ("if error.kind is Kind.CODE:", "if True:"))),
    Mutant("S-3.2", "forbidden code is PADDING", edit(CODES, ("Kind.CODE", "Kind.PADDING"))),
    Mutant("S-3.3", "rows not padded to bytes", unpacking_lanes(lambda lanes, k: lanes.reshape(-1)[: len(lanes) * k].reshape(len(lanes), k))),
    Mutant("S-3.3", "rows in reverse", unpacking(lambda codes: codes[::-1])),
    Mutant("S-3.3", "rows up to the last, included", edit(f"{REFERENCE}:Reference.unpack", ("slice(*rows)", "slice(rows[0], rows[1] + 1)"))),
    Mutant("S-3.3", "rows from the first on", edit(f"{REFERENCE}:Reference.unpack", ("slice(*rows)", "slice(0, rows[1] - rows[0])"))),
    Mutant("S-3.4", "first code in the high bits", constant(f"{PACK}:_BYTE_TO_CODES", np.ascontiguousarray(_BYTE_TO_CODES[:, ::-1]))),
    Mutant("S-3.4", "nibbles swapped", constant(f"{PACK}:_BYTE_TO_CODES", np.ascontiguousarray(_BYTE_TO_CODES[:, [2, 3, 0, 1]]))),
    Mutant("S-3.4", "lanes a quarter of the row apart", unpacking_lanes(interleaved)),
    Mutant("S-3.4", "columns in reverse", unpacking(lambda codes: codes[:, ::-1])),
    Mutant("S-3.4", "column-major", unpacking(lambda codes: codes.reshape(codes.shape[::-1]).T)),
    Mutant("S-3.4", "planes swapped", edit(f"{REFERENCE}:Reference.unpack", ("found.planes[plane - 1]", "found.planes[-plane]"))),
    Mutant("S-3.5", "padding not looked at", edit(CODES, ("        if padding.any():", "        if False:"))),
    Mutant("S-3.5", "padding of the last row only", edit(CODES, ("        if padding.any():", "        if padding[-1:].any():"))),
    Mutant("S-3.5", "padding of the first row only", edit(CODES, ("        if padding.any():", "        if padding[:1].any():"))),
    Mutant("S-3.5", "padding of the first pad lane only", edit(CODES, ("0xFF00 >> 2 * pad_lanes & 0xFF", "3 << 8 - 2 * pad_lanes & 0xFF"))),
    Mutant("S-3.5", "padding of the last lane only", edit(CODES, ("padding = packed[:, -1] & padding_mask", "padding = packed[:, -1] & 0xC0"))),
    Mutant("S-3.5", "padding may hold codes", edit(CODES, ("padding = packed[:, -1] & padding_mask", "padding = packed[:, -1] & ~(packed[:, -1] << 1) & padding_mask & 0xAA"))),
    Mutant("S-3.5", "10 in the padding is CODE", edit(CODES, ("    if pad_lanes:\n        forbidden", "    if False:\n        forbidden"))),
    Mutant("S-3.5", "padding one lane too wide", edit(CODES, ("padding = packed[:, -1] & padding_mask", "padding = packed[:, -1] & (padding_mask | padding_mask >> 2)"))),
    Mutant("S-3.5", "every row needs padding", edit(CODES, ("pad_lanes = -k % CODES_PER_BYTE", "pad_lanes = -k % CODES_PER_BYTE or 1"))),
    Mutant("S-3.5", "all scales before all codes", edit(f"{MODEL}.check", ("    for p in range(entry.planes):\n", "    for p in range(entry.planes):\n        scale = name + scale_suffix(p)\n        if scale in self.stored.spans:\n            check_scale(self.stored[scale], '')\n    for p in range(entry.planes):\n"))),
]  # fmt: skip

SCALES = [
    *(
        Mutant("S-4.2", f"{what} scales", edit(SCALE, ("np.signbit(scale) | ~np.isfinite(scale)", form)))
        for what, form in {
            "NaN": "np.signbit(scale) | np.isinf(scale)",
            "infinite": "np.signbit(scale) | np.isnan(scale)",
            "negative": "~np.isfinite(scale)",
            "negative zero": "(scale < 0) | ~np.isfinite(scale)",
            "no zero": "(scale <= 0) | np.signbit(scale) | ~np.isfinite(scale)",
            "no subnormal": "np.signbit(scale) | ~np.isfinite(scale) | ((scale > 0) & (scale.astype(np.float64) < 2.0**-14))",
            "no large": "np.signbit(scale) | ~(scale.astype(np.float32) < 65504)",
        }.items()
    ),
    Mutant("S-4.2", "scales of row 1 only", edit(SCALE, ("if bad.any():", "if bad[:1].any():"))),
    Mutant("S-4.2", "scales of the first group only", edit(SCALE, ("if bad.any():", "if bad.reshape(len(bad), -1)[:, 0].any():"))),
    Mutant("S-4.2", "scales of plane 1 only", edit(f"{MODEL}.check", ("if scale in spans:", "if scale in spans and p == 0:"))),
    Mutant("S-4.2", "NaN in dense tensors refused", edit(f"{MODEL}.check", ("    for p in range(entry.planes):\n", "    for other in self.stored.spans:\n        if self.stored[other].dtype.kind == 'f':\n            check_scale(abs(self.stored[other]), '')\n    for p in range(entry.planes):\n"))),
    Mutant("S-4.4", "codes under scale 0 refused", replace(f"{MODEL}.check", refuse_codes_under_zero)),
    Mutant("S-4.4", "rows of zeros must have scale 0", replace(f"{MODEL}.check", refuse_zero_rows)),
    Mutant("S-5.4", "NaN in low-rank factors refused", edit(f"{MODEL}.check", ("    for p in range(entry.planes):\n", "    for part in (name + UP_SUFFIX, name + DOWN_SUFFIX):\n        if part in self.stored.spans:\n            check_scale(abs(self.stored[part]), '')\n    for p in range(entry.planes):\n"))),
    Mutant("S-10.4", "values of a file that was not checked", skip(f"{MODEL}.check")),
]  # fmt: skip

WEIGHTS = [
    Mutant("S-4.1", "16-bit scales are F16", edit(DEQUANTIZE, ("plane.scale.astype(np.float32)", "(plane.scale if plane.scale.dtype.itemsize == 4 else plane.scale.view(np.float16)).astype(np.float32)"))),
    Mutant("S-4.1", "16-bit scales are BF16", edit(DEQUANTIZE, ("plane.scale.astype(np.float32)", "(plane.scale if plane.scale.dtype.itemsize == 4 else plane.scale.view(ml_dtypes.bfloat16)).astype(np.float32)"))),
    Mutant("S-4.3", "the scale divides", edit(DEQUANTIZE, ("* columns", "/ np.maximum(columns, np.float32(1e-30))"))),
    Mutant("S-4.3", "no scale", edit(DEQUANTIZE, (" * columns", " * np.float32(1)"))),
    Mutant("S-4.3", "the first row's scale for all", edit(DEQUANTIZE, ("columns = scale[:, None]", "columns = scale[:1, None]"))),
    Mutant("S-4.3", "scales in reverse", edit(DEQUANTIZE, ("columns = scale[:, None]", "columns = scale[::-1, None]"))),
    Mutant("S-4.6", "the sum starts with 0", edit(DEQUANTIZE, ("term if i == 0 else total + term", "total + term"))),
    Mutant("S-4.6", "planes added from the last", edit(DEQUANTIZE, ("in enumerate(self.planes):", "in reversed(list(enumerate(self.planes))):"), ("term if i == 0 else", "term if i == len(self.planes) - 1 else"))),
    Mutant("S-4.6", "summed in F64", edit(DEQUANTIZE, ("scale = plane.scale.astype(np.float32)", "scale = plane.scale.astype(np.float64)"))),
    Mutant("S-4.6", "products rounded to the target", edit(DEQUANTIZE, ("* columns\n", "* columns\n            term = term.astype(dtype).astype(np.float32)\n"))),
    Mutant("S-4.6", "truncated to BF16", rounding(truncated)),
    Mutant("S-4.6", "ties away from zero", rounding(half_up)),
    Mutant("S-4.6", "saturated at the largest F16", rounding(saturated)),
    Mutant("S-4.6", "subnormal weights are 0", rounding(flushed)),
    Mutant("S-4.6", "negative zeros lose their sign", rounding(lambda total, dtype: total + np.float32(0))),
    Mutant("S-4.6", "by way of F16", rounding(lambda total, dtype: total.astype(np.float16).astype(np.float32))),
    Mutant("S-4.6", "by way of BF16", rounding(lambda total, dtype: total.astype(ml_dtypes.bfloat16).astype(np.float32))),
    Mutant("S-4.6", "low-rank terms added to the planes one by one", edit(DEQUANTIZE, ("            total = total + _low_rank_product(self.low_rank)", "            for d, u in zip(self.low_rank.down.astype(np.float32), self.low_rank.up.astype(np.float32).T):\n                total = total + u[:, None] * d"))),
    Mutant("S-4.6", "low-rank terms from the last", edit(LOW_RANK, ("    total = up", "    down, up = down[::-1], up[:, ::-1]\n    total = up"))),
    Mutant("S-4.6", "low-rank sum starts with 0", edit(LOW_RANK, ("up[:, :1] * down[:1]", "np.float32(0) + up[:, :1] * down[:1]"))),
    Mutant("S-4.6", "low-rank products fused", edit(LOW_RANK, ("low_rank.down.astype(np.float32)", "low_rank.down.astype(np.float64)"), ("low_rank.up.astype(np.float32)", "low_rank.up.astype(np.float64)"), ("    return total", "    return total.astype(np.float32)"))),
    Mutant("S-5.2", "one scale after the other over the columns", edit(DEQUANTIZE, ("np.repeat(scale, min(self.group_size, self.k), axis=1)", "np.tile(scale, (1, self.k))"))),
    Mutant("S-5.2", "scales of shape [G, N]", edit(DEQUANTIZE, ("columns = np.repeat(scale,", "columns = np.repeat(scale.reshape(scale.shape[::-1]).T,"))),
    Mutant("S-5.2", "the first group's scale for all", edit(DEQUANTIZE, ("columns = np.repeat(scale,", "columns = np.repeat(scale[:, [0] * scale.shape[1]],"))),
    Mutant("S-5.2", "the last group joins the one before", edit(DEQUANTIZE, ("columns = np.repeat(scale,", "columns = np.repeat(np.where(np.arange(scale.shape[1]) == scale.shape[1] - 1, scale[:, [max(0, scale.shape[1] - 2)]], scale),"))),
    Mutant("S-5.2", "groups of equal width", edit(DEQUANTIZE, ("min(self.group_size, self.k)", "-(-self.k // scale.shape[1])"))),
    Mutant("S-5.3", "further planes ignored", edit(DEQUANTIZE, ("enumerate(self.planes)", "enumerate(self.planes[:1])"))),
    Mutant("S-5.3", "the first plane's scale for all", edit(DEQUANTIZE, ("scale = plane.scale", "scale = self.scale"))),
    Mutant("S-5.3", "the planes' scales swapped", edit(DEQUANTIZE, ("scale = plane.scale", "scale = self.planes[len(self.planes) - 1 - i].scale"))),
    Mutant("S-5.3", "planes subtracted", edit(DEQUANTIZE, ("else total + term", "else total - term"))),
    Mutant("S-5.3", "the last plane alone", edit(DEQUANTIZE, ("term if i == 0 else total + term", "term"))),
    Mutant("S-5.4", "no low-rank term", edit(DEQUANTIZE, ("if self.low_rank is not None:", "if False:"))),
    Mutant("S-5.4", "low-rank term of rank 1", edit(LOW_RANK, ("range(1, len(down))", "range(0)"))),
    Mutant("S-5.4", "low-rank term scaled, too", edit(DEQUANTIZE, ("_low_rank_product(self.low_rank)", "_low_rank_product(self.low_rank) * columns"))),
    Mutant("S-5.4", "up of shape [R, N]", edit(LOW_RANK, ("    total = up", "    up = up.reshape(up.shape[::-1]).T\n    total = up"))),
]  # fmt: skip

DIGESTS = [
    Mutant("S-8.1", "digests not compared", replace("ternfmt.validate:_check_digests", lambda _: lambda model: (0, 0))),
    Mutant("S-8.1", "tensor digests not compared", edit("ternfmt.validate:_check_digests", ("if actual != expected:", "if False:"))),
    Mutant("S-8.1", "digests of ternary tensors only", edit("ternfmt.validate:_check_digests", ("if actual != expected:", "if actual != expected and not (name in model.tensors and not model.tensors[name].ternary):"))),
    Mutant("S-8.1", "digests of dense tensors only", edit("ternfmt.validate:_check_digests", ("if actual != expected:", "if actual != expected and name in model.tensors and not model.tensors[name].ternary:"))),
    Mutant("S-8.1", "digests of the first shard only", edit("ternfmt.validate:_check_digests", ("model.document.tensor_digests if", "model.documents[-1].tensor_digests if"))),
    Mutant("S-8.2", "header digest not compared", skip(f"{CHECK}:check_header_digest")),
    Mutant("S-8.2", "header digest of the first shard only", edit("ternfmt.validate:_check_digests", ("zip(model.stored.headers, model.documents, strict=True)", "list(zip(model.stored.headers, model.documents))[:1]"))),
    Mutant("S-8.2", "header digest: first occurrence blanked", edit(f"{CHECK}:header_digest", ('replace(digest, "0" * 64)', 'replace(digest, "0" * 64, 1)'))),
    Mutant("S-8.2", "header digest: key removed", edit(f"{CHECK}:header_digest", ('replace(digest, "0" * 64)', "replace('\"' + digest + '\"', '\"\"')"))),
    Mutant("S-8.2", "header digest of the document alone", hashing(lambda value: compact({"__metadata__": value["__metadata__"]}, sort_keys=True))),
    Mutant("S-8.2", "header digest without further metadata", hashing(lambda value: compact({**value, "__metadata__": {"ternfmt": value["__metadata__"]["ternfmt"]}}, sort_keys=True))),
    Mutant("S-8.2", "header digest: spaces in its JSON", hashing(lambda value: json.dumps(value, sort_keys=True))),
    Mutant("S-8.2", "header digest: keys as they stand", hashing(lambda value: compact(value))),
    Mutant("S-8.2", "header digest: keys by UTF-16", hashing(lambda value: compact(by_utf16(value)))),
    Mutant("S-8.2", "header digest: upper-case escapes", hashing(lambda value: re.sub(r"(?<=\\u)[0-9a-f]{4}", lambda m: m[0].upper(), compact(value, sort_keys=True)))),
    Mutant("S-8.2", "header digest: DEL as it is", hashing(lambda value: compact(value, sort_keys=True).replace("\\u007f", "\x7f"))),
    Mutant("S-8.2", "header digest: slashes escaped", hashing(lambda value: compact(value, sort_keys=True).replace("/", "\\/"))),
    Mutant("S-8.3", "all digests or none", edit(DOCUMENT, ("    _check_listed(", "    if tensor_digests and set(tensor_digests) != set(header.spans): _fail(location, '')\n    _check_listed("))),
]  # fmt: skip

STEPS = [
    Mutant("S-10.1", "metadata before names", edit(f"{CONTAINER}:parse_header", ("    spans = _parse_spans(", "    if type(metadata) is not dict or not all(type(v) is str for v in metadata.values()):\n        raise FormatError(Kind.METADATA, file, '')\n    spans = _parse_spans("))),
    Mutant("S-10.1", "tensors before names", edit(f"{CONTAINER}:_parse_spans", ("    _check_names(value, file)\n    spans = _make_spans(value, file)", "    spans = _make_spans(value, file)\n    _check_names(value, file)"))),
    Mutant("S-10.1", "sizes before layout", edit(f"{CONTAINER}:_parse_spans", ("    _check_layout(spans, data_start, file_size, file)\n    _check_sizes(spans, file)", "    _check_sizes(spans, file)\n    _check_layout(spans, data_start, file_size, file)"))),
    Mutant("S-10.1", "keys twice as they are met", edit(PARSE, ("seen: set[str] = set()", "raise FormatError(Kind.DUPLICATE, location, '')"))),
    Mutant("S-10.1", "keys twice before lone surrogates", edit(PARSE, ("if _SURROGATE_ESCAPE.search(text)", "if not duplicates and _SURROGATE_ESCAPE.search(text)"))),
    Mutant("S-10.1", "lone surrogates before syntax", edit(PARSE, ("    decoder =", "    if _SURROGATE_ESCAPE.search(text):\n        _check_surrogates(text, location)\n    decoder ="))),
    Mutant("S-10.1", "document before tensors", edit(f"{CONTAINER}:parse_header", ("    spans = _parse_spans(", "    if type(metadata) is dict and 'ternfmt' not in metadata:\n        raise FormatError(Kind.STRIPPED, file, '')\n    if type(metadata) is dict and type(metadata['ternfmt']) is str:\n        parse_object(metadata['ternfmt'], file, framed=True)\n    spans = _parse_spans("))),
    Mutant("S-10.1", "version after required", edit(DOCUMENT, ('version = _parse_version(value.pop("version", None), location)\n    required = _parse_required(value.pop("required", None), location)', 'required = _parse_required(value.pop("required", None), location)\n    version = _parse_version(value.pop("version", None), location)'))),
    Mutant("S-10.1", "version after entries", edit(DOCUMENT, ('_parse_version(value.pop("version", None), location)', 'value.pop("version", None)'), ("_check_numbers(value, location)", "_check_numbers(value, location)\n    version = _parse_version(version, location)"))),
    Mutant("S-10.1", "unknown features after entries", edit(DOCUMENT, ('_parse_required(value.pop("required", None), location)', 'value.pop("required", None)'), ("_check_numbers(value, location)", "_check_numbers(value, location)\n    required = _parse_required(required, location)"))),
    Mutant("S-10.1", "scales before codes and names", edit("ternfmt.structure:check_structure", ("    _check_names(document.entries, spans, location)\n", "    for name, entry in document.entries.items():\n        _check_part(name + '_scale', SCALE_DTYPE_NAMES, entry.scale_shape, spans, location, Kind.SCALE, whole)\n    _check_names(document.entries, spans, location)\n"))),
    Mutant("S-10.1", "names after codes", edit("ternfmt.structure:check_structure", ("    _check_names(document.entries, spans, location)\n", ""), ("_check_all_declared(document.entries, spans)", "_check_all_declared(document.entries, spans)\n    _check_names(document.entries, spans, location)"))),
    Mutant("S-10.1", "digests before codes", edit(VALIDATE, ("        for name in sorted(model.document.entries):\n", "        if digests:\n            _check_digests(model)\n        for name in sorted(model.document.entries):\n"))),
    Mutant("S-10.1", "scales without codes let through", edit(f"{MODEL}.check", ("if scale in spans:", "if scale in spans and codes in spans:"))),
    Mutant("S-10.1", "codes without scales let through", edit(f"{MODEL}.check", ("if codes in spans:", "if codes in spans and scale in spans:"))),
    Mutant("S-10.1", "codes before scales", edit(f"{MODEL}.check", ("        if scale in spans:", "        if codes in spans:\n            check_plane_codes(self.stored[codes], entry.k, '')\n        if scale in spans:"))),
    Mutant("S-10.1", "padding before codes", both(edit(CODES, ("    if forbidden.any():", "    if pad_lanes and (packed[:, -1] & padding_mask).any():\n        raise FormatError(Kind.PADDING, location, '')\n    if forbidden.any():")))),
    Mutant("S-10.5", "tensors in the document's order", edit(VALIDATE, ("sorted(model.document.entries)", "model.document.entries"))),
    Mutant("S-10.5", "tensors in alphabetical order", edit(VALIDATE, ("sorted(model.document.entries)", "sorted(model.document.entries, key=str.lower)"))),
]  # fmt: skip

PRODUCTS = [
    Mutant("S-12.1", "no scale", edit(PRODUCT, (" * scale[rows, g]", ""))),
    Mutant("S-12.1", "the scale divides", edit(PRODUCT, (" * scale[rows, g]", " / np.maximum(scale[rows, g], 1e-30)"))),
    Mutant("S-12.1", "the second plane's scale swapped with the first's", edit(PRODUCT, ("scale = plane.scale", "scale = tensor.planes[len(tensor.planes) - 1 - next(i for i, p in enumerate(tensor.planes) if p is plane)].scale"))),
    Mutant("S-12.1", "the first plane's scale for all", edit(PRODUCT, ("scale = plane.scale", "scale = tensor.scale"))),
    Mutant("S-12.1", "the last plane alone", edit(PRODUCT, ("y[:, rows] += (x", "y[:, rows] += 0 if plane is not tensor.planes[-1] else (x"))),
    Mutant("S-12.1", "the first group's scale for all", edit(PRODUCT, ("scale[rows, g]", "scale[rows, 0]"))),
    Mutant("S-12.1", "weights not transposed", edit(PRODUCT, ("weights = codes.astype(np.float64)", "weights = codes.reshape(codes.shape[::-1]).T.astype(np.float64)"))),
    Mutant("S-12.1", "no low-rank term", edit(PRODUCT, ("if tensor.low_rank is not None:", "if False:"))),
    Mutant("S-12.1", "the low-rank term's signs swapped", edit(PRODUCT, ("y += (x @ down.T)", "y -= (x @ down.T)"))),
    Mutant("S-12.1", "16-bit activations are F16", edit(f"{REFERENCE}:Reference.matmul", ("np.fromfile(x, DTYPES[dtype])", "np.fromfile(x, DTYPES['F32' if dtype == 'F32' else 'F16'])"))),
    Mutant("S-12.1", "activations of shape [K, M]", edit(f"{REFERENCE}:Reference.matmul", ("reshape(m, found.k)", "reshape(found.k, m).T"))),
    Mutant("S-12.1", "the result of shape [N, M]", edit(f"{REFERENCE}:Reference.matmul", ("product(activations, found)", "product(activations, found).T"))),
    Mutant("S-12.2", "result rounded to F16", edit(f"{REFERENCE}:Reference.matmul", ('.astype("<f4")', '.astype("<f2").astype("<f4")'))),
    Mutant("S-12.2", "result rounded to BF16", edit(f"{REFERENCE}:Reference.matmul", ('.astype("<f4")', '.astype("bfloat16").astype("<f4")'))),
    Mutant("S-12.2", "sums in F16", edit(PRODUCT, ("(x[:, columns] @ weights[:, columns].T)", "np.cumsum(x[:, None, columns].astype(np.float16) * weights[:, columns].astype(np.float16), axis=2, dtype=np.float16)[:, :, -1]"))),
    Mutant("S-12.2", "activations rounded to BF16", edit(f"{REFERENCE}:Reference.matmul", ("reshape(m, found.k)", "reshape(m, found.k).astype('bfloat16')"))),
    Mutant("S-12.2", "activations rounded to F16", edit(f"{REFERENCE}:Reference.matmul", ("reshape(m, found.k)", "reshape(m, found.k).astype('float16')"))),
    Mutant("S-12.2", "activations rounded to int8, unsaid", edit(f"{REFERENCE}:Reference.matmul", ("reshape(m, found.k)", "reshape(m, found.k).astype(np.float64)\n        step = np.maximum(abs(activations).max(axis=1, keepdims=True, initial=0), 1e-30) / 127\n        activations = (np.rint(activations / step) * step)"))),
    Mutant("S-12.2", "scales rounded to BF16", edit(PRODUCT, ("scale = plane.scale.astype(np.float64)", "scale = plane.scale.astype('bfloat16').astype(np.float64)"))),
    Mutant("S-12.2", "scales rounded to F16", edit(PRODUCT, ("scale = plane.scale.astype(np.float64)", "scale = plane.scale.astype(np.float16).astype(np.float64)"))),
    Mutant("S-12.3", "sums in 16-bit integers", edit(PRODUCT, ("(x[:, columns] @ weights[:, columns].T)", "((x[:, columns] @ weights[:, columns].T + 2**15) % 2**16 - 2**15)"))),
    Mutant("S-12.3", "sums in 8-bit integers", edit(PRODUCT, ("(x[:, columns] @ weights[:, columns].T)", "((x[:, columns] @ weights[:, columns].T + 128) % 256 - 128)"))),
    Mutant("S-12.3", "the last column left out where K is odd", edit(PRODUCT, ("range(0, tensor.k, group)", "range(0, tensor.k - tensor.k % 2, group)"), ("slice(start, start + group)", "slice(start, min(start + group, tensor.k - tensor.k % 2))"))),
    Mutant("S-12.3", "at most 16 rows of activations", edit(PRODUCT, ("    return y", "    y[16:] = 0\n    return y"))),
    Mutant("S-12.3", "no activations crash", edit(PRODUCT, ("    y = np.zeros", "    x[0]\n    y = np.zeros")), crashes=True),
    Mutant("S-12.5", "the next row leaks into the padding", edit(PRODUCT, ("    return y", "    with np.errstate(invalid='ignore'):\n        y[:-1] += 0 * x[1:, :1] if tensor.k % 4 else 0\n    return y"))),
    Mutant("S-12.5", "the row before leaks", edit(PRODUCT, ("    return y", "    with np.errstate(invalid='ignore'):\n        y[1:] += 0 * x[:-1, -1:] if tensor.k % 4 else 0\n    return y"))),
    Mutant("S-12.5", "NaN becomes 0", edit(PRODUCT, ("    return y", "    return np.nan_to_num(y)"))),
]  # fmt: skip

WRONG_VALUES = [*PACKING, *SCALES, *WEIGHTS, *DIGESTS, *STEPS, *PRODUCTS]
