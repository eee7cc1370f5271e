"""Reading rows of safetensors files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from ternfmt import FormatError
from ternfmt.encode.source.tensor_source import SafetensorsSource, SourceChangedError, check_unchanged

TENSORS = {
    "matrix": np.arange(42, dtype=np.float32).reshape(6, 7),
    "kernel": np.arange(48).astype(ml_dtypes.bfloat16).reshape(4, 3, 2, 2),
    "vector": np.arange(5, dtype=np.int64),
    "scalar": np.array(3, np.float16),
    "empty": np.zeros((0, 4), np.float32),
}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    for file, names in (("a", ("matrix", "scalar")), ("b", ("kernel", "vector", "empty"))):
        save_file({name: TENSORS[name] for name in names}, tmp_path / file, metadata={"format": "pt", "note": file})
    return [tmp_path / "a", tmp_path / "b"]


@pytest.fixture
def source(files: list[Path]) -> Iterator[SafetensorsSource]:
    source = SafetensorsSource(files)
    yield source
    source.close()


def test_rows_of_every_kind_of_tensor(source: SafetensorsSource) -> None:
    assert source.spans.keys() == TENSORS.keys()
    assert source.metadata["note"] == "a"
    for name, tensor in TENSORS.items():
        rows = tensor.reshape(1) if tensor.ndim == 0 else tensor
        for start in range(len(rows) + 1):
            for stop in range(start, len(rows) + 1):
                part = source.read(name, start, stop)
                assert part.dtype == tensor.dtype
                assert np.array_equal(part, rows[start:stop])
                assert part.flags.owndata
                assert part.flags.writeable


def test_a_file_that_shrinks_is_said(source: SafetensorsSource, files: list[Path]) -> None:
    os.truncate(files[0], files[0].stat().st_size - 100)
    with pytest.raises(SourceChangedError, match=r"a: 'matrix': .* it shrank"):
        source.read("matrix", 0, 6)


def test_changes_are_noticed(source: SafetensorsSource, files: list[Path]) -> None:
    check_unchanged(source.stamps)
    os.utime(files[1], (0, 0))
    with pytest.raises(SourceChangedError, match="b: changed while"):
        check_unchanged(source.stamps)
    files[1].unlink()
    with pytest.raises(SourceChangedError, match="b: vanished"):
        check_unchanged(source.stamps)


def test_another_file_of_the_same_size_and_time_is_noticed(source: SafetensorsSource, files: list[Path]) -> None:
    status = files[0].stat()
    copy = files[0].with_name("copy")
    copy.write_bytes(files[0].read_bytes())
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(copy, files[0])
    with pytest.raises(SourceChangedError):
        check_unchanged(source.stamps)


def test_a_file_that_is_not_valid_leaves_none_open(files: list[Path]) -> None:
    bad = files[0].with_name("bad")
    bad.write_bytes(b"nothing")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FormatError):
        SafetensorsSource([*files, bad])
    assert len(os.listdir("/proc/self/fd")) == before
