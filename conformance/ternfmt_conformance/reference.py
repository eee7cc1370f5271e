"""The ``ternfmt`` package as a testee: every level."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ternfmt.container import DTYPE_NAMES, DTYPES
from ternfmt.errors import FormatError
from ternfmt.pack import unpack
from ternfmt.reader import Model, TensorInfo, open_model
from ternfmt.tensor import TernaryTensor
from ternfmt.validate import validate
from ternfmt.version import __version__
from ternfmt.writer import Writer, entry_of, make_document, stored_parts

from .levels import LEVELS
from .logical import read_logical
from .python_adapter import Rejected

_BLOCK_WEIGHTS = 1 << 22
"""Weights unpacked at a time."""


class Reference:
    """The reference implementation. Methods are the operations of PROTOCOL.md."""

    implementation = {"name": "ternfmt", "version": __version__, "language": "Python"}  # noqa: RUF012
    levels = LEVELS
    features = ("group-scale", "low-rank", "planes")

    def validate(self, path: str, read_as: str, digests: bool, strict_links: bool) -> None:
        """Check a file, an index or a folder."""
        shard = {"auto": None, "whole": False, "shard": True}[read_as]
        with _rejecting():
            validate(path, digests, shard=shard, strict_links=strict_links)

    def describe(self, path: str) -> list[dict[str, Any]]:
        """Every logical tensor."""
        with _valid(path) as model:
            return [_describe(model, info) for info in model.tensors.values()]

    def unpack(self, path: str, tensor: str, plane: int, rows: tuple[int, int], out: str) -> None:
        """Write int8 codes."""
        with _ternary(path, tensor) as found, Path(out).open("wb") as stream:
            for codes in _code_blocks(found.planes[plane - 1].codes[slice(*rows)], found.k):
                stream.write(codes.tobytes())

    def dequantize(self, path: str, tensor: str, dtype: str, out: str) -> None:
        """Write dense weights."""
        with _ternary(path, tensor) as found:
            Path(out).write_bytes(found.dequantize(DTYPES[dtype]).tobytes())

    def matmul(self, path: str, tensor: str, x: str, m: int, dtype: str, out: str) -> None:
        """Write a product, computed in float64."""
        with _ternary(path, tensor) as found:
            activations = np.fromfile(x, DTYPES[dtype]).reshape(m, found.k).astype(np.float64)
            Path(out).write_bytes(product(activations, found).astype("<f4").tobytes())

    def encode(self, logical: str, out: str) -> None:
        """Write a canonical file."""
        with _rejecting():
            model = read_logical(Path(logical))
            entries = {name: entry_of(t) for name, t in model.tensors.items() if isinstance(t, TernaryTensor)}
            document = replace(make_document(entries, model.tensors), ancillary=model.ancillary)
            parts = {
                part: (DTYPE_NAMES[array.dtype], array.shape)
                for name, tensor in model.tensors.items()
                for part, array in stored_parts(name, tensor).items()
            }
            with Writer(out, parts, document, model.metadata) as writer:
                for name, tensor in model.tensors.items():
                    writer.write_tensor(name, tensor)


def product(x: npt.NDArray[np.float64], tensor: TernaryTensor) -> npt.NDArray[np.float64]:
    """``x`` ``[M, K]`` times a tensor (SPEC S-12.1, without bias): ``[M, N]``, the scale applied after the sum."""
    y = np.zeros((len(x), tensor.n))
    group = tensor.group_size or tensor.k
    for plane in tensor.planes:
        scale = plane.scale.astype(np.float64).reshape(tensor.n, -1)
        row = 0
        for codes in _code_blocks(plane.codes, tensor.k):
            rows = slice(row, row + len(codes))
            row += len(codes)
            weights = codes.astype(np.float64)
            for g, start in enumerate(range(0, tensor.k, group)):
                columns = slice(start, start + group)
                with np.errstate(invalid="ignore"):  # NaN or infinity in x is NaN or infinity in y
                    y[:, rows] += (x[:, columns] @ weights[:, columns].T) * scale[rows, g]
    if tensor.low_rank is not None:
        down, up = (factor.astype(np.float64) for factor in (tensor.low_rank.down, tensor.low_rank.up))
        y += (x @ down.T) @ up.T
    return y


@contextmanager
def _rejecting() -> Iterator[None]:
    try:
        yield
    except FormatError as error:
        raise Rejected(error.kind.value, f"{error.location}: {error.message}") from error


@contextmanager
def _valid(path: str) -> Iterator[Model]:
    """A model, after SPEC section 10, steps 1 to 24."""
    with _rejecting(), open_model(path) as model:
        for name in sorted(model.document.entries):
            model.check(name)
        yield model


@contextmanager
def _ternary(path: str, name: str) -> Iterator[TernaryTensor]:
    """A ternary tensor of a valid model."""
    with _valid(path) as model:
        tensor = model[name]
        assert isinstance(tensor, TernaryTensor)
        yield tensor


def _code_blocks(packed: npt.NDArray[np.uint8], k: int) -> Iterator[npt.NDArray[np.int8]]:
    """Packed codes as int8 ``[rows, k]``, some rows at a time."""
    rows = max(1, _BLOCK_WEIGHTS // k)
    for start in range(0, len(packed), rows):
        yield unpack(packed[start : start + rows], k)


def _describe(model: Model, info: TensorInfo) -> dict[str, Any]:
    value: dict[str, Any] = {"name": info.name, "ternary": info.ternary, "shape": list(map(str, info.shape)),
                             "dtype": info.dtype}  # fmt: skip
    tensor = model[info.name]
    if not isinstance(tensor, TernaryTensor):
        return {**value, "data_sha256": hashlib.sha256(tensor.tobytes()).hexdigest()}
    codes_sha256 = []
    for plane in tensor.planes:
        digest = hashlib.sha256()
        for codes in _code_blocks(plane.codes, tensor.k):
            digest.update(np.ascontiguousarray(codes).data)
        codes_sha256.append(digest.hexdigest())
    return {
        **value,
        "planes": info.planes,
        "group_size": info.group_size,
        "low_rank": info.low_rank,
        "codes_sha256": codes_sha256,
        "scale_sha256": [hashlib.sha256(plane.scale.tobytes()).hexdigest() for plane in tensor.planes],
    }
