"""Which model a checkpoint is, and under which licence, as far as its files say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from .checkpoint import Checkpoint
from .companions import CARD, license_files

UNKNOWN_LICENSE = "unknown"
"""The Hub's identifier for a licence that nobody has stated."""

_HUB_CACHE = re.compile(r"models--(.+?)--(.+)")
_SCALAR = re.compile(r"(?P<key>[a-z_]+):[ \t]*(?P<value>.*?)[ \t]*(?:#.*)?")
_LIST_ITEM = re.compile(r"[ \t]*-[ \t]+(?P<value>.*?)[ \t]*")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class Origin:
    """What is known of a checkpoint; None is not known.

    Attributes:
        model: its name on the Hub, ``organisation/name``.
        license, license_name, license_link: as in the card's metadata; a file's name is a link relative to the card.
    """

    model: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None

    def to_json(self) -> dict[str, str]:
        """The ``source`` of the metadata document (SPEC S-2.3): what is known, under the names above."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def find_origin(checkpoint: Checkpoint, metadata: Mapping[str, str], model: str | None = None) -> Origin:
    """Look for name and licence.

    The licence is the one of the card (``README.md``) beside the weights, or in the folder of the pipeline that the
    weights are part of; else ``modelspec.license`` in the weights' own metadata; else a licence file, whatever it says.
    The name is that of the Hub's cache: no file of a model says it reliably.

    Args:
        checkpoint: the source.
        metadata: ``__metadata__`` of its weights.
        model: the model's name, if the user gave it.

    Raises:
        ValueError: the name is not of the form ``organisation/name``.
        OSError: a card cannot be read.
    """
    if model is not None and not _REPOSITORY.fullmatch(model):
        raise ValueError(f"--base-model {model!r}: expected organisation/name, as on the Hub")
    stated = card_metadata(checkpoint)
    license_file = next((file.name for file in license_files(checkpoint)), None)
    if "license" not in stated:
        stated = {"license": metadata["modelspec.license"]} if metadata.get("modelspec.license") else {}
    if not stated and license_file is not None:
        stated = {"license": "other", "license_link": license_file}
    return Origin(model or _cached_name(checkpoint.path), *map(stated.get, ("license", "license_name", "license_link")))


def card_metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """The scalars of the front matter of the source's card; of a list, its first item.

    Raises:
        OSError: the card cannot be read.
    """
    for home in checkpoint.homes:
        card = home / CARD
        if card.is_file():
            return _front_matter(card.read_text(encoding="utf-8", errors="replace"))
    return {}


def _cached_name(path: Path) -> str | None:
    for part in path.absolute().parts:
        match = _HUB_CACHE.fullmatch(part)
        if match:
            return f"{match[1]}/{match[2]}"
    return None


def _front_matter(text: str) -> dict[str, str]:
    """Enough YAML for a card: ``key: value`` at the left margin, and ``- item`` below a key without a value."""
    lines = text.removeprefix("\ufeff").splitlines()
    if not lines or lines[0].rstrip() != "---":
        return {}
    found: dict[str, str] = {}
    open_key = None
    for line in lines[1:]:
        if line.rstrip() in ("---", "..."):
            return found
        scalar, item = _SCALAR.fullmatch(line), _LIST_ITEM.fullmatch(line)
        if scalar:
            open_key = scalar["key"]
            value = scalar["value"].strip("[]").partition(",")[0]
        elif item and open_key not in (None, *found):
            value = item["value"]
        else:
            continue
        value = value.strip().strip("\"'")
        if value and open_key is not None:
            found[open_key] = value
    return {}  # no end: it is a text with a rule at its top
