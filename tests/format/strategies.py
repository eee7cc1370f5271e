"""Hypothesis strategies: ternary tensors in memory, and valid files as other libraries may write them."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from ternfmt import LowRank, Plane, TernaryTensor
from ternfmt.container import DTYPE_NAMES
from ternfmt.pack import pack
from ternfmt.writer import stored_parts
from tests.format.raw import RawFile, Tensor

SCALE_DTYPES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32)]
DENSE_DTYPES = list(DTYPE_NAMES)


def random_tensor(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    planes: int = 1,
    group_size: int | None = None,
    rank: int | None = None,
    dtype: np.dtype[Any] = SCALE_DTYPES[0],
) -> TernaryTensor:
    n, k = shape[0], int(np.prod(shape[1:]))
    scale_shape = (n,) if group_size is None else (n, -(-k // group_size))
    parts = tuple(
        Plane(
            pack(rng.integers(-1, 2, (n, k)).astype(np.int8)),
            (np.exp2(rng.uniform(-20, 4, scale_shape)) * (rng.random(scale_shape) < 0.9)).astype(dtype),
        )
        for _ in range(planes)
    )
    if rank is None:
        return TernaryTensor(shape, parts, group_size)
    down, up = rng.standard_normal((rank, k)), rng.standard_normal((n, rank))
    return TernaryTensor(shape, parts, group_size, LowRank(down.astype(dtype), up.astype(dtype)))


seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)
shapes = st.one_of(
    st.tuples(st.integers(1, 5), st.integers(1, 40)),
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)),
)


@st.composite
def ternary_tensors(draw: st.DrawFn, low_rank: bool = True) -> TernaryTensor:
    shape = draw(shapes)
    k = int(np.prod(shape[1:]))
    return random_tensor(
        draw(seeds),
        shape,
        draw(st.integers(1, 4)),
        draw(st.sampled_from([None, 16, 32, 48])),
        draw(st.one_of(st.none(), st.integers(1, min(k, 3)))) if low_rank else None,
        draw(st.sampled_from(SCALE_DTYPES)),
    )


@st.composite
def dense_arrays(draw: st.DrawFn) -> np.ndarray:
    dtype = draw(st.sampled_from(DENSE_DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=4))
    rng = draw(seeds)
    raw = rng.integers(0, 2 if dtype == np.bool_ else 256, int(np.prod(shape)) * dtype.itemsize, np.uint8)
    return raw.view(dtype).reshape(shape)


@st.composite
def models(draw: st.DrawFn) -> dict[str, TernaryTensor | np.ndarray]:
    """Ternary and dense tensors by name."""
    names = [draw(st.sampled_from("abcd")) + f".{i}.weight" for i in range(draw(st.integers(0, 4)))]
    return {name: draw(st.one_of(ternary_tensors(), dense_arrays())) for name in names}


@st.composite
def valid_files(draw: st.DrawFn, tensors: dict[str, TernaryTensor | np.ndarray]) -> bytes:
    """A valid file of these tensors, in any order, with any white space, escapes and padding."""
    parts = {part: data for name, tensor in tensors.items() for part, data in stored_parts(name, tensor).items()}
    # Any order in which every tensor stays aligned: wide dtypes first is one; ties in any order.
    names = sorted(draw(st.permutations(list(parts))), key=lambda name: -parts[name].dtype.itemsize)
    stored = {
        name: Tensor(DTYPE_NAMES[parts[name].dtype], list(parts[name].shape), parts[name].tobytes()) for name in names
    }
    ternary = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, TernaryTensor)}
    used = {feature for tensor in ternary.values() for feature in features_of(tensor)}
    listed = used | set(draw(st.lists(st.sampled_from(["group-scale", "planes", "low-rank"]))))
    document = {
        "version": draw(st.sampled_from(["1.0", "1.7"])),
        "required": draw(st.permutations(sorted(listed))),
        "tensors": {name: entry_of(tensor) for name, tensor in ternary.items()},
        "unknown": draw(json_values),
    }
    raw = RawFile(stored, document)
    header = {key: raw.header_value()[key] for key in draw(st.permutations([*stored, "__metadata__"]))}
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n\t", " :\r\n")]))
    text = json.dumps(header, separators=separators)
    if draw(st.booleans()):
        text = text.replace('"dtype"', r'"\u0064type"').replace("weight", r"w\u0065ight")
    encoded = text.encode()
    encoded += b" " * (-len(encoded) % 8 + draw(st.sampled_from([0, 8, 64])))
    raw.byte_edits.append(lambda _: encoded)
    return raw.build()


def features_of(tensor: TernaryTensor) -> list[str]:
    return [
        *(["group-scale"] if tensor.group_size else []),
        *(["planes"] if len(tensor.planes) > 1 else []),
        *(["low-rank"] if tensor.low_rank else []),
    ]


def entry_of(tensor: TernaryTensor) -> dict[str, Any]:
    entry: dict[str, Any] = {"shape": list(tensor.shape), "encoding": "int2", "unknown": [True]}
    if tensor.group_size:
        entry["group_size"] = tensor.group_size
    if len(tensor.planes) > 1:
        entry["planes"] = len(tensor.planes)
    if tensor.low_rank:
        entry["low_rank"] = len(tensor.low_rank.down)
    return entry


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
