"""Finds the objects of a picture by rules: connected components, template overlap, nearest colour."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from sample_flux.prompts import COLOURS, SHAPES
from sample_flux.scenes import BACKGROUND, RGB, Images, masks

# Every constant was chosen on rendered scenes with noise, and none on what a model made.
FOREGROUND = 0.3  # of the way from the background to the nearest colour
SPECK = 5  # pixels: what is smaller is no object and no fault
OVERLAP = 0.7  # intersection over union with the best template; what has less is no object
RADIUS_STEPS = (0.88, 0.94, 1.0, 1.06, 1.12)  # around the radius that the area gives
SHIFTS = (-0.4, 0.0, 0.4)  # pixels around the centre that the centroid gives

_PAINT = np.array([RGB[colour] for colour in COLOURS], np.float32) - np.array(BACKGROUND, np.float32)


@dataclass(frozen=True)
class Found:
    """One connected component of a picture.

    Attributes:
        shape: name, or None where no template overlaps enough.
        colour: nearest name.
        x: centre in pixels, to the right.
        y: centre in pixels, down.
        overlap: intersection over union with the best template.
    """

    shape: str | None
    colour: str
    x: float
    y: float
    overlap: float


def detect(image: Images) -> tuple[Found, ...]:
    """Find the objects of a picture, float32 [3, size, size] in [0, 1]."""
    difference = image - np.array(BACKGROUND, np.float32)[:, None, None]
    # How much of each colour each pixel holds: the least-squares coefficient, [colours, size, size].
    amounts = np.einsum("kc,cyx->kyx", _PAINT, difference) / (_PAINT**2).sum(1)[:, None, None]
    labels, count = ndimage.label(amounts.max(0) > FOREGROUND)
    found = []
    for label in range(1, count + 1):
        inside = labels == label
        if inside.sum() >= SPECK:
            found.append(_recognise(difference, amounts, inside))
    return tuple(found)


def _recognise(difference: Images, amounts: Images, inside: npt.NDArray[np.bool_]) -> Found:
    """Name the component of the pixels ``inside``."""
    core = inside & (amounts.max(0) >= np.median(amounts.max(0)[inside]))
    colour = int(((difference[:, core].mean(1) - _PAINT) ** 2).sum(1).argmin())
    near = ndimage.binary_dilation(inside)  # the pixels that the object covers in part
    cover = np.clip(amounts[colour], 0, 1) * near
    area = float(cover.sum())
    rows, columns = np.indices(cover.shape)
    x, y = float((cover * (columns + 0.5)).sum() / area), float((cover * (rows + 0.5)).sum() / area)
    templates, shapes, places = _templates(x, y, area)
    overlap = np.minimum(templates, cover).sum((1, 2)) / np.maximum(templates, cover).sum((1, 2))
    best = int(overlap.argmax())
    shape = SHAPES[shapes[best]] if overlap[best] >= OVERLAP else None
    return Found(shape, COLOURS[colour], float(places[best, 0]), float(places[best, 1]), float(overlap[best]))


def _templates(x: float, y: float, area: float) -> tuple[Images, npt.NDArray[np.int64], Images]:
    """Draw every shape with about this centroid and area: pictures, indices of shapes, centres [n, 2]."""
    grid = np.meshgrid(np.arange(len(SHAPES)), RADIUS_STEPS, SHIFTS, SHIFTS, indexing="ij")
    shape, step, right, down = (axis.ravel() for axis in grid)
    shape = shape.astype(np.int64)
    unit_area, unit_drop = _UNITS[shape].T
    radius = np.sqrt(area / unit_area) * step
    places = np.stack([x + right, y + down - unit_drop * radius], 1).astype(np.float32)
    names = [SHAPES[index] for index in shape]
    return masks(names, places[:, 0], places[:, 1], radius.astype(np.float32)), shape, places


def _measure_units() -> npt.NDArray[np.float64]:
    """Area and drop of the centroid below the centre of each shape of radius 1: [shapes, 2]."""
    radius, middle = np.full(len(SHAPES), 8, np.float32), np.full(len(SHAPES), 12, np.float32)
    pictures = masks(SHAPES, middle, middle, radius)
    rows = np.arange(pictures.shape[1]) + 0.5
    area = pictures.sum((1, 2))
    drop = (pictures.sum(2) * rows).sum(1) / area - middle
    return np.stack([area / radius**2, drop / radius], 1).astype(np.float64)


_UNITS = _measure_units()
