"""The six categories of prompts, after GenEval (Ghosh et al. 2023, arXiv:2310.11513), and their splits.

A prompt is a sentence and the objects it asks for. Sentences are split once, by a hash of their
text: evaluation sentences are never trained on.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "green", "blue", "yellow")
RELATIONS = ("left of", "right of", "above", "below")
NUMBERS = ("two", "three", "four")
CATEGORIES = ("single", "two objects", "counting", "colours", "position", "attribution")
SPLITS = ("train", "validation", "evaluation")
SHARES = ("even", "more-pairs", "as-lost")  # of `calibration_prompts`

# The smallest categories have 4 and 16 sentences and need all of them; their seeds are held out.
SHARED = ("single", "colours")
EVALUATION_SHARE = 1 / 5
VALIDATION_SHARE = 1 / 12

_PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}


@dataclass(frozen=True)
class Wanted:
    """One object that a prompt asks for; ``colour`` is None where any will do."""

    shape: str
    colour: str | None = None


@dataclass(frozen=True)
class Prompt:
    """A sentence and what it asks for.

    Attributes:
        category: one of `CATEGORIES`.
        text: the sentence.
        wanted: the objects, in the order of the sentence.
        relation: where the first object is from the second, for "position" alone.
    """

    category: str
    text: str
    wanted: tuple[Wanted, ...]
    relation: str | None = None


def _prompt(category: str, *wanted: Wanted, relation: str | None = None) -> Prompt:
    """Write the sentence for one or two different objects."""
    names = [f"a {w.colour} {w.shape}" if w.colour else f"a {w.shape}" for w in wanted]
    return Prompt(category, f" {relation or 'and'} ".join(names), wanted, relation)


def _counting(number: str, shape: str, colour: str | None) -> Prompt:
    text = " ".join(word for word in (number, colour, _PLURALS[shape]) if word)
    return Prompt("counting", text, (Wanted(shape, colour),) * (2 + NUMBERS.index(number)))


@cache
def all_prompts() -> Mapping[str, tuple[Prompt, ...]]:
    """Every prompt of every category."""
    coloured = [Wanted(shape, colour) for shape in SHAPES for colour in COLOURS]
    plain_pairs = [(Wanted(a), Wanted(b)) for a, b in itertools.permutations(SHAPES, 2)]
    # As in GenEval, the two objects differ in shape and in colour.
    pairs = [(a, b) for a, b in itertools.product(coloured, coloured) if a.shape != b.shape and a.colour != b.colour]
    return {
        "single": tuple(_prompt("single", Wanted(shape)) for shape in SHAPES),
        "two objects": tuple(_prompt("two objects", a, b) for a, b in plain_pairs),
        "counting": tuple(_counting(n, s, c) for n, s, c in itertools.product(NUMBERS, SHAPES, (None, *COLOURS))),
        "colours": tuple(_prompt("colours", w) for w in coloured),
        "position": tuple(_prompt("position", a, b, relation=r) for r in RELATIONS for a, b in pairs),
        "attribution": tuple(_prompt("attribution", a, b) for a, b in pairs),
    }


@cache
def half_coloured_pairs() -> tuple[Prompt, ...]:
    """Sentences such as "a red circle and a square", for training alone; they are in no split.

    Eight sentences of "two objects" are too few to learn from that a colour may be missing.
    """
    shapes = itertools.permutations(SHAPES, 2)
    return tuple(
        _prompt("two objects", *pair)
        for (a, b), colour in itertools.product(shapes, COLOURS)
        for pair in ((Wanted(a, colour), Wanted(b)), (Wanted(a), Wanted(b, colour)))
    )


def placed_pairs() -> tuple[Prompt, ...]:
    """Sentences such as "a circle above a red square", which are in no category and no split: for calibration alone."""
    halves = half_coloured_pairs() + all_prompts()["two objects"]
    return tuple(_prompt("position", *pair.wanted, relation=r) for r, pair in itertools.product(RELATIONS, halves))


def calibration_prompts(shares: str = "even") -> list[Prompt]:
    """Sentences of the training split, taken in turns from several lists, which are repeated as often as needed.

    Args:
        shares: one of `SHARES`. "even" is every category once; "more-pairs" adds two categories once more, and
            `placed_pairs`; "as-lost" has two objects, position and attribution twice: those of which ternary weights
            still lose something, beside numbers.
    """
    if shares not in SHARES:
        raise ValueError(f"no shares {shares!r}: choose from {', '.join(SHARES)}")
    of = split("train")
    two_objects = of["two objects"] + half_coloured_pairs()
    even = [two_objects if name == "two objects" else of[name] for name in CATEGORIES]
    turns = {
        "even": even,
        "more-pairs": [*even, two_objects, of["counting"], placed_pairs()],
        "as-lost": [
            of["single"] + of["colours"],
            of["counting"],
            half_coloured_pairs(),
            *(of[name] for name in ("two objects", "position", "attribution") * 2),
        ],
    }[shares]
    most = max(map(len, turns))
    return [prompts[number % len(prompts)] for number in range(most) for prompts in turns]


@cache
def split(name: str) -> Mapping[str, tuple[Prompt, ...]]:
    """The prompts of one of `SPLITS`, by category.

    In each category the sentences are ranked by a hash of their text; the first fifth is for
    evaluation, the next twelfth for validation, the rest for training. The categories in `SHARED`
    are not divided.
    """
    if name not in SPLITS:
        raise ValueError(f"no split {name!r}: choose from {', '.join(SPLITS)}")
    chosen = {}
    for category, prompts in all_prompts().items():
        ranked = sorted(prompts, key=lambda prompt: hashlib.sha256(prompt.text.encode()).digest())
        first = math.ceil(len(ranked) * EVALUATION_SHARE)
        second = first + math.ceil(len(ranked) * VALIDATION_SHARE)
        parts = {"evaluation": ranked[:first], "validation": ranked[first:second], "train": ranked[second:]}
        chosen[category] = tuple(ranked if category in SHARED else parts[name])
    return chosen
