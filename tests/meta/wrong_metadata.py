"""Readers that get the metadata document or its agreement with the tensors wrong: SPEC sections 2, 5, 6 and 13."""

from __future__ import annotations

import re
from typing import Any

from ternfmt.errors import FormatError, Kind
from ternfmt.names import codes_suffix, scale_suffix
from tests.meta.mutant import Change, Mutant, both, constant, edit, replace, skip
from tests.meta.wrong_containers import CONTAINER, PARSE

METADATA = "ternfmt.metadata"
DOCUMENT = f"{METADATA}:parse_document"
REQUIRED = f"{METADATA}:_parse_required"
ENTRY = f"{METADATA}:_parse_entry"
NUMBERS = f"{METADATA}:_check_numbers"
DIGESTS = f"{METADATA}:_parse_digests"
STRUCTURE = "ternfmt.structure"
CHECK = f"{STRUCTURE}:check_structure"
NAMES = f"{STRUCTURE}:_check_names"
PART = f"{STRUCTURE}:_check_part"
DECLARED = f"{STRUCTURE}:_check_all_declared"


def version(pattern: str) -> Change:
    return constant(f"{METADATA}:_VERSION", re.compile(pattern))


def afterwards(target: str, check: Any) -> Change:
    """Check the result, too; ``check`` returns True to refuse it as METADATA."""

    def make(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if check(result):
                raise FormatError(Kind.METADATA, "", "over-strict")
            return result

        return call

    return replace(target, make)


DOCUMENTS = [
    Mutant("S-2.1", "__metadata__ of any values", edit(f"{CONTAINER}:parse_header", (" or not all(type(v) is str for v in metadata.values())", ""))),
    Mutant("S-2.1", "__metadata__ null is none", edit(f"{CONTAINER}:parse_header", ("metadata = value.pop(METADATA_KEY, {})", "metadata = value.pop(METADATA_KEY, {}) or {}"))),
    Mutant("S-2.1", "format must be pt", edit(f"{CONTAINER}:parse_header", (" or not all(type", ' or metadata.get("format") != "pt" or not all(type'))),
    Mutant("S-2.1", "other keys of __metadata__ refused", edit(f"{CONTAINER}:parse_header", (" or not all(type", " or set(metadata) - {'format', 'ternfmt'} or not all(type"))),
    Mutant("S-2.2", "files without a document are METADATA", edit(DOCUMENT, ("Kind.STRIPPED", "Kind.METADATA"))),
    Mutant("S-2.2", "white space around the document", edit(DOCUMENT, ("framed=True", "framed=False"))),
    Mutant("S-2.2", "no spaces after the document", edit(PARSE, ('" " if framed', '"" if framed'), only=METADATA)),
    Mutant("S-2.2", "U+FEFF before the document", edit(DOCUMENT, ("header.metadata[KEY], location", "header.metadata[KEY].lstrip('\\ufeff'), location"))),
    Mutant("S-2.2", "keys twice in the document", edit(PARSE, ("if duplicates:", "if False:"), only=METADATA)),
    Mutant("S-2.2", "lone surrogates in the document", edit(PARSE, ("if _SURROGATE", "if False and _SURROGATE"), only=METADATA)),
    Mutant("S-2.2", "any depth in the document", edit(PARSE, ("    _check_depth(value, location)\n", ""), only=METADATA)),
    Mutant("S-2.2", "depth goes on from the header's", edit(f"{DOCUMENT}", ("version = _parse_version", "from ternfmt.strict_json import _check_depth\n    _check_depth({'': {'': value}}, location)\n    version = _parse_version"))),
    Mutant("S-2.3", "version absent is 1.0", edit(DOCUMENT, ('value.pop("version", None)', 'value.pop("version", "1.0")'))),
    Mutant("S-2.3", "versions without a minor", version(r"([0-9]+)(\.[0-9]+)?")),
    Mutant("S-2.3", "versions with leading zeros", version(r"0*(0|[1-9][0-9]*)\.([0-9]+)")),
    Mutant("S-2.3", "versions with digits beyond ASCII", version(r"(0|[1-9]\d*|\d)\.(0|[1-9]\d*)")),
    Mutant("S-2.3", "versions up to a line end", constant(f"{METADATA}:_VERSION", type("Pattern", (), {"fullmatch": re.compile(r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)$").match}))),
    Mutant("S-2.3", "versions of three parts", version(r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(\.[0-9]+)?")),
    Mutant("S-2.3", "version as a number", edit(f"{METADATA}:_parse_version", ("if type(version) is str else None", "if isinstance(version, str) else None"))),
    Mutant("S-2.3", "required absent is empty", edit(DOCUMENT, ('value.pop("required", None)', 'value.pop("required", [])'))),
    Mutant("S-2.3", "required with a feature twice", edit(REQUIRED, ("or len(set(required)) != len(required)", ""))),
    Mutant("S-2.3", "tensors absent is empty", edit(DOCUMENT, ('value.pop("tensors", None)', 'value.pop("tensors", {})'))),
    Mutant("S-2.3", "any numbers in ancillary keys", skip(NUMBERS)),
    Mutant("S-2.3", "integers with a fraction", edit(NUMBERS, ("type(item) is NonInteger or", "type(item) is NonInteger and (item.startswith('-0') or not float(item).is_integer()) or"))),
    Mutant("S-2.3", "-0 among ancillary numbers", edit(NUMBERS, ("type(item) is NonInteger or", "type(item) is NonInteger and item != '-0' or"))),
    Mutant("S-2.3", "large numbers in ancillary keys", edit(NUMBERS, (" or (type(item) is int and abs(item) > INTEGER_MAX)", ""))),
    Mutant("S-2.3", "large negative numbers in ancillary keys", edit(NUMBERS, ("abs(item) >", "item >"))),
    Mutant("S-2.3", "integers of 2^53 - 1 refused", edit(NUMBERS, ("abs(item) > INTEGER_MAX", "abs(item) >= INTEGER_MAX"))),
    Mutant("S-2.3", "numbers in digests not checked", edit(DIGESTS, ("    _check_numbers({key", "    bool(location) or _check_numbers({key"))),
    Mutant("S-2.3", "numbers in entries not checked", edit(ENTRY, ("    _check_numbers(rest, location)\n", ""))),
    Mutant("S-2.3", "numbers in arrays not checked", edit(NUMBERS, ("pending.extend(item)\n", "pass\n"))),
    Mutant("S-2.3", "entries compared as if strings were numbers", edit(f"{METADATA}:_parse_entries", ("text = repr(entry_json)", "text = repr(entry_json).replace('NonInteger(', '').replace(')', '')"))),
    Mutant("S-2.3", "producer must be an object", edit(DOCUMENT, ("    _check_listed(", "    _expect_object(value.get('producer', {}), '', location)\n    _check_listed("))),
    Mutant("S-2.5", "unknown keys of the document refused", afterwards(DOCUMENT, lambda document: "note" in document.ancillary)),
    Mutant("S-2.5", "unknown keys of entries refused", afterwards(ENTRY, lambda entry: entry.ancillary)),
    Mutant("S-2.5", "unknown keys of digests refused", edit(DIGESTS, ("    values = [", "    if set(digests) - {'tensors', 'header'}: _fail(location, '')\n    values = ["))),
    Mutant("S-13.1", "minor versions refused", edit(f"{METADATA}:_parse_version", ("match[1] != VERSION.split(\".\")[0]", "match[0] != VERSION"))),
    Mutant("S-13.1", "later major versions read", edit(f"{METADATA}:_parse_version", ("match[1] != VERSION", "match[1] < VERSION"))),
    Mutant("S-13.1", "version 0 read", edit(f"{METADATA}:_parse_version", ("match[1] != VERSION.split(\".\")[0]", "int(match[1]) > 1"))),
    Mutant("S-13.1", "another version is METADATA", edit(f"{METADATA}:_parse_version", ("Kind.VERSION", "Kind.METADATA"))),
    Mutant("S-13.1", "versions of one digit", version(r"([0-9])\.([0-9])")),
    Mutant("S-13.3", "private features ignored", edit(REQUIRED, ("sorted(set(required) - FEATURES)", "[f for f in required if f not in FEATURES and '.' not in f]"))),
]  # fmt: skip

ENTRIES = [
    Mutant("S-2.4", "shapes of one dimension", edit(ENTRY, ("not 2 <= len(shape)", "not 1 <= len(shape)"))),
    Mutant("S-2.4", "dimensions of 0", edit(ENTRY, ("min(shape) < 1", "min(shape) < 0"))),
    Mutant("S-2.4", "dimensions of true", edit(ENTRY, ("set(map(type, shape)) != {int}", "not set(map(type, shape)) <= {int, bool}"))),
    Mutant("S-2.4", "dimensions as strings", edit(ENTRY, ('    shape = rest.pop("shape", None)\n', "    shape = rest.pop('shape', None)\n    shape = [int(d) if type(d) is str and d.isdigit() else d for d in shape] if type(shape) is list else shape\n"))),
    Mutant("S-2.4", "rank of 33", constant(f"{METADATA}:RANK_MAX", 33)),
    Mutant("S-2.4", "rank of 8 at most", constant(f"{METADATA}:RANK_MAX", 8)),
    Mutant("S-2.4", "K not capped", edit(ENTRY, ("k > K_MAX or ", ""))),
    Mutant("S-2.4", "K capped dimension by dimension", edit(ENTRY, ("k > K_MAX or ", "max(shape[1:]) > K_MAX or "))),
    Mutant("S-2.4", "K capped at 2^20", constant(f"{METADATA}:K_MAX", 2**20)),
    Mutant("S-2.4", "N * K not capped", edit(ENTRY, (" or shape[0] * k > INTEGER_MAX", ""))),
    Mutant("S-2.4", "N * K of 32 bits", edit(ENTRY, ("shape[0] * k > INTEGER_MAX", "shape[0] * k >= 2**32"))),
    Mutant("S-2.4", "any encoding", edit(ENTRY, ('if encoding != "int2"', "if encoding is None"))),
    Mutant("S-2.4", "no encoding is int2", edit(ENTRY, ('rest.pop("encoding", None)', 'rest.pop("encoding", "int2")'))),
    Mutant("S-2.4", "encodings in upper case", edit(ENTRY, ('rest.pop("encoding", None)', 'str(rest.pop("encoding", None)).lower()'))),
    Mutant("S-2.4", "2.0 is a dimension", edit(PARSE, ("return NonInteger(literal)", "return int(float(literal)) if float(literal).is_integer() else NonInteger(literal)"), only=METADATA)),
    Mutant("S-5.1", "unknown features ignored", edit(REQUIRED, ("if unknown:", "if False:"))),
    Mutant("S-5.1", "unknown features are METADATA", edit(REQUIRED, ("Kind.FEATURE", "Kind.METADATA"))),
    Mutant("S-5.1", "features in upper case", edit(REQUIRED, ("set(required) - FEATURES", "{f.lower() for f in required} - FEATURES"))),
    Mutant("S-5.1", "features used without being listed", skip(f"{METADATA}:_check_listed")),
    Mutant("S-5.1", "features listed without being used refused", afterwards(DOCUMENT, lambda document: set(document.required) - set().union(*(e.features for e in document.entries.values())))),
    Mutant("S-5.1", "features in alphabetical order only", afterwards(REQUIRED, lambda required: sorted(required) != list(required))),
    *(
        Mutant("S-5.1", f"{feature} need not be listed", edit(f"{METADATA}:_check_listed", ("difference(required)", f"difference([*required, {feature!r}])")))
        for feature in ("group-scale", "planes", "low-rank")
    ),
    *(
        Mutant(rule, f"{key} null is none", edit(f"{METADATA}:_optional_integer", ("if key not in entry:", f"if key not in entry or (key == {key!r} and entry[key] is None):")))
        for key, rule in {"group_size": "S-5.2", "planes": "S-5.3", "low_rank": "S-5.4"}.items()
    ),
    *(
        Mutant(rule, f"{key} true is 1", edit(f"{METADATA}:_optional_integer", ("type(value) is not int or", f"not isinstance(value, int) or (key != {key!r} and type(value) is bool) or"), ("not low <=", "not (low if type(value) is int else 0) <=")))
        for key, rule in {"planes": "S-5.3", "low_rank": "S-5.4"}.items()
    ),
    Mutant("S-5.2", "any group size", edit(ENTRY, ("if group_size is not None and group_size % GROUP_MULTIPLE:", "if False:"))),
    Mutant("S-5.2", "group sizes of 8", edit(ENTRY, ('"group_size", GROUP_MULTIPLE', '"group_size", 8'), ("% GROUP_MULTIPLE:", "% 8:"))),
    Mutant("S-5.2", "powers of two only", afterwards(ENTRY, lambda entry: entry.group_size is not None and entry.group_size & (entry.group_size - 1))),
    Mutant("S-5.2", "groups up to K only", afterwards(ENTRY, lambda entry: (entry.group_size or 0) > entry.k)),
    Mutant("S-5.2", "group size 0 is none", edit(f"{METADATA}:_optional_integer", ("if key not in entry:", "if key not in entry or (key == 'group_size' and entry[key] == 0):"))),
    Mutant("S-5.2", "groups that divide K only", afterwards(ENTRY, lambda entry: entry.k % (entry.group_size or entry.k))),
    Mutant("S-5.3", "one plane", edit(ENTRY, ('"planes", 2', '"planes", 1'))),
    Mutant("S-5.3", "five planes", both(
        edit(ENTRY, ("PLANES_MAX", "5")),
        constant(f"{STRUCTURE}:CODES_SUFFIXES", tuple(map(codes_suffix, range(5)))),
        constant(f"{STRUCTURE}:SCALE_SUFFIXES", tuple(map(scale_suffix, range(5)))),
    )),
    Mutant("S-5.3", "three planes at most", edit(ENTRY, ("PLANES_MAX", "3"))),
    Mutant("S-5.4", "rank 0", edit(ENTRY, ('"low_rank", 1', '"low_rank", 0'))),
    Mutant("S-5.4", "rank past K", edit(ENTRY, ('"low_rank", 1, k', '"low_rank", 1, K_MAX'))),
    Mutant("S-5.4", "rank below K only", edit(ENTRY, ('"low_rank", 1, k', '"low_rank", 1, k - 1'))),
    *(
        Mutant("S-5.5", f"{first} not with {second}", afterwards(ENTRY, lambda entry, pair={first, second}: pair <= entry.features))
        for first, second in (("planes", "group-scale"), ("planes", "low-rank"), ("group-scale", "low-rank"))
    ),
    Mutant("S-8.1", "digests in upper case", constant(f"{METADATA}:_DIGEST", re.compile(r"[0-9a-fA-F]{64}"))),
    Mutant("S-8.1", "digests of any length", constant(f"{METADATA}:_DIGEST", re.compile(r"[0-9a-f]*"))),
    Mutant("S-8.1", "digests up to a line end", constant(f"{METADATA}:_DIGEST", type("Pattern", (), {"fullmatch": re.compile(r"[0-9a-f]{64}$").match}))),
    Mutant("S-8.1", "digests null is none", edit(DOCUMENT, ('value.pop("digests", {})', 'value.pop("digests", {}) or {}'))),
    Mutant("S-8.1", "header digest not checked for its form", edit(DIGESTS, ('*([digests["header"]] if "header" in digests else [])', ""), ('digests.get("header")', 'digests["header"] if type(digests.get("header")) is str else None'))),
]  # fmt: skip

STRUCTURES = [
    Mutant("S-6.1", "stray derived tensors ignored", edit(NAMES, ("suffix not in used_suffixes(", "False and suffix not in used_suffixes("))),
    Mutant("S-6.1", "derived names may be declared", edit(NAMES, ("                name in entries or suffix", "                suffix"), ("and name not in entries:", "or name in entries:"))),
    Mutant("S-6.1", "a third plane is no derived name", constant(f"{STRUCTURE}:RESERVED_SUFFIXES", ("_scale", "_plane2", "_plane2_scale", "_lowrank_down", "_lowrank_up"))),
    Mutant("S-6.1", "low-rank factors are no derived names", constant(f"{STRUCTURE}:RESERVED_SUFFIXES", ("_scale", *(f"_plane{p}{s}" for p in (2, 3, 4) for s in ("", "_scale"))))),
    Mutant("S-6.1", "derived names of dense tensors reserved", edit(NAMES, ("owner = entries.get(name[: -len(suffix)]) if", "owner = {**dict.fromkeys(spans, next(iter(entries.values()), None)), **entries}.get(name[: -len(suffix)]) if"))),
    Mutant("S-6.1", "a stray plane is METADATA", edit(NAMES, ('Kind.NAME,\n                    f"{spans[name]', 'Kind.METADATA,\n                    f"{spans[name]'))),
    Mutant("S-6.2", "derived names of any length", edit(NAMES, ("if longest > NAME_MAX or", "if"))),
    Mutant("S-6.2", "scale names alone are measured", edit(NAMES, ("longest_suffix(entry.planes, entry.low_rank is not None)", "6"))),
    Mutant("S-6.2", "derived names measured, called for or not", edit(NAMES, ("longest_suffix(entry.planes, entry.low_rank is not None)", "13"))),
    Mutant("S-6.2", "names of absent tensors not checked", edit(NAMES, (" or not (name in spans or is_tensor_name(name))", ""))),
    Mutant("S-6.3", "undeclared codes are dense", skip(DECLARED)),
    Mutant("S-6.3", "undeclared codes with scales per row only", edit(DECLARED, ("len(span.shape) == 2", "len(span.shape) == 2 and len(scale.shape) == 1"))),
    Mutant("S-6.3", "undeclared codes with scales F16 only", edit(DECLARED, ("scale.dtype in SCALE_DTYPE_NAMES", 'scale.dtype == "F16"'))),
    Mutant("S-6.3", "undeclared codes without rows or columns are dense", edit(DECLARED, ("len(span.shape) == 2", "len(span.shape) == 2 and 0 not in span.shape"))),
    Mutant("S-6.3", "bytes of any rank beside a scale refused", edit(DECLARED, ("and len(span.shape) == 2", ""))),
    Mutant("S-6.3", "bytes beside a scale of other rows refused", edit(DECLARED, ("and scale.shape[:1] == span.shape[:1]", ""))),
    Mutant("S-6.3", "bytes beside a scale of any dtype refused", edit(DECLARED, ("and scale.dtype in SCALE_DTYPE_NAMES", ""))),
    Mutant("S-6.3", "I8 beside a scale refused", edit(DECLARED, ('span.dtype != "U8"', 'span.dtype not in ("U8", "I8")'))),
    Mutant("S-6.3", "further planes taken for undeclared codes", edit(DECLARED, (" or name in further_planes", ""))),
    Mutant("S-3.3", "codes I8", edit(CHECK, ('("U8",)', '("U8", "I8")')), crashes=True),
    Mutant("S-3.3", "codes of any shape", edit(PART, ("or span.shape != shape", 'or (kind is not Kind.METADATA and span.shape != shape)'))),
    Mutant("S-3.3", "codes of as many bytes", edit(PART, ("span.shape != shape", "__import__('math').prod(span.shape) != __import__('math').prod(shape)"))),
    Mutant("S-3.3", "codes absent are SCALE", edit(CHECK, ("Kind.METADATA, whole)\n        if", "Kind.SCALE, whole)\n        if"))),
    Mutant("S-3.3", "K rounded down", edit(CHECK, ("packed_columns(entry.k)", "max(1, entry.k // 4)"))),
    Mutant("S-4.1", "scales absent are METADATA", edit(CHECK, ("Kind.SCALE", "Kind.METADATA"))),
    Mutant("S-4.1", "scales F64", edit(CHECK, ("        dtypes = SCALE_DTYPE_NAMES\n", "        dtypes = (*SCALE_DTYPE_NAMES, 'F64')\n"))),
    Mutant("S-4.1", "scales of shape [N, 1]", edit(PART, ("elif span.dtype", "elif span.shape == (*shape, 1) and kind is Kind.SCALE:\n        pass\n    elif span.dtype"))),
    Mutant("S-4.1", "one scale for all rows", edit(PART, ("elif span.dtype", "elif span.shape in ((1,), ()) and kind is Kind.SCALE:\n        pass\n    elif span.dtype"))),
    Mutant("S-4.1", "scales BF16 refused", edit(CHECK, ("        dtypes = SCALE_DTYPE_NAMES\n", "        dtypes = ('F32', 'F16')\n"))),
    Mutant("S-5.2", "scales of [N * G]", edit(PART, ("elif span.dtype", "elif kind is Kind.SCALE and len(shape) == 2 and span.shape == (shape[0] * shape[1],):\n        pass\n    elif span.dtype"))),
    Mutant("S-5.3", "planes absent", edit(CHECK, ("for suffix in CODES_SUFFIXES[: entry.planes]:", "for suffix in [s for s in CODES_SUFFIXES[: entry.planes] if s == '' or name + s in spans]:"))),
    Mutant("S-5.3", "a scale dtype for each plane", edit(CHECK, ("if part in spans:", "if False:"))),
    Mutant("S-5.4", "factors of any shape", edit(CHECK, ("(entry.low_rank, entry.k), spans", "spans[down].shape if down in spans else (), spans"), ("(entry.n, entry.low_rank), spans", "spans[up].shape if up in spans else (), spans"))),
    Mutant("S-5.4", "factors of two dtypes", edit(CHECK, ("dtypes = (spans[down].dtype,) if down in spans else SCALE_DTYPE_NAMES", "dtypes = SCALE_DTYPE_NAMES"))),
    Mutant("S-5.4", "factors of the scales' dtype only", edit(CHECK, ("_check_part(down, SCALE_DTYPE_NAMES,", "_check_part(down, (spans[name + '_scale'].dtype,),"))),
    Mutant("S-8.4", "digests of absent tensors ignored", skip(f"{STRUCTURE}:_check_digest_names")),
    Mutant("S-8.4", "digests of absent tensors refused in shards", edit(f"{STRUCTURE}:_check_digest_names", ("if not whole:", "if False:"))),
]  # fmt: skip

WRONG_METADATA = [*DOCUMENTS, *ENTRIES, *STRUCTURES]
