"""Faults that show in SPEC section 10, steps 21 to 24."""

from __future__ import annotations

from math import prod

import numpy as np

from ternfmt.container import DTYPES
from ternfmt.errors import Kind
from ternfmt.names import RESERVED_SUFFIXES

from ..files.raw import RawFile, poke, tensor
from ..optional import st
from .fault import Fault, entries


def _planes(raw: RawFile) -> list[tuple[str, int, int]]:
    """The codes tensor, N and K of every plane."""
    found = []
    for name, entry in entries(raw).items():
        n, k = entry["shape"][0], prod(entry["shape"][1:])
        found += [(name if p == 1 else f"{name}_plane{p}", n, k) for p in range(1, entry.get("planes", 1) + 1)]
    return found


def _padded(raw: RawFile) -> list[tuple[str, int, int]]:
    """Planes whose rows end in pad lanes."""
    return [plane for plane in _planes(raw) if plane[2] % 4]


def _declare_derived(draw: st.DrawFn, raw: RawFile) -> None:
    name = draw(st.sampled_from(list(entries(raw)))) + draw(st.sampled_from(RESERVED_SUFFIXES))
    entries(raw)[name] = {"shape": [1, 1], "encoding": "int2"}


def _stray_part(draw: st.DrawFn, raw: RawFile) -> None:
    name = draw(st.sampled_from(list(entries(raw))))
    free = [suffix for suffix in RESERVED_SUFFIXES if name + suffix not in raw.tensors]
    raw.tensors[name + draw(st.sampled_from(free))] = tensor("U8", [draw(st.integers(0, 3))])


def _has_free_name(raw: RawFile) -> bool:
    return bool(entries(raw)) and all(
        any(name + suffix not in raw.tensors for suffix in RESERVED_SUFFIXES) for name in entries(raw)
    )


def _drop_codes(draw: st.DrawFn, raw: RawFile) -> None:
    del raw.tensors[draw(st.sampled_from(_planes(raw)))[0]]


def _drop_scale(draw: st.DrawFn, raw: RawFile) -> None:
    del raw.tensors[draw(st.sampled_from(_planes(raw)))[0] + "_scale"]


def _undeclare(draw: st.DrawFn, raw: RawFile) -> None:
    del entries(raw)[draw(st.sampled_from(list(entries(raw))))]


def _widen(draw: st.DrawFn, raw: RawFile) -> None:
    entry = entries(raw)[draw(st.sampled_from(list(entries(raw))))]
    entry["shape"] = [entry["shape"][0], prod(entry["shape"][1:]) + draw(st.integers(4, 64))]


def _lengthen(draw: st.DrawFn, raw: RawFile) -> None:
    entries(raw)[draw(st.sampled_from(list(entries(raw))))]["shape"][0] += draw(st.integers(1, 9))


def _bad_scale(draw: st.DrawFn, raw: RawFile) -> None:
    name = draw(st.sampled_from(_planes(raw)))[0] + "_scale"
    stored = raw.tensors[name]
    dtype = DTYPES[stored.dtype]
    at = draw(st.integers(0, prod(stored.shape) - 1))
    special = np.array([-1.0, -0.0, np.inf, -np.inf, np.nan, -np.nan], np.float32).astype(dtype)
    poke(name, at * dtype.itemsize, draw(st.sampled_from([value.tobytes() for value in special])))(raw)


def _forbid(draw: st.DrawFn, raw: RawFile) -> None:
    name, n, k = draw(st.sampled_from(_planes(raw)))
    _set_lane(raw, name, draw(st.integers(0, n - 1)), draw(st.integers(0, k - 1)), -(-k // 4), 0b10)


def _fill_padding(draw: st.DrawFn, raw: RawFile) -> None:
    name, n, k = draw(st.sampled_from(_padded(raw)))
    column = draw(st.integers(k, k + (-k % 4) - 1))
    _set_lane(raw, name, draw(st.integers(0, n - 1)), column, -(-k // 4), draw(st.sampled_from([1, 3, 2])))


def _set_lane(raw: RawFile, name: str, row: int, column: int, width: int, code: int) -> None:
    at, shift = row * width + column // 4, 2 * (column % 4)
    poke(name, at, bytes([raw.tensors[name].data[at] & ~(3 << shift) | code << shift]))(raw)


TENSOR_FAULTS = (
    Fault("derived name declared", Kind.NAME, "S-6.1", _declare_derived, entries),
    Fault("derived tensor that is not called for", Kind.NAME, "S-6.1", _stray_part, _has_free_name),
    Fault("codes absent", Kind.METADATA, "S-3.3", _drop_codes, entries),
    Fault("K too large for the codes", Kind.METADATA, "S-3.3", _widen, entries),
    Fault("N too large for the codes", Kind.METADATA, "S-3.3", _lengthen, entries),
    Fault("ternary tensor not declared", Kind.METADATA, "S-6.3", _undeclare, entries),
    Fault("scale absent", Kind.SCALE, "S-4.1", _drop_scale, entries),
    Fault("scale value", Kind.SCALE, "S-4.2", _bad_scale, entries),
    Fault("forbidden code", Kind.CODE, "S-3.2", _forbid, entries),
    Fault("padding", Kind.PADDING, "S-3.5", _fill_padding, _padded),
)
