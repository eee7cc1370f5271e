"""Prompts for image models and sentences for text models: from templates of our own, or from the user's file.

No one's data is needed: `templates.json` holds a grammar for each kind. A text is expanded from it by seeded choices.
Texts are split by a hash of themselves, so that what is held out never depends on how many are drawn, or on the seed.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from random import Random

KINDS = ("image", "text")
SPLITS = ("train", "held-out")
HELD_OUT_SHARE = 1 / 8
WORDS = (4, 60)
"""Fewest and most words of a sentence for text models."""

_ROOTS = {"image": "{prompt}", "text": "{text}"}
_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiou]|hour|honest)(?!uni|use|euro|one)")
_PATIENCE = 200  # draws for each text that is wanted, before the templates count as exhausted


class PromptError(ValueError):
    """There are no prompts, or not enough of them."""


def make_prompts(kind: str, split: str, count: int, seed: int = 0) -> list[str]:
    """Different texts from the templates.

    Args:
        kind: ``image``, prompts for text-to-image models, or ``text``, sentences of 4 to 60 words.
        split: ``train`` or ``held-out``.
        count: how many; a smaller count gives the beginning of the same list.
        seed: which.

    Raises:
        PromptError: the templates do not have so many.
        ValueError: there is no such kind or split.
    """
    if kind not in KINDS or split not in SPLITS:
        raise ValueError(f"expected one of {KINDS} and one of {SPLITS}, got {kind!r} and {split!r}")
    found: dict[str, None] = {}
    for text in _texts(kind, f"{kind} {split} {seed}", _PATIENCE * (count + 1)):
        if len(found) == count:
            return list(found)
        if is_held_out(text) == (split == "held-out"):
            found[text] = None
    raise PromptError(f"the templates give {len(found)} different texts ({kind}, {split}), fewer than {count}")


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file: one a line; blank lines and lines that begin with ``#`` do not count.

    A prompt that stands there twice is drawn twice as often.

    Raises:
        PromptError: it holds none, or is not UTF-8.
        OSError: it cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of prompts: expected a text file with one prompt a line")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise PromptError(f"{path}: expected prompts in UTF-8: {error}") from error
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise PromptError(f"{path}: no prompts in it: expected one a line, which does not begin with #")
    return prompts


def split_prompts(prompts: Sequence[str], split: str, path: Path) -> list[str]:
    """The part of a file's prompts that belongs to a split, in the file's order.

    The eighth with the smallest hashes is held out, and at least one.

    Args:
        prompts: as `read_prompts` gives them.
        split: ``train`` or ``held-out``.
        path: the file, for the message.

    Raises:
        PromptError: there is but one prompt.
    """
    ranked = sorted(set(prompts), key=_rank)
    if len(ranked) < 2:
        raise PromptError(f"{path}: one prompt; expected at least two: one to learn from, one to hold out")
    held_out = set(ranked[: math.ceil(len(ranked) * HELD_OUT_SHARE)])
    return [prompt for prompt in prompts if (prompt in held_out) == (split == "held-out")]


def is_held_out(text: str) -> bool:
    """Whether a text from the templates belongs to the held-out eighth."""
    return _rank(text) < HELD_OUT_SHARE


def _rank(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _texts(kind: str, seed: str, draws: int) -> Iterator[str]:
    grammar, rng = _grammars()[kind], Random(seed)
    for _ in range(draws):
        text = _ARTICLE.sub(r"\1n ", _expand(_ROOTS[kind], grammar, rng))
        if kind == "image" or WORDS[0] <= len(text.split()) <= WORDS[1]:
            yield text


def _expand(template: str, grammar: Mapping[str, Sequence[str]], rng: Random) -> str:
    def choose(match: re.Match[str]) -> str:
        options = grammar[match[1]]
        return _expand(options[int(rng.random() * len(options))], grammar, rng)

    return _SLOT.sub(choose, template)


def templates_digest() -> str:
    """Changes when the templates do."""
    return hashlib.sha256(_templates()).hexdigest()[:12]


@cache
def _templates() -> bytes:
    return (files(__package__) / "templates.json").read_bytes()


@cache
def _grammars() -> Mapping[str, Mapping[str, Sequence[str]]]:
    grammars: dict[str, dict[str, list[str]]] = json.loads(_templates())
    return grammars
