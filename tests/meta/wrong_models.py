"""Readers that get shards, indices, folders or configs wrong: SPEC section 7."""

from __future__ import annotations

import re

from tests.meta.mutant import Change, Mutant, both, constant, edit, replace, skip
from tests.meta.wrong_containers import JSON, PARSE
from tests.meta.wrong_values import MODEL

INDEX = "ternfmt.index"
READ = f"{INDEX}:read_index"
FIND = f"{INDEX}:find_source"
CHECK = f"{INDEX}:check_index"
EQUALS = f"{INDEX}:_equals"
PLAIN = f"{INDEX}:_is_plain"
WEIGHTS = f"{INDEX}:_weights_in"
CONFIG = f"{INDEX}:check_config"
UNION = "ternfmt.reader:_union"
MERGE = "ternfmt.reader:_merge"


def shard_names(pattern: str, flags: int = 0) -> Change:
    return constant(f"{INDEX}:_SHARD_NAME", re.compile(pattern, flags))


def refused_in_names(pattern: str) -> Change:
    return constant(f"{INDEX}:_NOT_PLAIN", re.compile(pattern))


SHARDS = [
    Mutant("S-7.1", "the first shard's document alone", edit(UNION, ("    if len(documents) == 1:", "    if True:"))),
    Mutant("S-7.1", "the last shard's document alone", edit(UNION, ("    if len(documents) == 1:\n        return documents[0]", "    if True:\n        return documents[-1]"))),
    Mutant("S-7.1", "a shard must describe all that it holds", edit(f"{MODEL}.__init__", ("    self.document = _union(", "    for document, header in zip(self.documents, headers):\n        if any(span.dtype == 'U8' and name not in document.entries and '_plane' not in name for name, span in header.spans.items()): raise FormatError(Kind.METADATA, '', '')\n    self.document = _union("))),
    Mutant("S-7.1", "every shard must be described whole", edit(f"{MODEL}.__init__", ("    self.document = _union(", "    for document, header in zip(self.documents, self.stored.headers):\n        if source.index is not None:\n            check_structure(document, header.spans, '', whole=True)\n    self.document = _union("))),
    Mutant("S-7.1", "shards without entries refused", edit(MERGE, ("    for name, value", "    if not new and known and type(next(iter(known.values()))) is not str: raise FormatError(Kind.METADATA, file, '')\n    for name, value"))),
    Mutant("S-7.2", "every file is a whole model", edit(FIND, ("is_shard_name(path.name) if shard is None", "False if shard is None"))),
    Mutant("S-7.2", "every file is a shard", edit(FIND, ("is_shard_name(path.name) if shard is None", "True if shard is None"))),
    Mutant("S-7.2", "folders by the names of their files", edit(FIND, ("source = find_source(weights, shard=False,", "source = find_source(weights, shard=None,"), ("config if config.is_file() else None, True)", "config if config.is_file() else None, source.whole)"))),
    Mutant("S-7.2", "a folder is what the caller says", edit(FIND, ("config if config.is_file() else None, True)", "config if config.is_file() else None, not shard)"))),
    Mutant("S-7.2", "an index is what the caller says", edit(FIND, ("return Source(path, files, index, None, True)", "return Source(path, files, index, None, not shard)"))),
    Mutant("S-7.2", "what the caller says is ignored", edit(FIND, (" if shard is None else shard)", ")"))),
    Mutant("S-7.2", "four digits are enough", shard_names(r"-[0-9]{4,5}-of-[0-9]{4,5}\.safetensors\Z")),
    Mutant("S-7.2", "any number of digits", shard_names(r"-[0-9]+-of-[0-9]+\.safetensors\Z")),
    Mutant("S-7.2", "more than five digits", shard_names(r"-[0-9]{5,}-of-[0-9]{5,}\.safetensors\Z")),
    Mutant("S-7.2", "digits beyond ASCII", shard_names(r"-\d{5}-of-\d{5}\.safetensors\Z")),
    Mutant("S-7.2", "upper case", shard_names(r"-[0-9]{5}-of-[0-9]{5}\.safetensors\Z", re.IGNORECASE)),
    Mutant("S-7.2", "anywhere in the name", shard_names(r"-[0-9]{5}-of-[0-9]{5}\.safetensors")),
    Mutant("S-7.2", "a stem is needed", shard_names(r".-[0-9]{5}-of-[0-9]{5}\.safetensors\Z")),
    Mutant("S-7.2", "numbers must make sense", shard_names(r"-(?!99999)[0-9]{5}-of-(?!00000)[0-9]{5}\.safetensors\Z")),
    Mutant("S-7.2", "other separators", shard_names(r"[-_][0-9]{5}-of-[0-9]{5}\.safetensors\Z")),
]  # fmt: skip

INDICES = [
    Mutant("S-1.3", "byte order mark of the index skipped", edit(f"{JSON}:decode_utf8", ("    if raw.startswith", "    raw = raw.removeprefix(codecs.BOM_UTF8)\n    if raw.startswith"), only=INDEX)),
    Mutant("S-1.5", "any depth in the index", edit(PARSE, ("    _check_depth(value, location)\n", ""), only=INDEX)),
    Mutant("S-1.5", "NaN in the index", edit(PARSE, ('lambda name: fail(f"{name} is not JSON")', "lambda name: 16"), only=INDEX)),
    Mutant("S-1.6", "keys twice in the index", edit(PARSE, ("if duplicates:", "if False:"), only=INDEX)),
    Mutant("S-7.3", "no white space around the index", edit(READ, ("framed=False", "framed=True"))),
    Mutant("S-7.3", "anything after the index", edit(PARSE, ("if text[end:]", "if framed and text[end:]"), only=INDEX)),
    Mutant("S-7.3", "index of any size", edit(READ, ("if len(raw) > HEADER_MAX:", "if False:"))),
    Mutant("S-7.3", "over-long index is JSON", edit(READ, ('raise FormatError(Kind.INDEX, location, f"more', 'raise FormatError(Kind.JSON, location, f"more'))),
    Mutant("S-7.3", "total_size not compared", edit(CHECK, ("if index.total_size is not None and not _equals(index.total_size, total):", "if False:"))),
    Mutant("S-7.3", "total_size an upper bound", edit(CHECK, ("if index.total_size is not None and not _equals(index.total_size, total):", "if index.total_size is not None and float(index.total_size) < total:"))),
    Mutant("S-7.3", "total_size a lower bound", edit(CHECK, ("if index.total_size is not None and not _equals(index.total_size, total):", "if index.total_size is not None and float(index.total_size) > total:"))),
    Mutant("S-7.3", "total_size of any type", edit(READ, ("type(total_size) not in (int, NonInteger)", "False"))),
    Mutant("S-7.3", "total_size an integer only", edit(READ, ("not in (int, NonInteger)", "not in (int,)"))),
    Mutant("S-7.3", "total_size rounded down", edit(CHECK, ("not _equals(index.total_size, total)", "int(min(float(index.total_size), 1e18)) != total"))),
    Mutant("S-7.3", "total_size rounded to a double", edit(CHECK, ("not _equals(index.total_size, total)", "float(index.total_size) != total"))),
    Mutant("S-7.3", "total_size whatever its sign", edit(EQUALS, ('and not mantissa.startswith("-") ', ""))),
    Mutant("S-7.3", "total_size -0 is not 0", edit(EQUALS, ("if not significant:", 'if not significant and not mantissa.startswith("-"):'))),
    Mutant("S-7.3", "weight_map without tensors refused", edit(READ, ("if not isinstance(weight_map, dict)", "if not weight_map or not isinstance(weight_map, dict)"))),
    Mutant("S-7.3", "total_size required", edit(READ, ('"total_size" in metadata and', "True and"))),
    Mutant("S-7.3", "metadata required", edit(READ, ('value.get("metadata", {})', 'value.get("metadata")'))),
    Mutant("S-7.3", "metadata null is none", edit(READ, ('value.get("metadata", {})', 'value.get("metadata") or {}'))),
    Mutant("S-7.3", "weight_map absent is empty", edit(READ, ('value.get("weight_map")', 'value.get("weight_map", {})'))),
    Mutant("S-7.3", "unknown keys of the index refused", edit(READ, ("    metadata = value", "    if set(value) - {'metadata', 'weight_map'}: raise FormatError(Kind.INDEX, location, '')\n    metadata = value"))),
    Mutant("S-7.3", "unknown keys of its metadata refused", edit(READ, ("    total_size = ", "    if set(metadata) - {'total_size'}: raise FormatError(Kind.INDEX, location, '')\n    total_size = "))),
    Mutant("S-7.4", "any shard names", replace(PLAIN, lambda _: lambda name: True), crashes=True),
    Mutant("S-7.4", "shard names in sub-folders", refused_in_names(r"\.\./|^/|[\\:\x00-\x1f\x7f]")),
    Mutant("S-7.4", "shard names with ..", refused_in_names(r"^/|[\\:\x00-\x1f\x7f]"), crashes=True),
    Mutant("S-7.4", "shard names with backslashes", refused_in_names(r"[/:\x00-\x1f\x7f]")),
    Mutant("S-7.4", "shard names with colons", refused_in_names(r"[/\\\x00-\x1f\x7f]")),
    Mutant("S-7.4", "shard names with control characters", refused_in_names(r"[/\\:\x00]")),
    Mutant("S-7.4", "shard names with DEL", refused_in_names(r"[/\\:\x00-\x1f]")),
    Mutant("S-7.4", "shard names beyond ASCII refused", refused_in_names(r"[/\\:\x00-\x1f\x7f-\U0010ffff]")),
    Mutant("S-7.4", "shard names with spaces refused", refused_in_names(r"[/\\:\x00-\x20\x7f]")),
    Mutant("S-7.4", "shard names with dots refused", refused_in_names(r"[/\\:\x00-\x1f\x7f]|\.\.")),
    Mutant("S-7.4", "shard names called ..", edit(PLAIN, ('not in (".", "..")', 'not in (".",)'))),
    Mutant("S-7.4", "empty shard names", edit(PLAIN, ("0 < len", "0 <= len"))),
    Mutant("S-7.4", "shard names measured in characters", edit(PLAIN, ("len(name.encode())", "len(name)")), crashes=True),
    Mutant("S-7.4", "a name that is not plain is INDEX", edit(READ, ("Kind.PATH", "Kind.INDEX"))),
    Mutant("S-7.4", "links refused always", edit(FIND, ("if strict_links and", "if"))),
    Mutant("S-7.4", "links followed in strict mode", edit(FIND, ("if strict_links and", "if False and"))),
    Mutant("S-7.4", "strict mode looks at the index, too", edit(FIND, ("    index = read_index(path)\n", "    if strict_links and path.is_symlink(): raise FormatError(Kind.PATH, '', '')\n    index = read_index(path)\n"))),
    Mutant("S-7.4", "shards where the index's link leads", edit(FIND, ("    index = read_index(path)\n", "    index = read_index(path)\n    path = path.resolve()\n"))),
    Mutant("S-7.5", "tensors that the index lists, but no shard holds", edit(CHECK, ("if name not in spans_by_file[index.path.parent / shard]:", "if False:"))),
    Mutant("S-7.5", "tensors that no index lists", edit(CHECK, ("if listed != file.name:", "if listed is not None and listed != file.name:"))),
    Mutant("S-7.5", "tensors in another shard than listed", edit(CHECK, ("if name not in spans_by_file[index.path.parent / shard]:", "if not any(name in spans for spans in spans_by_file.values()):"), ("if listed != file.name:", "if listed is None:"))),
    Mutant("S-7.5", "tensors in two shards", edit(CHECK, ("if listed != file.name:", "if listed is None:"))),
    Mutant("S-7.6", "of two entries the first wins", edit(MERGE, ("if not _same_json(known.setdefault(name, value), value):", "known.setdefault(name, value)\n        if False:"))),
    Mutant("S-7.6", "of two entries the last wins", edit(MERGE, ("if not _same_json(known.setdefault(name, value), value):", "known[name] = value\n        if False:"))),
    Mutant("S-7.6", "ancillary keys of entries not compared", replace("ternfmt.reader:_same_json", lambda _: lambda a, b: a == b if isinstance(a, str) else a.shape == b.shape)),
    Mutant("S-7.6", "1 equals true", replace("ternfmt.reader:_same_json", lambda _: lambda a, b: a == b)),
    Mutant("S-7.6", "digests not compared", replace("ternfmt.reader:_same_json", lambda original: lambda a, b: isinstance(a, str) or original(a, b))),
    Mutant("S-7.6", "documents compared whole", edit(f"{MODEL}.__init__", ("    self.document = _union(", "    if len({(document.version, str(document.ancillary)) for document in self.documents}) > 1: raise FormatError(Kind.METADATA, '', '')\n    self.document = _union("))),
    Mutant("S-7.6", "entries compared as text", edit(f"{MODEL}.__init__", ("    self.document = _union(", "    if len({str(__import__('json').loads(header.metadata['ternfmt'])['tensors'].get('w')) for header in headers}) > 1: raise FormatError(Kind.METADATA, '', '')\n    self.document = _union("))),
]  # fmt: skip

FOLDERS = [
    Mutant("S-7.7", "of several candidates the first", edit(WEIGHTS, ("if len(candidates) == 1:", "if candidates:"))),
    Mutant("S-7.7", "files before indices", edit(WEIGHTS, ("(INDEX_SUFFIX, FILE_SUFFIX):", "(FILE_SUFFIX, INDEX_SUFFIX):"))),
    Mutant("S-7.7", "folders are candidates", edit(WEIGHTS, (" if entry.is_file()", "")), crashes=True),
    Mutant("S-7.7", "links are no candidates", edit(WEIGHTS, ("if entry.is_file()", "if entry.is_file() and not entry.is_symlink()"))),
    Mutant("S-7.7", "candidates in any case", edit(WEIGHTS, ("name.endswith(suffix)", "name.lower().endswith(suffix)"))),
    Mutant("S-7.7", "one name only", edit(WEIGHTS, ("name.endswith(suffix)", "name == 'model' + suffix"))),
    Mutant("S-7.7", "anything that looks like it", edit(WEIGHTS, ("name.endswith(suffix)", "suffix in name"))),
    Mutant("S-7.7", "no weights is no model", edit(WEIGHTS, ('raise FormatError(Kind.INDEX, str(folder), f"expected one *{INDEX_SUFFIX} or', 'raise FormatError(Kind.PATH, str(folder), f"expected one *{INDEX_SUFFIX} or'))),
    Mutant("S-7.8", "config not read", skip(CONFIG)),
    Mutant("S-7.8", "config beside a file or an index read", edit(FIND, ("return Source(path, (path,), None, None, whole)", "return Source(path, (path,), None, (path.parent / 'config.json') if (path.parent / 'config.json').exists() else None, whole)"), ("return Source(path, files, index, None, True)", "return Source(path, files, index, (path.parent / 'config.json') if (path.parent / 'config.json').exists() else None, True)"))),
    Mutant("S-7.8", "config required", edit(FIND, ("if config.is_file() else None", ""),), crashes=True),
    Mutant("S-7.8", "config that is a folder read", edit(FIND, ("config.is_file()", "config.exists()")), crashes=True),
    Mutant("S-7.8", "config that is a link to nothing read", edit(FIND, ("config.is_file()", "(config.is_file() or config.is_symlink())")), crashes=True),
    Mutant("S-7.8", "quantization_config required", edit(CONFIG, ('if "quantization_config" not in value:\n        return', 'if "quantization_config" not in value:\n        fail("")'))),
    Mutant("S-7.8", "another quant_method let through", edit(CONFIG, (' or quantization.get("quant_method") != "ternfmt"', ""))),
    Mutant("S-7.8", "quant_method absent", edit(CONFIG, ('quantization.get("quant_method")', 'quantization.get("quant_method", "ternfmt")'))),
    Mutant("S-7.8", "quantization_config of any type", edit(CONFIG, ("    quantization: Any = value[\"quantization_config\"]\n", "    quantization: Any = value['quantization_config']\n    if not isinstance(quantization, dict): return\n"))),
    Mutant("S-7.8", "format_version not compared", edit(CONFIG, ('if "format_version" in quantization and', "if False and"))),
    Mutant("S-7.8", "format_version required", edit(CONFIG, ('if "format_version" in quantization and', "if"))),
    Mutant("S-7.8", "format_version null is none", edit(CONFIG, ('if "format_version" in quantization and', "if stated is not None and"))),
    Mutant("S-7.8", "format_version a number", edit(CONFIG, ("stated != version for", "str(stated) != version for"))),
    Mutant("S-7.8", "major version alone compared", edit(CONFIG, ("stated != version for", "str(stated)[:1] != version[:1] for"))),
    Mutant("S-7.8", "format_version of the first shard alone", edit(f"{MODEL}.__init__", ("for document in self.documents}", "for document in self.documents[:1]}"))),
    Mutant("S-7.8", "format_version of one shard is enough", edit(CONFIG, ("any(stated != version", "all(stated != version"))),
    Mutant("S-7.8", "format_version must be 1.0", edit(CONFIG, ("for version in versions)", "for version in ['1.0'])"))),
    Mutant("S-7.8", "config must be strict JSON", edit(CONFIG, ("object_pairs_hook=unique", "object_pairs_hook=unique, parse_constant=lambda name: fail(name)"))),
    Mutant("S-7.8", "config with keys twice", edit(CONFIG, (", object_pairs_hook=unique", ""))),
    Mutant("S-7.8", "config with other keys twice", edit(CONFIG, ("if len(dict(pairs)) != len(pairs)", "if len({'quant_method', 'quantization_config'} & set(dict(pairs))) and len(dict(pairs)) != len(pairs)"))),
    Mutant("S-7.8", "config in any encoding", edit(CONFIG, ('.decode("utf-8-sig")', ""))),
    Mutant("S-7.8", "config with unpaired surrogates refused", edit(CONFIG, ("    if not isinstance(value, dict)", "    json.dumps(value, ensure_ascii=False).encode()\n    if not isinstance(value, dict)")), crashes=True),
    Mutant("S-7.8", "config that is not JSON ignored", edit(CONFIG, ('        fail(f"not JSON: {error}")', "        return"))),
    Mutant("S-7.8", "config that is no object ignored", edit(CONFIG, ('fail(f"expected an object, got {type(value).__name__}")', "return"))),
    Mutant("S-7.8", "config that is not JSON is JSON", edit(CONFIG, ('        fail(f"not JSON: {error}")', "        raise FormatError(Kind.JSON, '', '') from error"))),
    Mutant("S-7.8", "unknown keys of the config refused", edit(CONFIG, ("    stated = ", "    if set(quantization) - {'quant_method', 'format_version'}: fail('')\n    stated = "))),
    Mutant("S-10.2", "shards absent are found late", edit(FIND, ("if not file.is_file():", "if False:")), crashes=True),
    Mutant("S-10.2", "shards before the index's tensors and documents", edit(f"{MODEL}.__init__", ("self.documents = [parse_document(self.stored.add(file)) for file in source.files]", "self.documents = [parse_document(header) for header in [self.stored.add(file) for file in source.files]]"))),
    Mutant("S-10.2", "entries before the index", edit(f"{MODEL}.__init__", ("    if source.index is not None:", "    self.document = _union(self.documents, headers)\n    if source.index is not None:"))),
    Mutant("S-10.2", "tensors before entries", edit(f"{MODEL}.__init__", ("    self.document = _union(", "    check_structure(self.documents[0], self.stored.spans, '', whole=False)\n    self.document = _union("))),
    Mutant("S-10.2", "links before names", edit(FIND, ("    index = read_index(path)\n", "    if strict_links and any(entry.is_symlink() for entry in path.parent.iterdir()): raise FormatError(Kind.PATH, '', '')\n    try:\n        index = read_index(path)\n    except FormatError:\n        raise FormatError(Kind.INDEX, '', '') from None\n"))),
    Mutant("S-10.2", "absent shards before links", edit(FIND, ("    for file in files:\n        if strict_links", "    for file in files:\n        if not file.is_file(): raise FormatError(Kind.INDEX, '', '')\n    for file in files:\n        if strict_links"))),
    Mutant("S-10.2", "features of the union, not of each shard", both(skip("ternfmt.metadata:_check_listed"))),
    Mutant("S-10.3", "config before tensors", edit(f"{MODEL}.__init__", ("    check_structure(", "    if source.config is not None:\n        check_config(source.config, {document.version for document in self.documents})\n    check_structure("))),
    Mutant("S-10.3", "config after codes", both(
        edit(f"{MODEL}.__init__", ("if source.config is not None:", "if False:")),
        edit("ternfmt.validate:validate", ("        ternary = sum(", "        if model.source.config is not None:\n            from ternfmt.index import check_config\n            check_config(model.source.config, {document.version for document in model.documents})\n        ternary = sum(")),
    )),
]  # fmt: skip

WRONG_MODELS = [*SHARDS, *INDICES, *FOLDERS]
