"""Scenes of up to four simple objects on a dark background, drawn from a prompt. Nothing is stored."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sample_flux.prompts import COLOURS, SHAPES, Prompt

Images = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

SIZE = 24  # pixels: 36 patches of 4 x 4, so that one CPU core can train on a million pictures
GAP = 1.5  # pixels between the boxes of two objects, so that they never touch
MARGIN = 0.5  # pixels between a box and the border

BACKGROUND = (0.08, 0.08, 0.10)
RGB = {"red": (0.92, 0.14, 0.14), "green": (0.12, 0.74, 0.24), "blue": (0.16, 0.28, 1.0), "yellow": (1.0, 0.85, 0.12)}

# Half the side of an object's box in pixels, by the number of objects: as large as fits.
RADII = {1: (4.5, 8.0), 2: (4.0, 5.5), 3: (3.75, 4.5), 4: (3.75, 4.25)}
# Arrangements drawn at a time, of which about one fits.
CANDIDATES = {1: 1, 2: 8, 3: 32, 4: 256}

# Proportions of the shapes, in radii.
SQUARE_HALF = 0.88
TRIANGLE_BASE = 0.8
CROSS_HALF = 0.36


@dataclass(frozen=True)
class Thing:
    """One object of a scene: centre and radius in pixels, x to the right and y down."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float


Scene = tuple[Thing, ...]


def masks(shapes: Sequence[str], x: Images, y: Images, radius: Images) -> Images:
    """Draw each object alone, with smooth edges.

    Args:
        shapes: n names.
        x: centres, [n] in pixels.
        y: centres, [n] in pixels.
        radius: [n] in pixels.

    Returns:
        How much of each pixel the object covers, float32 [n, SIZE, SIZE].
    """
    kinds = np.array([SHAPES.index(shape) for shape in shapes])
    axis = np.arange(SIZE, dtype=np.float32) + 0.5
    dx = np.abs(axis[None, None, :] - x[:, None, None])
    dy = axis[None, :, None] - y[:, None, None]
    r = radius[:, None, None]
    height = 1 + TRIANGLE_BASE
    distance = np.empty((len(kinds), SIZE, SIZE), np.float32)  # from the outline, negative inside
    for kind, shape in enumerate(SHAPES):
        of = kinds == kind
        u, v, s = dx[of], dy[of], r[of]
        w = np.abs(v)
        if shape == "circle":
            distance[of] = np.hypot(u, v) - s
        elif shape == "square":
            distance[of] = np.maximum(u, w) - SQUARE_HALF * s
        elif shape == "triangle":
            side = (height * u - (v + s)) / np.hypot(height, 1)
            distance[of] = np.maximum(side, v - TRIANGLE_BASE * s)
        else:
            bar, beam = np.maximum(u - s, w - CROSS_HALF * s), np.maximum(u - CROSS_HALF * s, w - s)
            distance[of] = np.minimum(bar, beam)
    return np.clip(0.5 - distance, 0, 1)


def render(scenes: Sequence[Scene]) -> Images:
    """Draw scenes: float32 [n, 3, SIZE, SIZE] in [0, 1]."""
    background = np.array(BACKGROUND, np.float32)[:, None, None]
    images = np.broadcast_to(background, (len(scenes), 3, SIZE, SIZE)).copy()
    things = [thing for scene in scenes for thing in scene]
    where = np.repeat(np.arange(len(scenes)), [len(scene) for scene in scenes])
    places = np.array([(thing.x, thing.y, thing.radius) for thing in things], np.float32).reshape(-1, 3).T
    cover = masks([thing.shape for thing in things], *places)[:, None]
    paint = np.array([RGB[thing.colour] for thing in things], np.float32).reshape(-1, 3, 1, 1) - background
    np.add.at(images, where, cover * paint)  # objects never touch, so that adding is painting
    return images


def sample_scene(prompt: Prompt, rng: np.random.Generator) -> Scene:
    """Draw a random scene that the prompt describes.

    What the prompt leaves open is random, but for two things: objects counted without a colour share
    one, and objects that no relation places are named from left to right.
    """
    count = len(prompt.wanted)
    shared = COLOURS[rng.integers(len(COLOURS))] if prompt.category == "counting" else None
    colours = [wanted.colour or shared or COLOURS[rng.integers(len(COLOURS))] for wanted in prompt.wanted]
    low, high = RADII[count]
    while True:
        radius = rng.uniform(low, high, (CANDIDATES[count], 1, count))
        edge = radius + MARGIN
        centre = edge + rng.random((CANDIDATES[count], 2, count)) * (SIZE - 2 * edge)
        fits = _fits(centre, radius, prompt.relation)
        if fits.any():
            first = int(fits.argmax())
            numbers = list(zip(*centre[first].tolist(), radius[first, 0].tolist(), strict=True))
            if prompt.relation is None:
                numbers.sort()
            things = zip(prompt.wanted, colours, numbers, strict=True)
            return tuple(Thing(wanted.shape, colour, *place) for wanted, colour, place in things)


def _fits(centre: Floats, radius: Floats, relation: str | None) -> npt.NDArray[np.bool_]:
    """Which of n arrangements keep their boxes apart and the first object where the relation says: bool [n].

    Args:
        centre: x and y of each object, [n, 2, objects].
        radius: [n, 1, objects].
        relation: one of `RELATIONS`, or None.
    """
    fits = np.ones(len(centre), np.bool_)
    for a, b in itertools.combinations(range(centre.shape[2]), 2):
        apart = np.abs(centre[:, :, a] - centre[:, :, b]).max(1) - radius[:, 0, a] - radius[:, 0, b]
        fits &= apart >= GAP
    if relation is not None:
        x, y = (centre[:, :, 0] - centre[:, :, 1]).T
        along, across = {"left of": (-x, y), "right of": (x, y), "above": (-y, x), "below": (y, x)}[relation]
        fits &= along >= 1.5 * np.abs(across)
    return fits
