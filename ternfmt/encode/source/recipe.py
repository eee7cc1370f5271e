"""How a tensor of the output is made from those of the source: rows of some of them, one after another.

Tools name the same weights differently, join projections that others keep apart, and swap halves; all of it along
dimension 0. A row of a ternary tensor has its own scale and its own bytes, so quantising before or after such a
rearrangement gives the same bytes (SPEC S-3.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from ..weights import Array


class Shaped(Protocol):
    """A tensor's dtype and shape: a `Span` or a `Recipe`."""

    @property
    def dtype(self) -> str:
        """As in SPEC S-1.9."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of any rank."""


class RowReader(Protocol):
    """What `read` needs of a source."""

    def read(self, name: str, start: int, stop: int) -> Array:
        """Rows ``[start, stop)`` of a tensor."""


class Part(NamedTuple):
    """Rows ``[start, stop)`` of a source tensor. Of a 1-D tensor rows are elements; a scalar is one row."""

    tensor: str
    start: int
    stop: int


@dataclass(frozen=True)
class Recipe:
    """An output tensor: its parts joined on rows.

    Attributes:
        shape: of the output.
        dtype: of the output and of every part, as in SPEC S-1.9.
        parts: in the order of the output's rows; they have as many rows together.
    """

    shape: tuple[int, ...]
    dtype: str
    parts: tuple[Part, ...]


def row_count(shape: tuple[int, ...]) -> int:
    """Rows of a tensor of this shape."""
    return shape[0] if shape else 1


def identity(name: str, tensor: Shaped) -> Recipe:
    """The recipe of an output that is the source tensor ``name``."""
    return Recipe(tensor.shape, tensor.dtype, (Part(name, 0, row_count(tensor.shape)),))


def identity_recipes(tensors: Mapping[str, Shaped]) -> dict[str, Recipe]:
    """Every tensor as it is, under its own name."""
    return {name: identity(name, tensor) for name, tensor in tensors.items()}


def read(recipe: Recipe, source: RowReader, start: int, stop: int) -> Array:
    """Rows ``[start, stop)`` of an output tensor: ``[stop - start, *shape[1:]]``, or a scalar's ``[]``.

    Raises:
        OSError, FormatError: the source cannot be read.
    """
    pieces = []
    first = 0  # the output's row at which the part begins
    for part in recipe.parts:
        skip = max(start - first, 0)
        end = min(stop - first, part.stop - part.start)
        if skip < end:
            pieces.append(source.read(part.tensor, part.start + skip, part.start + end))
        first += part.stop - part.start
    if not recipe.shape:
        return pieces[0].reshape(())
    if not pieces:
        return source.read(recipe.parts[0].tensor, 0, 0)
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
