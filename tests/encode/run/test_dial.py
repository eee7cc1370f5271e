"""The dial keeps the ratio, spends planes where they save most, and measures what it spends them by."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ternfmt.encode.quantize import quantize
from ternfmt.encode.run import dial
from ternfmt.encode.run.dial import DialLayer, LayerCosts, Option, RatioError, choose_planes, measure, sample
from ternfmt.encode.run.dial import spend as spend_options
from ternfmt.encode.settings import LayerSettings
from ternfmt.encode.weights import WeightError


@st.composite
def models(draw, convex: bool = False) -> list[LayerCosts]:
    """One to five layers of one to four options."""
    layers = []
    for i in range(draw(st.integers(1, 5))):
        weights = draw(st.integers(1, 40)) * 64
        noise, fall, options = draw(st.integers(0, 1000)) / 4, math.inf, []
        for planes in range(1, draw(st.integers(1, 4)) + 1):
            options.append(Option(planes, planes * weights // 4 + 2, noise))
            step = draw(st.integers(-50, 500)) / 4
            fall = min(fall, max(0, step)) if convex else step
            noise -= fall
        layers.append(LayerCosts(f"layer{i}", weights, tuple(options)))
    return layers


def spend(layers: list[LayerCosts], ratio: float) -> dict[str, int]:
    return {name: option.planes for name, option in spend_options(layers, ratio).items()}


def reach(layers: list[LayerCosts]) -> tuple[float, float]:
    bf16 = 2 * sum(layer.weights for layer in layers)
    return tuple(bf16 / sum(layer.options[end].stored_bytes for layer in layers) for end in (-1, 0))


def outcome(layers: list[LayerCosts], chosen: dict[str, int]) -> tuple[float, int, float]:
    """Ratio, bytes and noise."""
    options = [layer.options[chosen[layer.name] - 1] for layer in layers]
    total = sum(option.stored_bytes for option in options)
    return 2 * sum(layer.weights for layer in layers) / total, total, sum(option.noise for option in options)


def ratio_between(layers: list[LayerCosts], share: float) -> float:
    low, high = reach(layers)
    return min(max(low + share * (high - low), low), high)


@given(models(), st.floats(0, 1))
def test_the_ratio_is_kept(layers: list[LayerCosts], share: float) -> None:
    ratio = ratio_between(layers, share)
    assert outcome(layers, spend(layers, ratio))[0] >= ratio


@given(models(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_ratio_never_gives_more_planes(layers: list[LayerCosts], one: float, two: float) -> None:
    small, large = (spend(layers, ratio_between(layers, share)) for share in sorted((one, two)))
    assert all(small[name] >= large[name] for name in small)


@settings(max_examples=60, deadline=None)
@given(models(), st.floats(0, 1))
def test_nothing_better_has_as_many_bytes(layers: list[LayerCosts], share: float) -> None:
    """Against every choice there is: only one with more bytes, within a step of the limit, can have less noise."""
    _, spent, noise = outcome(layers, spend(layers, ratio_between(layers, share)))
    for planes in itertools.product(*[range(1, len(layer.options) + 1) for layer in layers]):
        _, other_bytes, other_noise = outcome(layers, dict(zip([x.name for x in layers], planes, strict=True)))
        assert other_bytes > spent or other_noise >= noise - 1e-9


@given(models(convex=True), st.floats(0, 1))
def test_what_is_left_is_less_than_a_step(layers: list[LayerCosts], share: float) -> None:
    ratio = ratio_between(layers, share)
    chosen = spend(layers, ratio)
    steps = [
        layer.options[chosen[layer.name]].stored_bytes - layer.options[chosen[layer.name] - 1].stored_bytes
        for layer in layers
        if chosen[layer.name] < len(layer.options)
        and layer.options[chosen[layer.name]].noise < layer.options[chosen[layer.name] - 1].noise
    ]
    limit = 2 * sum(layer.weights for layer in layers) / ratio
    assert not steps or limit - outcome(layers, chosen)[1] < max(steps) + 1e-6


def options(*noises: float, size: int = 100) -> tuple[Option, ...]:
    return tuple(Option(p, p * size, noise) for p, noise in enumerate(noises, 1))


def test_planes_go_where_noise_falls_most_per_byte() -> None:
    layers = [
        LayerCosts("large", 4000, options(10.0, 2.0, size=1000)),
        LayerCosts("small", 400, options(2.0, 1.0)),
        LayerCosts("clean", 400, options(0.5, 0.1)),
    ]
    assert spend(layers, 9600 / 1300) == {"large": 1, "small": 2, "clean": 1}
    assert spend(layers, 9600 / 1299) == {"large": 1, "small": 1, "clean": 1}


def test_a_plane_that_only_pays_with_the_next_comes_with_it() -> None:
    layers = [LayerCosts("a", 400, options(10.0, 9.5, 1.0)), LayerCosts("b", 400, options(6.0, 3.0))]
    assert spend(layers, 1600 / 300) == {"a": 1, "b": 1}
    assert spend(layers, 1600 / 400) == {"a": 3, "b": 1}
    assert spend(layers, 1600 / 500) == {"a": 3, "b": 2}


def test_ties_go_to_the_first_layer() -> None:
    layers = [LayerCosts(name, 400, options(3.0, 1.0)) for name in ("z", "a", "m")]
    assert spend(layers, 2400 / 400) == {"z": 2, "a": 1, "m": 1}


def test_a_ratio_out_of_reach_names_the_range() -> None:
    layers = [LayerCosts("a", 400, options(3.0, 1.0))]
    for ratio in (3.9, 8.1, math.nan, math.inf, -1.0):
        with pytest.raises(RatioError, match=r"expected 4 to 8 for these layers, got"):
            spend(layers, ratio)
    assert (spend(layers, 8.0), spend(layers, 4.0)) == ({"a": 1}, {"a": 2})


def test_a_sample_is_even_bounded_and_whole_where_that_is_less() -> None:
    assert sample(300, 384) == [slice(0, 300)]
    runs = sample(21504, 3072)
    assert len(runs) == 16
    assert sum(r.stop - r.start for r in runs) * 3072 <= dial.SAMPLE_WEIGHTS
    assert {b.start - a.start for a, b in itertools.pairwise(runs)} == {1344}
    assert max(r.stop for r in runs) <= 21504
    assert all(r.stop - r.start == 1 for r in sample(100, 1 << 24))


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "heavy": rng.standard_t(2.5, (24, 64)).astype(np.float32),
        "bell": rng.standard_normal((24, 64)).astype(np.float32) * np.float32(50),
        "ternary": rng.integers(-1, 2, (24, 64)).astype(np.float32),
        "zeros": np.zeros((24, 64), np.float32),
    }


def layers_of(tensors: dict[str, np.ndarray]) -> dict[str, DialLayer]:
    return {name: DialLayer(w.shape, LayerSettings()) for name, w in tensors.items()}


def test_costs_are_those_of_quantising() -> None:
    tensors = weights()
    costs = measure("heavy", DialLayer((24, 64), LayerSettings()), (1, 2), lambda n, a, b: tensors[n][a:b])
    one, two = quantize(tensors["heavy"]), quantize(tensors["heavy"], "planes")
    assert [o.stored_bytes for o in costs.options] == [one.nbytes, two.nbytes]
    for option, tensor in zip(costs.options, (one, two), strict=True):
        error = np.square(tensors["heavy"].astype(np.float64) - tensor.dequantize()).sum()
        norm = np.square(tensors["heavy"], dtype=np.float64).sum()
        assert option.noise == pytest.approx(24 * 64 * error / norm, rel=1e-5)
    assert LayerCosts.from_json(json.loads(json.dumps(costs.to_json()))) == costs


def test_a_weight_that_is_not_finite_is_named_by_its_own_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "SAMPLE_WEIGHTS", 32 * 8)
    weight = np.ones((320, 8), np.float32)
    weight[221, 5] = np.nan
    with pytest.raises(WeightError, match="at row 221, column 5"):
        measure("x", DialLayer((320, 8), LayerSettings()), (1,), lambda n, a, b: weight[a:b])


def test_f32_scales_are_paid_for() -> None:
    tiny = np.full((4, 16), 1e-7, np.float32)
    costs = measure("x", DialLayer((4, 16), LayerSettings()), (1,), lambda n, a, b: tiny[a:b])
    assert costs.options[0].stored_bytes == quantize(tiny).nbytes == 4 * (4 + 4)


def test_the_second_plane_goes_to_the_noisiest_however_large_its_weights() -> None:
    tensors = weights()
    chosen = choose_planes(layers_of(tensors), 5.5, lambda n, a, b: tensors[n][a:b])
    assert {name: s.planes for name, s in chosen.items()} == {"heavy": 2, "bell": 1, "ternary": 1, "zeros": 1}
    assert (chosen["heavy"].method, chosen["bell"].method) == ("planes", "exact")


def test_fixed_layers_keep_their_planes_and_are_paid_for() -> None:
    tensors = weights()
    layers = layers_of(tensors) | {"bell": DialLayer((24, 64), LayerSettings("planes", 3), fixed=True)}
    read = lambda n, a, b: tensors[n][a:b]  # noqa: E731
    assert choose_planes(layers, 4.7, read)["bell"] == LayerSettings("planes", 3)
    with pytest.raises(RatioError, match=r"to 4\.7407 for these layers"):
        choose_planes(layers, 5.0, read)


def test_a_ratio_below_two_planes_measures_three() -> None:
    tensors = weights()
    chosen = choose_planes(layers_of(tensors), 2.7, lambda n, a, b: tensors[n][a:b])
    assert chosen["heavy"].planes == 3
    with pytest.raises(RatioError, match=r"expected 1\.7778 to 7\.1111"):
        choose_planes(layers_of(tensors), 1.0, lambda n, a, b: tensors[n][a:b])


def test_an_interrupted_measuring_pass_goes_on_where_it_was() -> None:
    tensors, records = weights(), []
    whole = choose_planes(layers_of(tensors), 5.5, lambda n, a, b: tensors[n][a:b], record=records.append)
    assert [r["name"] for r in records] == list(tensors)
    read, late, seen = [], [], []

    def read_rows(name: str, start: int, stop: int) -> np.ndarray:
        read.append(name)
        return tensors[name][start:stop]

    again = choose_planes(
        layers_of(tensors),
        5.5,
        read_rows,
        measured=json.loads(json.dumps(records[:2])),
        record=late.append,
        progress=lambda name, weights: seen.append((name, weights)),
        jobs=2,
    )
    assert again == whole
    assert read == list(tensors)[2:]
    assert late == records[2:]
    assert seen == [(name, 24 * 64) for name in tensors]
