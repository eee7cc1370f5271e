"""What A writes, B reads: every writer against every reader (property 27)."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ternfmt
from ternfmt import TernaryTensor
from ternfmt.container import DTYPE_NAMES
from ternfmt_conformance.command import Command, parse_command
from ternfmt_conformance.driver import LoopDriver
from ternfmt_conformance.settings import MEMORY_CAP_BYTES
from ternfmt_conformance.strategies import INDEX, models, sharded_models, valid_files

IMPLEMENTATIONS = Path(__file__).parents[2] / "conformance" / "implementations"


def python(folder: Path) -> Command:
    return parse_command("ternfmt_conformance.reference:Reference")


def javascript(folder: Path) -> Command:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    return Command("node", (node, str(IMPLEMENTATIONS / "js" / "adapter.mjs")))


def c(folder: Path) -> Command:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is installed")
    built = folder / "adapter"
    source = IMPLEMENTATIONS / "c" / "adapter.c"
    subprocess.run([compiler, "-std=c99", "-O1", "-ffp-contract=off", "-o", built, source], check=True)
    return Command("c", (str(built),))


@pytest.fixture(scope="module", params=[python, javascript, c], ids=lambda make: make.__name__)
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopDriver]:
    driver = LoopDriver(request.param(tmp_path_factory.mktemp("reader")), 20.0, MEMORY_CAP_BYTES)
    driver.start()
    yield driver
    driver.stop()
    driver.close()
    assert driver.problems == []


def ask(reader: LoopDriver, **request: Any) -> dict[str, Any]:
    answer = dict(reader.ask(request, 20.0, fresh=False).value)
    assert answer.pop("ok"), answer
    return answer


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def description(tensors: dict[str, Any]) -> list[dict[str, Any]]:
    """What a reader must find."""
    described: list[dict[str, Any]] = []
    for name, tensor in sorted(tensors.items()):
        value = {"name": name, "shape": list(map(str, tensor.shape))}
        if isinstance(tensor, TernaryTensor):
            codes = [tensor.unpack(p).astype(np.int8).tobytes() for p in range(len(tensor.planes))]
            described.append({
                **value, "ternary": True, "dtype": DTYPE_NAMES[tensor.scale.dtype], "planes": len(tensor.planes),
                "group_size": tensor.group_size,
                "low_rank": None if tensor.low_rank is None else len(tensor.low_rank.down),
                "codes_sha256": list(map(sha256, codes)),
                "scale_sha256": [sha256(plane.scale.tobytes()) for plane in tensor.planes],
            })  # fmt: skip
        else:
            dtype = DTYPE_NAMES[tensor.dtype]
            described.append({**value, "ternary": False, "dtype": dtype, "data_sha256": sha256(tensor.tobytes())})
    return described


def check(reader: LoopDriver, path: Path, tensors: dict[str, Any]) -> None:
    """Everything that the reader can be asked gives what was written."""
    ask(reader, op="validate", path=str(path), read_as="auto", digests=True, strict_links=False)
    assert ask(reader, op="describe", path=str(path))["tensors"] == description(tensors)
    out = path.parent / "out"
    for name, tensor in tensors.items():
        if isinstance(tensor, TernaryTensor):
            for dtype, numpy_dtype in (("F32", np.float32), ("F16", np.float16)):
                out.unlink(missing_ok=True)
                ask(reader, op="dequantize", path=str(path), tensor=name, dtype=dtype, out=str(out))
                assert out.read_bytes() == tensor.dequantize(numpy_dtype).tobytes()


@given(models())
@settings(max_examples=25)
def test_canonical_files_of_our_writer(reader: LoopDriver, tmp_path: Path, tensors: dict[str, Any]) -> None:
    path = tmp_path / "model.safetensors"
    ternfmt.save(path, tensors)
    check(reader, path, tensors)


@given(models().flatmap(lambda tensors: st.tuples(st.just(tensors), valid_files(tensors))))
@settings(max_examples=25)
def test_files_in_any_other_form(reader: LoopDriver, tmp_path: Path, drawn: Any) -> None:
    tensors, file = drawn
    path = tmp_path / "model.safetensors"
    path.write_bytes(file)
    check(reader, path, tensors)


@given(models().flatmap(lambda tensors: st.tuples(st.just(tensors), sharded_models(tensors))))
@settings(max_examples=25)
def test_shards(reader: LoopDriver, tmp_path_factory: pytest.TempPathFactory, drawn: Any) -> None:
    tensors, files = drawn
    folder = tmp_path_factory.mktemp("shards")
    for name, data in files.items():
        (folder / name).write_bytes(data)
    check(reader, folder / INDEX, tensors)


def test_the_readers_are_three() -> None:
    """Another implementation belongs into the parameters of `reader`."""
    assert {path.name for path in IMPLEMENTATIONS.iterdir() if path.is_dir()} == {"c", "js"}
