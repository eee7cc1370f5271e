"""Recipes: rows of source tensors, one after another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import ternfmt
from ternfmt.encode.source.recipe import Part, Recipe, identity_recipes, read
from ternfmt.encode.source.tensor_source import SafetensorsSource

RNG = np.random.default_rng(0)
TENSORS = {
    "a": RNG.standard_normal((5, 3, 2)).astype(np.float32),
    "b": RNG.standard_normal((7, 3, 2)).astype(np.float32),
    "vector": RNG.standard_normal(6).astype(np.float16),
    "scalar": np.array(3, np.int64),
    "empty": np.zeros((0, 4), np.float32),
}


class Arrays:
    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        value = TENSORS[name] if TENSORS[name].ndim else TENSORS[name][None]
        assert 0 <= start <= stop <= len(value)
        return value[start:stop].copy()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SafetensorsSource:
    path: Path = tmp_path_factory.mktemp("recipe") / "x.safetensors"
    save_file(TENSORS, path)
    return SafetensorsSource([path])


@pytest.mark.parametrize("name", TENSORS)
def test_identity_gives_every_tensor_as_it_is(source: SafetensorsSource, name: str) -> None:
    recipe = identity_recipes(source.spans)[name]
    whole = read(recipe, source, 0, recipe.parts[0].stop)
    assert whole.dtype == TENSORS[name].dtype
    assert whole.shape == TENSORS[name].shape
    assert np.array_equal(whole, TENSORS[name])


@given(st.data())
def test_any_rows_of_any_recipe(data: st.DataObject) -> None:
    """Against numpy: cut, join, slice."""
    parts = []
    for _ in range(data.draw(st.integers(1, 4))):
        name = data.draw(st.sampled_from(["a", "b"]))
        start = data.draw(st.integers(0, len(TENSORS[name])))
        parts.append(Part(name, start, data.draw(st.integers(start, len(TENSORS[name])))))
    whole = np.concatenate([TENSORS[p.tensor][p.start : p.stop] for p in parts])
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    rows = read(Recipe(whole.shape, "F32", tuple(parts)), Arrays(), start, stop)
    assert rows.shape == whole[start:stop].shape
    assert np.array_equal(rows, whole[start:stop])


def test_only_the_rows_that_are_asked_for_are_read() -> None:
    asked = []

    class Watched(Arrays):
        def read(self, name: str, start: int, stop: int) -> np.ndarray:
            asked.append((name, start, stop))
            return super().read(name, start, stop)

    recipe = Recipe((8, 3, 2), "F32", (Part("b", 3, 7), Part("a", 1, 5)))
    read(recipe, Watched(), 1, 3)
    read(recipe, Watched(), 3, 6)
    assert asked == [("b", 4, 6), ("b", 6, 7), ("a", 1, 3)]


def test_quantising_commutes_with_recipes() -> None:
    """Every row has its own scale: before or after is the same."""
    recipe = Recipe((7, 6), "F32", (Part("a", 3, 5), Part("b", 0, 5)))
    before = ternfmt.quantize(read(recipe, Arrays(), 0, 7).reshape(7, 6))
    a, b = (ternfmt.quantize(TENSORS[name].reshape(-1, 6)) for name in ("a", "b"))
    after = ternfmt.concatenate_rows([a[3:5], b[:5]])
    assert np.array_equal(before.codes, after.codes)
    assert np.array_equal(before.scale, after.scale)
