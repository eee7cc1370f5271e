"""Hypothesis strategies for anybody's tests: logical models, and valid files of them as any library may write them.

What they draw shrinks: towards fewer tensors, shape [1, 1], codes 0 and scale 1.0. `faults` has files with one fault
each. Hypothesis is an optional dependency: ``pip install 'ternfmt[conformance]'``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import cache
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ternfmt.container import DTYPE_NAMES, DTYPES
from ternfmt.tensor import LowRank, Plane, TernaryTensor
from ternfmt.writer import stored_parts

from .driver import SPEC_FEATURES
from .files.raw import RawFile, Tensor
from .logical import Tensor as LogicalTensor
from .optional import st

SCALE_DTYPES = [DTYPES[name] for name in ("F16", "BF16", "F32")]
INDEX = "model.safetensors.index.json"

_ROUND_SCALES = 8
"""So many entries at the start of `_scale_table` are powers of two or zero, all below 2^4."""

_VALID_BYTES = np.array([b for b in range(256) if all(b >> lane & 3 != 2 for lane in (0, 2, 4, 6))], np.uint8)

shapes = st.one_of(
    st.tuples(st.integers(1, 5), st.integers(1, 40)),
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)),
)
"""Logical shapes: every K mod 4, with and without a short last group of 16 or 32."""

json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**53) + 1, 2**53 - 1),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    ),
    lambda children: st.one_of(
        st.lists(children, max_size=3),
        st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), children, max_size=3),
    ),
    max_leaves=6,
)
"""What an ancillary key may hold."""


@st.composite
def ternary_tensors(
    draw: st.DrawFn, features: Collection[str] = SPEC_FEATURES, round_scales: bool = False
) -> TernaryTensor:
    """Valid ternary tensors.

    Args:
        draw: given by Hypothesis.
        features: those of SPEC section 5 that they may use.
        round_scales: scales are powers of two or zero, so that products are exact (SPEC S-12.3).
    """
    shape = draw(shapes)
    n, k = shape[0], prod(shape[1:])
    group_size = draw(st.sampled_from([None, 16, 32, 48])) if "group-scale" in features else None
    dtype = draw(st.sampled_from(SCALE_DTYPES))
    scale_shape = (n,) if group_size is None else (n, -(-k // group_size))
    count = draw(st.integers(1, 4)) if "planes" in features else 1
    planes = []
    for _ in range(count):
        chosen = _draw_bytes(draw, prod(scale_shape)) & (_ROUND_SCALES - 1 if round_scales else 255)
        planes.append(Plane(_draw_codes(draw, n, k), _scale_table(dtype)[chosen].reshape(scale_shape)))
    low_rank = None
    if "low-rank" in features and draw(st.booleans()):
        rank = draw(st.integers(1, min(k, 3)))
        low_rank = LowRank(_draw_factor(draw, dtype, rank, k), _draw_factor(draw, dtype, n, rank))
    return TernaryTensor(shape, tuple(planes), group_size, low_rank)


@st.composite
def dense_arrays(draw: st.DrawFn) -> npt.NDArray[Any]:
    """Arrays of any dtype of SPEC S-1.9, rank 0 to 4, also without elements; any bits, NaN included."""
    dtype = draw(st.sampled_from(list(DTYPE_NAMES)))
    shape = draw(st.lists(st.integers(0, 3), max_size=4))
    raw = _draw_bytes(draw, prod(shape) * dtype.itemsize) & (1 if dtype == np.bool_ else 255)
    return raw.view(dtype).reshape(shape)


@st.composite
def models(
    draw: st.DrawFn, features: Collection[str] = SPEC_FEATURES, round_scales: bool = False
) -> dict[str, LogicalTensor]:
    """Up to four ternary and dense tensors by name; arguments as for `ternary_tensors`."""
    tensors = st.one_of(ternary_tensors(features, round_scales), dense_arrays())
    drawn = draw(st.lists(st.tuples(st.sampled_from("abcd"), tensors), max_size=4))
    return {f"{letter}.{i}.weight": tensor for i, (letter, tensor) in enumerate(drawn)}


@st.composite
def raw_files(draw: st.DrawFn, tensors: Mapping[str, LogicalTensor]) -> RawFile:
    """A valid file of these tensors in pieces: data and keys in any order, unknown keys, features that are not used."""
    parts = {part: data for name, tensor in tensors.items() for part, data in stored_parts(name, tensor).items()}
    # Any order in which every tensor stays aligned: wide dtypes first is one; ties in any order.
    names = sorted(draw(st.permutations(list(parts))), key=lambda name: -parts[name].dtype.itemsize)
    stored = {
        name: Tensor(DTYPE_NAMES[parts[name].dtype], list(parts[name].shape), parts[name].tobytes()) for name in names
    }
    ternary = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, TernaryTensor)}
    used = {feature for tensor in ternary.values() for feature in features_of(tensor)}
    document: dict[str, Any] = {
        "version": draw(st.sampled_from(["1.0", "1.7"])),
        "required": draw(st.permutations(sorted(used))),
        "tensors": {name: entry_of(tensor) for name, tensor in ternary.items()},
    }
    if draw(st.booleans()):
        document["unknown"] = draw(json_values)
        for entry in document["tensors"].values():
            entry["unknown"] = [True]
    raw = RawFile(stored, document)
    keys = draw(st.permutations(["__metadata__", *stored]))
    raw.header_edits.append(lambda value: _reorder(value, keys))
    return raw


@st.composite
def valid_files(
    draw: st.DrawFn, tensors: Mapping[str, LogicalTensor], features: Collection[str] = SPEC_FEATURES
) -> bytes:
    """A valid file of these tensors, in any order, with any white space, escapes and padding.

    Args:
        draw: given by Hypothesis.
        tensors: what the file holds.
        features: those that it may list although it does not use them.
    """
    raw = draw(raw_files(tensors))
    unused = [feature for feature in sorted(features) if feature not in raw.document["required"]]
    if unused:
        raw.document["required"] += draw(st.lists(st.sampled_from(unused), unique=True))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n\t", " :\r\n")]))
    escapes = draw(st.booleans())
    padding = draw(st.sampled_from([0, 8, 64]))

    def rewrite(header: bytes) -> bytes:
        text = json.dumps(json.loads(header), separators=separators)
        if escapes:
            text = text.replace('"dtype"', r'"\u0064type"').replace("weight", r"w\u0065ight")
        return text.encode() + b" " * (-len(text) % 8 + padding)

    raw.byte_edits.append(rewrite)
    return raw.build()


@st.composite
def sharded_models(draw: st.DrawFn, tensors: Mapping[str, LogicalTensor]) -> dict[str, bytes]:
    """A model of these tensors in one to three shards and an index: file name -> bytes.

    A tensor and its derived tensors may lie apart; some shards may hold nothing.
    """
    raw = draw(raw_files(tensors))
    count = draw(st.integers(1, 3))
    names = [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    where = {name: draw(st.sampled_from(names)) for name in raw.tensors}
    files = {}
    for file in sorted(set(where.values())) or names[:1]:
        held = {name: stored for name, stored in raw.tensors.items() if where[name] == file}
        files[file] = RawFile(held, raw.document).build()
    total = sum(len(stored.data) for stored in raw.tensors.values())
    files[INDEX] = json.dumps({"metadata": {"total_size": total}, "weight_map": where}).encode()
    return files


def features_of(tensor: TernaryTensor) -> list[str]:
    """The features of SPEC section 5 that a tensor uses."""
    return [
        *(["group-scale"] if tensor.group_size else []),
        *(["planes"] if len(tensor.planes) > 1 else []),
        *(["low-rank"] if tensor.low_rank else []),
    ]


def entry_of(tensor: TernaryTensor) -> dict[str, Any]:
    """What the metadata document says of a tensor (SPEC S-2.4)."""
    entry: dict[str, Any] = {"shape": list(tensor.shape), "encoding": "int2"}
    if tensor.group_size:
        entry["group_size"] = tensor.group_size
    if len(tensor.planes) > 1:
        entry["planes"] = len(tensor.planes)
    if tensor.low_rank:
        entry["low_rank"] = len(tensor.low_rank.down)
    return entry


def _reorder(value: dict[str, Any], keys: Collection[str]) -> None:
    items = {key: value.pop(key) for key in keys if key in value}
    value.update(items)


def _draw_bytes(draw: st.DrawFn, count: int) -> npt.NDArray[np.uint8]:
    return np.frombuffer(draw(st.binary(min_size=count, max_size=count)), np.uint8)


def _draw_codes(draw: st.DrawFn, n: int, k: int) -> npt.NDArray[np.uint8]:
    """Packed codes without the forbidden one, padding zero."""
    width = -(-k // 4)
    codes = _VALID_BYTES[_draw_bytes(draw, n * width) % len(_VALID_BYTES)].reshape(n, width)
    codes[:, -1] &= 0xFF >> 2 * (-k % 4)
    return codes


def _draw_factor(draw: st.DrawFn, dtype: np.dtype[Any], rows: int, columns: int) -> npt.NDArray[Any]:
    values = _draw_bytes(draw, rows * columns).view(np.int8).astype(np.float32) / 64
    return values.astype(dtype).reshape(rows, columns)


@cache
def _scale_table(dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """256 scales worth trying: powers of two, zero, the smallest, the largest, and everyday ones."""
    bits = np.dtype(f"u{dtype.itemsize}")
    smallest = np.array([1, 2], bits).view(dtype)
    infinity = np.array([np.inf], np.float32).astype(dtype).view(bits)
    largest = (infinity - bits.type(1)).view(dtype)
    powers = np.array([1, 0, 0.5, 2, 0.25, 4, 8, 0.125], np.float32).astype(dtype)
    everyday = np.exp2(np.random.default_rng(0).uniform(-20, 4, 256)).astype(dtype)
    return np.concatenate([powers, smallest, largest, everyday])[:256]
