"""Whatever interrupts a writer, the destination stays as it was."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ternfmt
from ternfmt import FormatError, Kind, Writer
from ternfmt.metadata import Document
from ternfmt.writer import make_document

ROOT = Path(__file__).parents[2]
STORED = {"a": ("F32", (2,)), "b": ("U8", (3,))}
A, B = np.ones(2, np.float32), np.ones(3, np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"as it was")
    return path


def assert_untouched(path: Path) -> None:
    assert path.read_bytes() == b"as it was"
    assert os.listdir(path.parent) == [path.name]


def writer(path: Path) -> Writer:
    return Writer(path, STORED, make_document({}, STORED))


def test_nothing_appears_before_commit(path: Path) -> None:
    with writer(path) as unfinished:
        unfinished.write("a", A)
        unfinished.write("b", B)
        assert path.read_bytes() == b"as it was"
    assert ternfmt.validate(path).dense == 2
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_destination_untouched(path: Path, error: type[BaseException]) -> None:
    def write() -> None:
        with writer(path) as unfinished:
            unfinished.write("a", A)
            raise error

    with pytest.raises(error):
        write()
    assert_untouched(path)


def test_unwritten_tensors_are_an_error(path: Path) -> None:
    with pytest.raises(ValueError, match="1 tensors were not written, first 'b'"), writer(path) as unfinished:
        unfinished.write("a", A)
    assert_untouched(path)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a", np.ones(3, np.float32)),
        ("a", np.ones((2, 1), np.float32)),
        ("a", np.ones(2, np.float16)),
        ("a", np.ones(2, ">f4")),
        ("c", A),
    ],
)
def test_data_of_another_shape_or_dtype_is_an_error(path: Path, name: str, data: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"), writer(path) as unfinished:
        unfinished.write(name, data)
    assert_untouched(path)


def test_writing_a_tensor_twice_is_an_error(path: Path) -> None:
    with pytest.raises(ValueError, match="before"), writer(path) as unfinished:
        [unfinished.write("a", A) for _ in range(2)]
    assert_untouched(path)


def test_a_document_that_does_not_describe_the_tensors_is_an_error(path: Path) -> None:
    with pytest.raises(FormatError) as caught:
        Writer(path, {"w": ("U8", (2, 2)), "w_scale": ("F16", (2,))}, Document())
    assert caught.value.kind is Kind.METADATA
    assert_untouched(path)


def test_a_killed_writer_leaves_the_destination_untouched(path: Path) -> None:
    code = """
import os, signal, sys
import numpy as np
from ternfmt.writer import Writer, make_document
stored = {"a": ("F32", (2,)), "b": ("U8", (3,))}
with Writer(sys.argv[1], stored, make_document({}, stored)) as unfinished:
    unfinished.write("a", np.ones(2, np.float32))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"as it was"
    assert {name for name in os.listdir(path.parent) if not name.endswith(".partial")} == {path.name}


def limit_file_size() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


FULL_DISK = """
import sys
import numpy as np, ternfmt, ternfmt.writer
if sys.argv[2] == "late":  # a file system that cannot reserve space
    ternfmt.writer._reserve = lambda descriptor, size: None
try:
    ternfmt.save(sys.argv[1], {"a": np.ones(int(sys.argv[3]), np.float32)})
except OSError as error:
    sys.exit(f"OSError {error.errno}")
"""


@pytest.mark.parametrize("when", ["early", "late"])
@pytest.mark.parametrize("elements", [1000, 100_000])
def test_a_full_disk_leaves_the_destination_untouched(path: Path, when: str, elements: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), when, str(elements)],
        cwd=ROOT,
        preexec_fn=limit_file_size,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.startswith("OSError"), done.stderr
    assert_untouched(path)


def test_a_folder_that_is_absent_is_the_operating_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ternfmt.save(tmp_path / "absent" / "model.safetensors", {})
    assert os.listdir(tmp_path) == []
