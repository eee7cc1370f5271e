"""The model card (``README.md``) of a converted folder: what it is, of what, under which licence, how to load it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...version import __version__
from ..settings import LayerSettings
from ..source.checkpoint import Checkpoint
from ..source.companions import KEPT_CARD, companions
from ..source.origin import UNKNOWN_LICENSE, Origin, card_metadata

_PLAIN_YAML = re.compile(r"(?!(?:y|n|yes|no|on|off|true|false|null)\Z)[a-z][\w./-]*", re.ASCII | re.IGNORECASE)
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")

_PLAIN_LOADING = """\
```python
import ternfmt

with ternfmt.open("path/to/this/folder") as model:
    print(len(model.tensors))
```
"""


@dataclass(frozen=True)
class Numbers:
    """What a card says of a conversion in numbers.

    Attributes:
        tensors: of the output, ternary ones counted once.
        weights: elements of them.
        ternary_weights: elements of the ternary ones.
        source_bytes, bytes: of all tensors, before and after.
        block_ratio, file_ratio: see `ternfmt.ratios`.
        snr_db: signal to noise of all ternary weights together, if it was measured.
    """

    tensors: int
    weights: int
    ternary_weights: int
    source_bytes: int
    bytes: int
    block_ratio: float
    file_ratio: float
    snr_db: float | None = None


def model_card(
    checkpoint: Checkpoint,
    config: Mapping[str, Any] | None,
    origin: Origin,
    layers: Mapping[str, tuple[LayerSettings, tuple[int, ...]]],
    numbers: Numbers,
) -> str:
    """The card of a model folder or a pipeline's folder.

    Args:
        checkpoint: the source.
        config: the converted model's ``config.json``.
        origin: what is known of it.
        layers: settings and shape of every ternary tensor.
        numbers: of the whole conversion.

    Raises:
        OSError: the source's card cannot be read.
    """
    base = origin.model or checkpoint.path.absolute().name
    part = f" The `{checkpoint.component}` is converted; everything else is as it was." if checkpoint.component else ""
    source_card = card_metadata(checkpoint)
    library = _library(checkpoint, config or {})
    kept = f" The source's card is [{KEPT_CARD}]({KEPT_CARD})." if KEPT_CARD in companions(checkpoint) else ""
    sections = [
        _front_matter(_metadata(library, origin, layers, source_card)),
        f"# {base}, ternary\n\n",
        f"[{base}](https://huggingface.co/{base})" if origin.model else f"`{base}` (its name on the Hub is not known)",
        f" with ternary weights: -1, 0 or +1 times a scale, converted by ternfmt {__version__}.{part}{kept}\n",
        f"\n{_license(origin)}\n",
        "\n## Load\n\n",
        _how_to_load(checkpoint, library, config or {}),
        "\n## What is ternary\n\n",
        _measures(layers, numbers),
        "\n| tensors (# is the block) | count | shape | method | planes | group | rank |\n",
        "|---|---|---|---|---|---|---|\n",
        *_kinds(layers),
        "\nThe other tensors are as in the source. `ternfmt inspect` lists all, `ternfmt verify` checks the files.\n",
    ]
    return "".join(sections)


def _metadata(
    library: str | None,
    origin: Origin,
    layers: Mapping[str, tuple[LayerSettings, tuple[int, ...]]],
    source_card: Mapping[str, str],
) -> Iterator[tuple[str, str | list[str]]]:
    if origin.model:
        yield "base_model", origin.model
        yield "base_model_relation", "quantized"
    if library is not None:
        yield "library_name", library
    if "pipeline_tag" in source_card:
        yield "pipeline_tag", source_card["pipeline_tag"]
    yield "license", origin.license or UNKNOWN_LICENSE
    if origin.license_name:
        yield "license_name", origin.license_name
    if origin.license_link:
        yield "license_link", origin.license_link
    one_plane = all(settings.planes == 1 for settings, _ in layers.values())
    yield "tags", ["ternfmt", "ternary", *(["1.58-bit"] if one_plane else [])]


def _front_matter(values: Iterator[tuple[str, str | list[str]]]) -> str:
    lines = ["---"]
    for key, value in values:
        if isinstance(value, list):
            lines += [f"{key}:", *(f"- {_yaml(item)}" for item in value)]
        else:
            lines.append(f"{key}: {_yaml(value)}")
    return "\n".join([*lines, "---", "", ""])


def _yaml(value: str) -> str:
    """A string in YAML; every JSON string is one."""
    return value if _PLAIN_YAML.fullmatch(value) else json.dumps(value)


def _license(origin: Origin) -> str:
    if origin.license is None:
        return "**Licence: unknown.** The source does not state one; that of the base model applies to this model, too."
    name = origin.license_name or origin.license
    name = f"[{name}]({origin.license_link})" if origin.license_link else name
    return f"Licence: {name}, as stated by the base model; it applies to this model, too."


def _library(checkpoint: Checkpoint, config: Mapping[str, Any]) -> str | None:
    if checkpoint.pipeline is not None or "_class_name" in config:
        return "diffusers"
    return "transformers" if "architectures" in config or "model_type" in config else None


def _how_to_load(checkpoint: Checkpoint, library: str | None, config: Mapping[str, Any]) -> str:
    if library is None:
        return _PLAIN_LOADING
    if checkpoint.pipeline is not None:
        name, variable = "DiffusionPipeline", "pipe"
    elif library == "diffusers":
        name, variable = config["_class_name"], "model"
    else:
        name, variable = (config.get("architectures") or ["AutoModel"])[0], "model"
    dtype = "torch_dtype" if library == "diffusers" else "dtype"
    return (
        f"```sh\npip install 'ternfmt[{library}]'\n```\n\n"
        "```python\n"
        "import torch\n"
        "import ternfmt_runtime  # before from_pretrained\n"
        f"from {library} import {name}\n\n"
        f'{variable} = {name}.from_pretrained("path/to/this/folder", {dtype}=torch.bfloat16)\n'
        "```\n"
    )


def _measures(layers: Mapping[str, tuple[LayerSettings, tuple[int, ...]]], numbers: Numbers) -> str:
    share = numbers.ternary_weights / numbers.weights
    lines = [
        f"- {len(layers)} of {numbers.tensors} tensors, {share:.2%} of {numbers.weights:,} weights",
        f"- block ratio {numbers.block_ratio:.2f}x: BF16 bytes of the ternary weights over their bytes here",
        f"- file ratio {numbers.file_ratio:.2f}x: {numbers.source_bytes:,} bytes before, {numbers.bytes:,} after",
    ]
    if numbers.snr_db is not None:
        lines.append(f"- signal to noise of the ternary weights: {numbers.snr_db:.2f} dB")
    return "\n".join(lines) + "\n"


def _kinds(layers: Mapping[str, tuple[LayerSettings, tuple[int, ...]]]) -> Iterator[str]:
    """One line of the table for each kind of ternary tensor: their names without the number of the block."""
    counts = Counter((_NUMBER.sub("#", name, count=1), shape, settings) for name, (settings, shape) in layers.items())
    for (kind, shape, settings), count in sorted(counts.items(), key=lambda item: item[0][:2]):
        group = settings.group_size or "row"
        dimensions = "x".join(map(str, shape))
        rank = settings.low_rank or ""
        yield f"| `{kind}` | {count} | {dimensions} | {settings.method} | {settings.planes} | {group} | {rank} |\n"
