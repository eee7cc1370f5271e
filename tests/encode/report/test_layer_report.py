"""Reports measure what the stored codes and scales say, in any working precision, and add up."""

from __future__ import annotations

import itertools
import json
import math

import ml_dtypes
import numpy as np
import pytest

from ternfmt import compare, native
from ternfmt.encode.quantize import quantize
from ternfmt.encode.report import layer_report
from ternfmt.encode.report.layer_report import LayerReport, Measure, Totals
from ternfmt.encode.settings import LayerSettings
from ternfmt.pack import unpack

EXACT = LayerSettings()


def gaussian(shape: tuple[int, ...], dtype=np.float32, scale: float = 0.02, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(dtype)


def report(weight: np.ndarray, settings: LayerSettings = EXACT, blocks: int = 1) -> LayerReport:
    tensor = quantize(weight, settings.method, planes=settings.planes, group_size=settings.group_size, threads=1)
    measure = Measure("x.weight", weight.shape, settings)
    edges = np.linspace(0, len(weight), blocks + 1).astype(int)
    for start, stop in itertools.pairwise(edges):
        measure.add(weight[start:stop], tensor[start:stop])
    return measure.report()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((30, 41), EXACT),
        ((700, 3), LayerSettings("absmean")),
        ((5, 300), LayerSettings("planes", 3)),
        ((4, 9, 3, 3), LayerSettings("planes", 2, 16)),
        ((1, 1), EXACT),
    ],
    ids=str,
)
def test_agrees_with_dequantised_values(dtype, shape: tuple[int, ...], settings: LayerSettings) -> None:
    weight = gaussian(shape, dtype)
    tensor = quantize(weight, settings.method, planes=settings.planes, group_size=settings.group_size)
    found = report(weight, settings)
    error, norm = compare.squared_error(tensor, weight)
    assert found.squared_error == pytest.approx(error, rel=1e-5, abs=1e-12 * norm)
    assert found.squared_norm == pytest.approx(norm, rel=1e-5)
    assert found.non_zero == tuple(int(np.count_nonzero(tensor.unpack(p))) for p in range(settings.planes))
    assert found.stored_bytes == tensor.nbytes
    assert (found.shape, found.method, found.planes) == (shape, settings.method, settings.planes)
    for plane, quantiles in zip(tensor.planes, found.scales, strict=True):
        scales = np.sort(plane.scale.astype(np.float64).reshape(-1))
        assert (quantiles[0], quantiles[-1]) == (scales[0], scales[-1])
        assert list(quantiles) == sorted(quantiles)
        assert set(quantiles) <= set(scales)


@pytest.mark.parametrize("scale", [1e-25, 1e-15, 1e15, 1e30])
def test_no_size_of_weights_overflows_or_vanishes(scale: float) -> None:
    ordinary, other = gaussian((20, 64), scale=1.0), gaussian((20, 64), scale=scale)
    assert report(other).snr_db == pytest.approx(report(ordinary).snr_db, abs=1e-3)
    assert report(other).scale_dtype == "F32"


def test_weights_that_are_ternary_have_no_error() -> None:
    weight = np.random.default_rng(1).integers(-1, 2, (16, 40)).astype(np.float32) * np.float32(0.5)
    assert report(weight).snr_db == math.inf


def test_zeros_are_all_sparse() -> None:
    found = report(np.zeros((3, 8), np.float32))
    assert found.sparsity == (1.0,)
    assert (found.squared_error, found.squared_norm) == (0.0, 0.0)
    assert set(found.scales[0]) == {0.0}


def test_chunks_are_only_a_matter_of_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = gaussian((100, 48))
    whole = report(weight)
    monkeypatch.setattr(layer_report, "CHUNK_WEIGHTS", 7 * 48)
    in_chunks = report(weight)
    assert in_chunks.squared_error == pytest.approx(whole.squared_error, rel=1e-6)
    in_blocks = report(weight, blocks=3)
    assert in_blocks.squared_error == pytest.approx(whole.squared_error, rel=1e-6)
    assert (in_blocks.non_zero, in_blocks.scales) == (whole.non_zero, whole.scales)
    assert in_blocks.stored_bytes == whole.stored_bytes


@pytest.mark.parametrize("code", native.available())
@pytest.mark.parametrize("planes", [1, 2])
def test_the_order_of_the_sums_is_the_stated_one(code: str, planes: int) -> None:
    weight = gaussian((9, 33), scale=1.0)
    tensor = quantize(weight, "exact" if planes == 1 else "planes", planes=planes)
    by_column = np.zeros(33, np.float32)
    for n, row in enumerate(weight):
        difference = row
        for plane in tensor.planes:
            difference = difference - unpack(plane.codes, 33)[n] * plane.scale[n].astype(np.float32)
        by_column = by_column + np.square(difference)
    with native.using(code):
        found = report(weight, LayerSettings("exact" if planes == 1 else "planes", planes))
    assert found.squared_error == sum(by_column.astype(np.float64).tolist())


def test_survives_json_exactly() -> None:
    found = report(gaussian((30, 41), ml_dtypes.bfloat16), LayerSettings("planes", 2, 16))
    assert LayerReport.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_totals_sum_errors_not_decibels() -> None:
    layers = [report(gaussian((8, 40), scale=s, seed=i)) for i, s in enumerate((0.01, 1.0, 0.1))]
    layers.append(report(gaussian((8, 40), seed=5), LayerSettings("planes", 2)))
    totals = Totals.of(layers)
    assert totals == Totals.of(reversed(layers))
    error, norm = sum(r.squared_error for r in layers), sum(r.squared_norm for r in layers)
    assert totals.snr_db == pytest.approx(10 * math.log10(norm / error))
    assert totals.sparsity == pytest.approx(1 - sum(sum(r.non_zero) for r in layers) / (5 * 320))
    assert (totals.weights, totals.stored_bytes) == (4 * 320, sum(r.stored_bytes for r in layers))
    assert Totals.of([]).weights == 0
