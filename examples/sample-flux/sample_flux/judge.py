"""Decides whether a picture shows what its prompt asks for, by the rules of GenEval's six categories.

Stricter than GenEval in one thing: nothing but the wanted objects may be in the picture.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from sample_flux.detect import Found, detect
from sample_flux.prompts import Prompt, Wanted
from sample_flux.scenes import Images


def passes(prompt: Prompt, image: Images) -> bool:
    """Judge one picture, float32 [3, size, size] in [0, 1]."""
    found = detect(image)
    return len(found) == len(prompt.wanted) and any(
        all(map(_is_wanted, order, prompt.wanted)) and _is_placed(order, prompt.relation)
        for order in itertools.permutations(found)
    )


def _is_wanted(found: Found, wanted: Wanted) -> bool:
    return found.shape == wanted.shape and wanted.colour in (None, found.colour)


def _is_placed(found: Sequence[Found], relation: str | None) -> bool:
    """Whether the first object is in this relation to the second: one of four directions, the nearest."""
    if relation is None:
        return True
    x, y = found[0].x - found[1].x, found[0].y - found[1].y
    horizontal = "left of" if x < 0 else "right of"
    vertical = "above" if y < 0 else "below"
    return relation == (horizontal if abs(x) > abs(y) else vertical)
