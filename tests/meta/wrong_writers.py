"""Writers whose files are wrong, or not canonical: SPEC sections 3 and 11."""

from __future__ import annotations

import re
from dataclasses import replace as with_changes
from typing import Any

import numpy as np

from tests.meta.mutant import Change, Mutant, edit, replace, skip
from tests.meta.wrong_containers import CONTAINER, JSON
from tests.meta.wrong_values import by_utf16, compact

CANONICAL = f"{JSON}:canonical"
LAYOUT = f"{CONTAINER}:layout"
BUILD = f"{CONTAINER}:build_header"
PACK = "ternfmt.pack:pack"
WRITER = "ternfmt.writer:Writer"
DOCUMENT = "ternfmt.writer:make_document"
PARTS = "ternfmt.writer:stored_parts"
ENCODE = "ternfmt_conformance.reference:Reference.encode"


def writing(text: Any) -> Change:
    """Write JSON in another form."""
    return replace(CANONICAL, lambda _: text)


def packing(change: Any) -> Change:
    """Change packed codes, given K."""
    return replace(PACK, lambda original: lambda codes: change(original(codes), codes.shape[1]))


def documents(**changes: Any) -> Change:
    return replace(DOCUMENT, lambda original: lambda *args: with_changes(original(*args), **changes))


def swapped(original: Any) -> Any:
    def stored_parts(name: str, tensor: Any) -> dict[str, Any]:
        parts = original(name, tensor)
        if f"{name}_plane2_scale" in parts:
            parts[f"{name}_scale"], parts[f"{name}_plane2_scale"] = (
                parts[f"{name}_plane2_scale"],
                parts[f"{name}_scale"],
            )
        return parts

    return stored_parts


def scaled_groups(original: Any) -> Any:
    def stored_parts(name: str, tensor: Any) -> dict[str, Any]:
        parts = dict(original(name, tensor))
        scale = parts.get(f"{name}_scale")
        if scale is not None and scale.ndim == 2:
            parts[f"{name}_scale"] = np.ascontiguousarray(scale[:, ::-1])
        return parts

    return stored_parts


def pad_with_ones(packed: np.ndarray, k: int) -> np.ndarray:
    packed[:, -1] |= 0x55 & (0xFF00 >> 2 * (-k % 4)) & 0xFF
    return packed


def reverse_lanes(packed: np.ndarray, k: int) -> np.ndarray:
    lanes = np.unpackbits(packed, axis=1).reshape(len(packed), -1, 4, 2)[:, :, ::-1]
    return np.packbits(lanes.reshape(len(packed), -1), axis=1)


FILES = [
    Mutant("S-3.1", "written: signs swapped", replace(PACK, lambda original: lambda codes: original(-codes))),
    Mutant("S-3.1", "written: codes are t + 1", packing(lambda packed, k: packed + np.uint8(0x55) if k % 4 == 0 else packed)),
    Mutant("S-3.2", "codes not looked at", edit("ternfmt_conformance.logical:_pack", ("if np.any(np.abs", "if False and np.any(np.abs"), ("return pack(array)", "return pack(np.clip(array, -1, 1))"))),
    Mutant("S-3.4", "written: first code in the high bits", packing(reverse_lanes)),
    Mutant("S-3.4", "written: columns in reverse", replace(PACK, lambda original: lambda codes: original(np.ascontiguousarray(codes[:, ::-1])))),
    Mutant("S-3.5", "padding of ones", packing(pad_with_ones)),
    Mutant("S-4.1", "all scales F32", edit("ternfmt_conformance.logical:_parse_tensor", ('_array(plane["scale"], value["scale_dtype"], scale_shape)', '_array(plane["scale"], value["scale_dtype"], scale_shape).astype(np.float32)'))),
    Mutant("S-4.2", "scales not looked at", skip("ternfmt.check:check_ternary")),
    Mutant("S-5.1", "required empty", documents(required=())),
    Mutant("S-5.2", "groups in reverse", replace(PARTS, scaled_groups)),
    Mutant("S-5.3", "the second plane's scale swapped with the first's", replace(PARTS, swapped)),
    Mutant("S-6.1", "reserved names not looked at", edit(DOCUMENT, ("if name + suffix in names:", "if False:")), crashes=True),
    Mutant("S-2.5", "ancillary keys dropped", edit(ENCODE, ("ancillary=model.ancillary", "ancillary={}"))),
    Mutant("S-2.5", "ancillary keys as strings", edit(ENCODE, ("ancillary=model.ancillary", "ancillary={key: str(value) for key, value in model.ancillary.items()}"))),
]  # fmt: skip

BYTES = [
    Mutant("S-11.1", "spaces in JSON", edit(CANONICAL, ('separators=(",", ":"), ', ""))),
    Mutant("S-11.1", "keys as they come", edit(CANONICAL, ("sort_keys=True, ", ""))),
    Mutant("S-11.1", "keys by UTF-16", writing(lambda value: compact(by_utf16(value)))),
    Mutant("S-11.1", "keys without regard to case", writing(lambda value: compact({key: value[key] for key in sorted(value, key=str.lower)} if isinstance(value, dict) else value))),
    Mutant("S-11.1", "upper-case escapes", writing(lambda value: re.sub(r"(?<!\\)(\\\\)*\\u([0-9a-f]{4})", lambda m: m[0].upper().replace("U", "u", 1), compact(value, sort_keys=True)))),
    Mutant("S-11.1", "long escapes for control characters", writing(lambda value: re.sub(r"(?<!\\)\\n", r"\\u000a", compact(value, sort_keys=True)))),
    Mutant("S-11.1", "slashes escaped", writing(lambda value: compact(value, sort_keys=True).replace("/", "\\/"))),
    Mutant("S-11.1", "DEL as it is", writing(lambda value: compact(value, sort_keys=True).replace("\\u007f", "\x7f"))),
    Mutant("S-11.2", "no padding", edit(BUILD, ("-(PREFIX_BYTES + len(text)) % ALIGNMENT", "0"))),
    Mutant("S-11.2", "padding to 8", edit(BUILD, ("% ALIGNMENT", "% 8"))),
    Mutant("S-11.2", "at least one space", edit(BUILD, ("-(PREFIX_BYTES + len(text)) % ALIGNMENT", "ALIGNMENT - (PREFIX_BYTES + len(text)) % ALIGNMENT"))),
    Mutant("S-11.2", "padding without the prefix", edit(BUILD, ("-(PREFIX_BYTES + len(text))", "-len(text)"))),
    Mutant("S-11.3", "data by name alone", edit(LAYOUT, ("(-DTYPES[tensors[name][0]].itemsize, name)", "name"))),
    Mutant("S-11.3", "data by dtype alone", edit(LAYOUT, ("(-DTYPES[tensors[name][0]].itemsize, name)", "-DTYPES[tensors[name][0]].itemsize"))),
    Mutant("S-11.3", "data by descending name", edit(LAYOUT, ("(-DTYPES[tensors[name][0]].itemsize, name)", "(DTYPES[tensors[name][0]].itemsize, name), reverse=True"))),
    Mutant("S-11.3", "names without regard to case", edit(LAYOUT, ("itemsize, name)", "itemsize, name.lower())"))),
    Mutant("S-11.3", "data by name of dtype", edit(LAYOUT, ("itemsize, name)", "itemsize, tensors[name][0], name)"))),
    Mutant("S-11.4", "all features required", documents(required=("group-scale", "low-rank", "planes"))),
    Mutant("S-11.4", "features in reverse", edit(DOCUMENT, ("tuple(required)", "tuple(required[::-1])"))),
    Mutant("S-11.5", "no digests", edit(f"{WRITER}._header", ("tensor_digests=digests, header_digest=_NO_DIGEST)", "tensor_digests={}, header_digest=None)"), ("    document = replace(document, header_digest=digest)\n", ""))),
    Mutant("S-11.5", "no header digest", edit(f"{WRITER}._header", ("header_digest=_NO_DIGEST)", "header_digest=None)"), ("    document = replace(document, header_digest=digest)\n", ""))),
    Mutant("S-8.3", "no tensor digests", edit(f"{WRITER}._header", ("tensor_digests=digests", "tensor_digests={}"))),
    Mutant("S-8.2", "header digest of zeros", edit(f"{WRITER}._header", ("header_digest=digest)", "header_digest=_NO_DIGEST)"))),
    Mutant("S-2.1", "no format in the metadata", edit(f"{WRITER}._header", ('{**self._metadata, "format": "pt", KEY', '{**{k: v for k, v in self._metadata.items() if k != "format"}, KEY'))),
    Mutant("S-2.1", "further metadata dropped", edit(f"{WRITER}._header", ('{**self._metadata, "format": "pt", KEY', '{"format": "pt", KEY'))),
    Mutant("S-13.4", "version 1.1", documents(version="1.1")),
]  # fmt: skip

WRONG_WRITERS = [*FILES, *BYTES]
