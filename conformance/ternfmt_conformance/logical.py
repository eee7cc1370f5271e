"""``logical.json`` of PROTOCOL.md: what a writer is asked to write, and whether a file holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ternfmt.container import DTYPES
from ternfmt.errors import FormatError, Kind
from ternfmt.pack import pack
from ternfmt.reader import open_model
from ternfmt.tensor import LowRank, Plane, TernaryTensor
from ternfmt.validate import validate

Tensor = TernaryTensor | npt.NDArray[Any]


@dataclass(frozen=True)
class Logical:
    """A model in memory.

    Attributes:
        tensors: name -> ternary tensor or dense array.
        ancillary: keys of the metadata document.
        metadata: ``__metadata__`` without the document.
    """

    tensors: Mapping[str, Tensor]
    ancillary: Mapping[str, Any]
    metadata: Mapping[str, str]


def read_logical(path: Path) -> Logical:
    """Read ``logical.json``.

    Raises:
        FormatError: CODE, for a code other than -1, 0 and +1.
        ValueError, KeyError: not of the form of PROTOCOL.md.
    """
    value = json.loads(path.read_bytes())
    tensors = {name: _parse_tensor(name, tensor) for name, tensor in value["tensors"].items()}
    return Logical(tensors, value.get("ancillary", {}), value.get("metadata", {}))


def differences(path: Path, logical: Logical) -> list[str]:
    """What a file holds otherwise than asked, one line each; none if it is right.

    Raises:
        FormatError: the file is not valid, digests included.
        OSError: it cannot be read.
    """
    validate(path, digests=True)
    with open_model(path) as model:
        found = [f"{name!r}: absent" for name in logical.tensors if name not in model]
        found += [f"{name!r}: not asked for" for name in model if name not in logical.tensors]
        for name, tensor in logical.tensors.items():
            if name in model and _parts(model[name]) != _parts(tensor):
                found.append(f"{name!r}: values, dtypes or shapes differ")
        metadata = model.stored.headers[0].metadata
        for what, asked, got in (
            ("metadata", logical.metadata, metadata),
            ("ancillary key", logical.ancillary, model.document.ancillary),
        ):
            found += [f"{what} {key!r}: differs" for key in asked if _text(asked[key]) != _text(got.get(key))]
    return found


def _text(value: Any) -> str:
    """A JSON value as text: the order of keys does not matter, 1 is neither true nor 1.0."""
    return json.dumps(value, sort_keys=True)


def _parts(tensor: Tensor) -> tuple[Any, ...]:
    """All that a tensor is, comparable bit for bit."""
    if not isinstance(tensor, TernaryTensor):
        return _bits(tensor)
    low_rank = () if tensor.low_rank is None else (_bits(tensor.low_rank.down), _bits(tensor.low_rank.up))
    planes = tuple((_bits(plane.codes), _bits(plane.scale)) for plane in tensor.planes)
    return (tensor.shape, tensor.group_size, planes, low_rank)


def _bits(array: npt.NDArray[Any]) -> tuple[Any, ...]:
    return (array.dtype, array.shape, array.tobytes())


def _parse_tensor(name: str, value: Mapping[str, Any]) -> Tensor:
    shape = tuple(map(int, value["shape"]))
    if "planes" not in value:
        return _array(value["data"], value["dtype"], shape)
    n, k = shape[0], prod(shape[1:])
    group_size = None if value["group_size"] is None else int(value["group_size"])
    scale_shape = (n,) if group_size is None else (n, -(-k // group_size))
    planes = tuple(
        Plane(_pack(name, plane["codes"], n, k), _array(plane["scale"], value["scale_dtype"], scale_shape))
        for plane in value["planes"]
    )
    low_rank = None
    if value["low_rank"] is not None:
        rank, dtype = int(value["low_rank"]["rank"]), value["low_rank"]["dtype"]
        down = _array(value["low_rank"]["down"], dtype, (rank, k))
        low_rank = LowRank(down, _array(value["low_rank"]["up"], dtype, (n, rank)))
    return TernaryTensor(shape, planes, group_size, low_rank)


def _pack(name: str, codes: str, n: int, k: int) -> npt.NDArray[np.uint8]:
    array = _array(codes, "I8", (n, k))
    if np.any(np.abs(array.astype(np.int16)) > 1):
        raise FormatError(Kind.CODE, repr(name), "codes: expected -1, 0, +1")
    return pack(array)


def _array(text: str, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    return np.frombuffer(bytes.fromhex(text), DTYPES[dtype]).reshape(shape)
