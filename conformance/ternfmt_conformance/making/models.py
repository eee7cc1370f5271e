"""Cases of level R3: models in several files, folders, configs, and single shards."""

from __future__ import annotations

from typing import Any

from ternfmt_conformance.files.bad_models import MODEL_CASES, Folder, two_shards
from ternfmt_conformance.files.bad_parts import PART_CASES
from ternfmt_conformance.files.decode import Decoder
from ternfmt_conformance.files.good_models import GOOD_MODELS, INDEX, GoodModel

from .collect import INLINE_BYTES, Collector, slug, sparse
from .expect import dequantized, description, sha256
from .single_files import ALL_FEATURES


def add_models(corpus: Collector) -> None:
    """All cases of level R3."""
    for case in MODEL_CASES:
        model = two_shards()
        case.mutate(model)
        kind = case.kind.value
        name = f"{kind.lower()}/{slug(case.name)}"
        corpus.case(name, case.name, "R3", [case.rule], "validate", {"class": kind},
                    strict_links=model.strict_links or None, **_place(corpus, f"invalid/models/{name}", model))  # fmt: skip
    for part in PART_CASES:
        kind = part.kind.value
        name = f"{kind.lower()}/{slug(part.name)}"
        corpus.case(name, part.name, "R3", [part.rule], "validate", {"class": kind}, features=part.features,
                    **part.arguments, **_place(corpus, f"invalid/models/{name}", part.folder()))  # fmt: skip
    for good in GOOD_MODELS:
        _add_good(corpus, good)


def _add_good(corpus: Collector, good: GoodModel) -> None:
    model = good.folder()
    name = slug(good.name)
    place = _place(corpus, f"valid/models/{name}", model)
    read = model.shards if good.shards is None else {shard: model.shards[shard] for shard in good.shards}
    if model.open == "." and "other.safetensors" in read:  # an index wins
        read = {shard: raw for shard, raw in read.items() if shard != "other.safetensors"}
    shards = [raw.build() for _, raw in sorted(read.items())]
    required = {feature for raw in read.values() for feature in raw.document["required"]}
    used = [feature for feature in ALL_FEATURES if feature in required]
    corpus.case(f"valid/{name}", good.name, "R3", [good.rule], "validate", {"ok": True}, features=used,
                **good.arguments, **place)  # fmt: skip
    if good.arguments.get("read_as", "auto") == "auto":
        corpus.case(f"describe/{name}", f"describe: {good.name}", "R3", [good.rule], "describe",
                    {"tensors": description(*shards)}, features=used, **place)  # fmt: skip
    if good.name in ("folder", "index", "three shards, features", "as save_pretrained writes"):
        decoder = Decoder(*shards)
        codes = decoder.codes("w", 1)
        corpus.case(f"dequantize/{name}", f"dequantize: {good.name}", "R3", [good.rule, "S-7.1", "S-4.6"],
                    "dequantize", {"sha256": sha256(dequantized(decoder, "w", "F32"))}, features=used, tensor="w",
                    dtype="F32", **place)  # fmt: skip
        corpus.case(f"unpack/{name}", f"unpack: {good.name}", "R3", [good.rule, "S-7.1", "S-3.4"], "unpack",
                    {"sha256": sha256(codes.tobytes())}, features=used, tensor="w", plane=1, rows=["0", "2"],
                    **place)  # fmt: skip


def _place(corpus: Collector, path: str, model: Folder) -> dict[str, Any]:
    """Add a folder, or leave it to a recipe where it holds links, large files or odd names."""
    files = model.files()
    awkward = any(not name.isascii() or set(name) & set("$%~ ") for name in files)
    lower = {name.lower() for name in files}
    if (
        not model.links
        and not awkward
        and len(lower) == len(files)
        and max(map(len, files.values()), default=0) <= INLINE_BYTES
    ):
        for name, data in files.items():
            corpus.file(f"{path}/{name}", data)
        return {"path": path if model.open == "." else f"{path}/{model.open}"}
    recipe = {name: sparse(data) for name, data in files.items()}
    return {
        "path": model.open,
        "recipe": {**recipe, **{name: {"link": target} for name, target in model.links.items()}},
    }


__all__ = ["INDEX", "add_models"]
