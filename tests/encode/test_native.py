"""The native code gives the bits of the numpy code, on every instruction set of this machine, or leaves it to numpy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ternfmt import native
from ternfmt.encode.assign import assign_codes
from ternfmt.encode.groups import Groups
from ternfmt.encode.methods import exact
from ternfmt.encode.quantize import quantize
from ternfmt.encode.report.layer_report import Measure
from ternfmt.encode.settings import LayerSettings
from ternfmt.encode.spectrum import Spectrum
from ternfmt.encode.weights import WeightError, magnitude_bits
from ternfmt.errors import FormatError
from ternfmt.pack import check_codes, pack, unpack

DTYPES = [np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16), np.dtype(np.float32)]
SETS = [name for name in native.available() if name != native.NUMPY]
every_set = pytest.mark.parametrize("name", SETS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
many = settings(max_examples=60)
seeds = st.integers(0, 2**32 - 1)
KINDS = ["bell", "heavy tails", "few values", "almost all zero", "almost equal", "wide", "bits"]


def rows_of(kind: str, rng: np.random.Generator, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """Finite weights; subnormal, huge and equal ones among them."""
    if kind == "bits":
        unsigned = np.dtype(f"u{dtype.itemsize}")
        values = rng.integers(0, 2 ** (8 * dtype.itemsize), shape, dtype=np.uint64).astype(unsigned).view(dtype)
        return np.where(np.isfinite(values.astype(np.float32)), values, dtype.type(1))
    values = {
        "bell": lambda: rng.standard_normal(shape) * 0.02,
        "heavy tails": lambda: rng.standard_t(2, shape),
        "few values": lambda: rng.integers(-2, 3, shape) * 0.0625,
        "almost all zero": lambda: np.where(rng.random(shape) < 0.01, rng.standard_normal(shape), -0.0),
        "almost equal": lambda: 1 + rng.integers(0, 4, shape) * 2.0 ** -rng.integers(5, 24),
        "wide": lambda: np.exp(rng.uniform(-9, 9) * rng.standard_normal(shape)),
    }[kind]()
    exponent = rng.choice([0, 0, 0, -140, -126, 120] if dtype != np.float16 else [0, 0, -24, -14, 15])
    largest = float(ml_dtypes.finfo(dtype).max)
    return np.clip(values * 2.0**exponent, -largest, largest).astype(dtype)


@st.composite
def weights(draw: st.DrawFn, dtype: np.dtype, columns_max: int) -> np.ndarray:
    rng = np.random.default_rng(draw(seeds))
    shape = draw(st.integers(1, 4)), draw(st.one_of(st.integers(1, 140), st.integers(1, columns_max)))
    return rows_of(draw(st.sampled_from(KINDS)), rng, shape, dtype)


def exact_by_sorting(weight: np.ndarray, size: int) -> np.ndarray:
    bits = magnitude_bits(weight)
    starts = range(0, weight.shape[1], size)
    columns = [exact(Spectrum.of(bits[:, i : i + size], weight.dtype), 1)[:, 0] for i in starts]
    return np.stack(columns, axis=1)


@every_set
@every_dtype
@many
@given(data=st.data())
def test_exact_scales_are_those_of_the_sort(name: str, dtype: np.dtype, data: st.DataObject) -> None:
    weight = data.draw(weights(dtype, 5000))
    size = data.draw(st.sampled_from([weight.shape[1], 16, 48, 128]))
    with native.using(name):
        found = native.exact_scales(weight, size)
    assert found is not None
    assert found.tobytes() == exact_by_sorting(weight, min(size, weight.shape[1])).tobytes()


@every_set
@every_dtype
@pytest.mark.parametrize("kind", KINDS)
def test_exact_scales_of_long_rows(name: str, dtype: np.dtype, kind: str) -> None:
    weight = rows_of(kind, np.random.default_rng(1), (1, 70_001), dtype)
    with native.using(name):
        found = native.exact_scales(weight, weight.shape[1])
    assert found is not None
    assert found.tobytes() == exact_by_sorting(weight, weight.shape[1]).tobytes()


@every_set
@every_dtype
def test_rows_of_the_greatest_length(name: str, dtype: np.dtype) -> None:
    """All equal: a support of 2^20, whose sum and number are the largest there are."""
    for value in (1.0, float(ml_dtypes.finfo(dtype).max), float(ml_dtypes.finfo(dtype).smallest_subnormal)):
        weight = np.full((1, native.COLUMNS_MAX), value, dtype=dtype)
        with native.using(name):
            scales = native.exact_scales(weight, native.COLUMNS_MAX)
            assert scales is not None
            assert scales.tolist() == [[float(dtype.type(value))]]
            assert native.exact_scales(np.ones((1, native.COLUMNS_MAX + 1), dtype=dtype), 1 << 24) is None


@every_set
@every_dtype
@pytest.mark.parametrize("planes", [1, 2, 3, 4])
@settings(max_examples=15)
@given(data=st.data())
def test_codes_are_those_of_numpy(name: str, dtype: np.dtype, planes: int, data: st.DataObject) -> None:
    weight = data.draw(weights(dtype, 400))
    groups = Groups(weight.shape[1], data.draw(st.sampled_from([None, 16, 48, 128])))
    rng = np.random.default_rng(data.draw(seeds))
    scales = -np.sort(-np.abs(rng.standard_normal((planes, len(weight), groups.count))), axis=0)
    scales *= rng.choice([0.0, 1e-3, 1.0, 1e30], scales.shape, p=[0.1, 0.4, 0.4, 0.1])
    if data.draw(st.booleans()):  # thresholds that are weights: ties
        scales[0] = 2 * np.abs(weight[:, :1].astype(np.float64))
        scales = -np.sort(-scales, axis=0)
    with native.using(native.NUMPY):
        expected = assign_codes(weight, scales, groups)
    with native.using(name):
        found = assign_codes(weight, scales, groups)
    assert [p.tobytes() for p in found] == [p.tobytes() for p in expected]
    assert [p.shape for p in found] == [p.shape for p in expected]


@every_set
@many
@given(seed=seeds, rows=st.integers(0, 5), columns=st.integers(0, 300), bad=st.booleans())
def test_pack_unpack_and_check_are_those_of_numpy(name: str, seed: int, rows: int, columns: int, bad: bool) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(-1, 2, (rows, columns)).astype(np.int8)
    packed = rng.integers(0, 256, (rows, -(-columns // 4))).astype(np.uint8)
    if not bad or not codes.size:
        with native.using(native.NUMPY):
            packed = pack(codes)
        if codes.size:  # perhaps one fault
            packed[rng.integers(rows), rng.integers(packed.shape[1])] ^= rng.choice([0, 0, 2, 8, 32, 64, 128])
    else:
        codes[rng.integers(rows), rng.integers(columns)] = rng.choice([-128, -2, 2, 3, 127])
    outcomes = []
    for implementation in (native.NUMPY, name):
        with native.using(implementation):
            outcomes.append([outcome(pack, codes), outcome(unpack, packed, columns), outcome(check, packed, columns)])
    assert outcomes[0] == outcomes[1]


def outcome(function, *arguments):
    try:
        result = function(*arguments)
    except (ValueError, FormatError) as error:
        return type(error), str(error)
    return None if result is None else (result.dtype, result.shape, result.tobytes())


def check(packed: np.ndarray, k: int) -> None:
    check_codes(packed, k, "w")


@every_set
@every_dtype
@pytest.mark.parametrize("group_size", [None, 32])
@settings(max_examples=12)
@given(data=st.data())
def test_quantize_gives_the_bytes_of_numpy(
    name: str, dtype: np.dtype, group_size: int | None, data: st.DataObject
) -> None:
    weight = data.draw(weights(dtype, 600))
    results = []
    for implementation in (native.NUMPY, name):
        with native.using(implementation):
            results.append(quantize(weight, group_size=group_size, threads=data.draw(st.sampled_from([1, 2]))))
    a, b = results
    assert a.scale.dtype == b.scale.dtype
    assert a.scale.tobytes() == b.scale.tobytes()
    assert a.codes.tobytes() == b.codes.tobytes()


@every_set
@every_dtype
def test_threads_and_blocks_do_not_show(name: str, dtype: np.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = rows_of("bell", np.random.default_rng(0), (37, 203), dtype)
    with native.using(native.NUMPY):
        expected = quantize(weight, group_size=48)
    for block, threads in ((1, 1), (203, 3), (1000, 2), (5000, 8)):
        monkeypatch.setattr("ternfmt.encode.quantize.BLOCK_WEIGHTS", block)
        with native.using(name):
            found = quantize(weight, group_size=48, threads=threads)
        assert found.scale.tobytes() == expected.scale.tobytes()
        assert found.codes.tobytes() == expected.codes.tobytes()


@every_set
@every_dtype
@pytest.mark.parametrize(("method", "planes", "group_size"), [("exact", 1, None), ("exact", 1, 48), ("planes", 3, 32)])
@settings(max_examples=8)
@given(data=st.data())
def test_reports_are_those_of_numpy(
    name: str, dtype: np.dtype, method: str, planes: int, group_size: int | None, data: st.DataObject
) -> None:
    weight = data.draw(weights(dtype, 300))
    weight = np.concatenate([weight] * data.draw(st.sampled_from([1, 80])))
    tensor = quantize(weight, method, planes=planes, group_size=group_size)
    reports = []
    for implementation in (native.NUMPY, name):
        with native.using(implementation):
            measure = Measure("w", weight.shape, LayerSettings(method, planes, group_size))
            measure.add(weight, tensor)
            reports.append(measure.report())
    assert reports[0] == reports[1]


@every_set
@every_dtype
@settings(max_examples=12)
@given(
    value=st.sampled_from([np.nan, -np.nan, np.inf, -np.inf]),
    rows=st.integers(1, 3),
    columns=st.integers(1, 200),
    data=st.data(),
)
def test_nan_and_inf_are_refused_anywhere(
    name: str, dtype: np.dtype, value: float, rows: int, columns: int, data: st.DataObject
) -> None:
    weight = np.ones((rows, columns), dtype=dtype)
    row, column = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    weight[row, column] = value
    with native.using(name), pytest.raises(WeightError) as info:
        quantize(weight, group_size=16)
    assert (info.value.row, info.value.column) == (row, column)


@every_set
def test_any_memory_layout_is_read_and_inputs_stay_as_they_are(name: str) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 70)).astype(np.float32)
    raw = b"-" + weight.tobytes()
    unaligned = np.frombuffer(raw, np.uint8)[1:].view(np.float32).reshape(6, 70)
    spaced = np.zeros((12, 140), np.float32)[::2, ::2]
    spaced[...] = weight
    frozen = weight.copy()
    frozen.flags.writeable = False
    assert not unaligned.flags.aligned
    with native.using(name):
        expected = native.exact_scales(weight, 70)
        for layout in (unaligned, spaced, np.asfortranarray(weight), frozen):
            scales = native.exact_scales(layout, 70)
            assert scales is not None
            assert expected is not None
            assert scales.tobytes() == expected.tobytes()
            assert quantize(layout).codes.tobytes() == quantize(weight).codes.tobytes()
            assert layout.tobytes() == weight.tobytes()


def test_sizes_that_do_not_fit_are_refused() -> None:
    module = native._native
    if module is None:
        pytest.skip("no native code")
    two, eight = bytearray(2), np.zeros(8, np.uint8)
    floats, scales = np.zeros(8, np.uint16), np.zeros(2)
    wrong = [
        lambda: module.pack(eight, 2, 4, bytearray(3)),
        lambda: module.pack(eight, 2, 5, two),
        lambda: module.pack(eight, -2, -4, two),
        lambda: module.pack(eight, 1 << 62, 1 << 62, two),
        lambda: module.unpack(two, 2, 4, bytearray(7)),
        lambda: module.unpack(two, 2, 1 << 63 - 1, bytearray(8)),
        lambda: module.valid(two, 3, 4),
        lambda: module.exact_scales(floats, 2, 4, 4, "bfloat16", np.zeros(1)),
        lambda: module.exact_scales(floats, 2, 4, 4, "float32", scales),
        lambda: module.exact_scales(floats, 2, 4, 4, "float64", scales),
        lambda: module.exact_scales(floats, 2, 4, 0, "float16", scales),
        lambda: module.exact_scales(floats, 2, 4, 3, "float16", scales),
        lambda: module.exact_scales(floats, 8, 0, 4, "float16", scales),
        lambda: module.exact_scales(np.zeros(1 << 21, np.uint16), 1, 1 << 21, 1 << 21, "float16", np.zeros(1)),
        lambda: module.assign_codes(floats, 2, 4, 4, "float16", floats[:2], two, (bytearray(1),)),
        lambda: module.assign_codes(floats, 2, 4, 4, "float16", floats[:3], two, (two,)),
        lambda: module.assign_codes(floats, 2, 4, 4, "float16", floats[:2], two, ()),
        lambda: module.assign_codes(floats, 2, 4, 4, "float16", floats[:2], two, (two,) * 5),
        lambda: module.non_zero(two, 3, 4),
        lambda: module.squares(floats, 2, 4, 4, "float16", 0, (two,), np.zeros(2, np.float32), scales, scales),
        lambda: module.squares(floats, 2, 4, 4, "float16", 2, (two,), np.zeros(2, np.float32), scales, scales),
        lambda: module.squares(floats, 2, 4, 4, "float16", 1, (two, two), np.zeros(2, np.float32), scales, scales),
        lambda: module.squares(floats, 2, 4, 4, "float16", 1, (bytes(3),), np.zeros(2, np.float32), scales, scales),
        lambda: module.select("sse9"),
    ]
    for call in wrong:
        with pytest.raises(ValueError, match=r"expected|available"):
            call()
    with pytest.raises((TypeError, BufferError)):
        module.pack(eight, 2, 4, bytes(2))  # read-only
    with pytest.raises((TypeError, BufferError)):
        module.assign_codes(floats, 2, 4, 4, "float16", floats[:2], two, (bytes(2),))


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment},
    )


def test_without_native_code_numpy_does_the_work() -> None:
    code = """
import sys
sys.modules["ternfmt._native"] = None  # as if it were not there
import numpy as np, ternfmt
from ternfmt import native
assert native.available() == ("numpy",) and native.selected() == "numpy"
tensor = ternfmt.quantize(np.array([[1.5, -1.5, 0.25, 0, 1.5]], np.float32))
print(tensor.codes.tolist(), tensor.scale.tolist(), tensor.unpack().tolist())
"""
    done = run(code, TERNFMT_NATIVE="")
    assert done.stdout.strip() == "[[13, 1]] [1.5] [[1, -1, 0, 0, 1]]", done.stderr
    refused = run(code, TERNFMT_NATIVE="avx2")
    assert "TERNFMT_NATIVE: expected one of numpy, got 'avx2'" in refused.stderr


def test_the_environment_chooses() -> None:
    name = native.available()[-2:][0]
    done = run("from ternfmt import native; print(native.selected())", TERNFMT_NATIVE=name)
    assert done.stdout.strip() == name, done.stderr


def test_where_there_is_a_compiler_there_is_native_code() -> None:
    """Else a fault of the build would pass as a slow test run."""
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if not headers.exists() or not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("no C compiler, or no Python.h")
    assert SETS, "build it: pip install --no-build-isolation --no-deps -e ."
    assert native.available()[-2:] == ("scalar", "numpy")
