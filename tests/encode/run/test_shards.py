"""Sizes and files."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ternfmt.encode.run.shards import assign_files, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("500MB", 5 * 10**8), ("1.5 gb", 15 * 10**8), ("2k", 2000), ("300", 300), ("7B", 7)],
)
def test_sizes_are_decimal(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "0", "-1", "5GiB", "5 XB", "1e9", "0.1"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size such as 5GB"):
        parse_size(text)


@given(st.dictionaries(st.text("abc", min_size=1), st.integers(0, 50), min_size=1), st.integers(1, 100))
def test_files_hold_every_tensor_once_within_the_limit(sizes: dict[str, int], limit: int) -> None:
    files = assign_files(sizes, limit, "model")
    assert [name for file in files for name in file.tensors] == sorted(sizes)
    assert len({file.name for file in files}) == len(files)
    for file in files:
        assert sum(sizes[name] for name in file.tensors) <= limit or len(file.tensors) == 1
    for one, next_one in pairwise(files):
        assert sum(sizes[name] for name in (*one.tensors, next_one.tensors[0])) > limit


def test_names_are_those_of_the_hub() -> None:
    assert [file.name for file in assign_files({"a": 1, "b": 1}, None, "model")] == ["model.safetensors"]
    names = [file.name for file in assign_files({"a": 1, "b": 1}, 1, "model")]
    assert names == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
