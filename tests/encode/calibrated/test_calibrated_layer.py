"""One layer: the tuned code against the reference, and the laws of the objective."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ternfmt.encode.calibrated import reference
from ternfmt.encode.calibrated.coordinate_descent import descend
from ternfmt.encode.calibrated.error_feedback import round_with_feedback
from ternfmt.encode.calibrated.grid import Grid
from ternfmt.encode.calibrated.layer import solve_layer
from ternfmt.encode.calibrated.refit import refit
from ternfmt.encode.calibrated.second_moments import Moments, SecondMoments
from ternfmt.encode.calibrated.settings import CalibratedSettings
from ternfmt.encode.calibrated.target import Quadratic, make_metric, make_quadratic
from ternfmt.encode.quantize import quantize
from ternfmt.encode.settings import LayerSettings

seeds = st.integers(0, 2**32 - 1)
F16 = np.dtype(np.float16)


def make_data(seed, rows=5, columns=9, tokens=40, noise=0.2):
    """A weight, and inputs of teacher and student with correlated columns of different sizes: float64."""
    random = np.random.default_rng(seed)
    mix = random.normal(size=(columns, columns)) * random.lognormal(size=columns)
    x = random.normal(size=(tokens, columns)) @ mix
    return random.normal(size=(rows, columns)), x, x + noise * random.normal(size=x.shape)


def moments_of(x, student_x, dtype=torch.float64) -> Moments:
    sums = SecondMoments(x.shape[1], cross=True, device=torch.device("cpu"), dtype=dtype)
    sums.add(torch.from_numpy(x), torch.from_numpy(student_x))
    return sums.finish(["w"])


def quadratic_of(weight, x, student_x, *, damping=0.01, act_order=True, dtype=torch.float64) -> Quadratic:
    metric = make_metric(moments_of(x, student_x, dtype), damping=damping, act_order=act_order)
    return make_quadratic(torch.from_numpy(weight).to(dtype), metric)


def scales_for(weight, planes):
    """Scales that the tests start from, float64 [P, N]."""
    tensor = quantize(weight.astype(np.float32), "exact" if planes == 1 else "planes", planes=planes)
    return np.stack([plane.scale.astype(np.float64) for plane in tensor.planes])


def in_rows(quadratic, values):
    """[K, N] in the quadratic's order -> numpy [N, K] in the natural one."""
    natural = torch.empty_like(values)
    natural[quadratic.metric.order] = values
    return natural.T.numpy()


def layer(planes=1, **settings):
    return LayerSettings("exact" if planes == 1 else "planes", planes, **settings)


def solve(weight, x, student_x, planes=1, dtype=torch.float64, settings=None, **layer_settings):
    settings = settings or CalibratedSettings(damping=0.01)
    metric = make_metric(moments_of(x, student_x, dtype), damping=settings.damping, act_order=settings.act_order)
    return solve_layer(torch.from_numpy(weight).to(dtype), metric, layer(planes, **layer_settings), settings)


@given(seeds, st.booleans())
@settings(max_examples=15, deadline=None)
def test_solved_as_the_reference_solves_it(seed, act_order):
    weight, x, student_x = make_data(seed)
    chosen = CalibratedSettings(rounds=3, sweeps=2, act_order=act_order)
    target, h = reference.quadratic(weight, x, student_x, chosen.damping)
    expected = reference.solve_one_plane(target, h, weight, chosen)
    solved = solve(weight, x, student_x, settings=chosen)
    np.testing.assert_array_equal(solved.tensor.dequantize(np.float32), expected.astype(np.float32))
    assert solved.error == pytest.approx(reference.error(expected, target, h).sum(), rel=1e-9)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_target_and_objective_are_the_references(seed):
    weight, x, student_x = make_data(seed)
    target, h = reference.quadratic(weight, x, student_x, 0.01)
    quadratic = quadratic_of(weight, x, student_x)
    np.testing.assert_allclose(in_rows(quadratic, quadratic.target), target, rtol=1e-7, atol=1e-9)
    values = np.random.default_rng(seed).normal(size=weight.shape)
    found = quadratic.error(torch.from_numpy(values).T[quadratic.metric.order])
    np.testing.assert_allclose(found, reference.error(values, target, h), rtol=1e-9)


def test_objective_is_the_damped_output_error():
    weight, x, student_x = make_data(3)
    quadratic = quadratic_of(weight, x, student_x, damping=0.1)
    d = 0.1 * (student_x**2).mean()

    def output_error(values):
        return ((x @ weight.T - student_x @ values.T) ** 2).mean(0) + d * ((values - weight) ** 2).sum(1)

    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, *weight.shape))
    ours = [quadratic.error(torch.from_numpy(v).T[quadratic.metric.order]) for v in (a, b)]
    np.testing.assert_allclose(ours[0] - ours[1], output_error(a) - output_error(b), rtol=1e-8)


@pytest.mark.parametrize("planes", [1, 2, 3])
@pytest.mark.parametrize("columns", [9, 150])
def test_error_feedback_is_gptq(planes, columns):
    weight, x, student_x = make_data(1, rows=3, columns=columns, tokens=2 * columns)
    target, h = reference.quadratic(weight, x, student_x, 0.01)
    quadratic = quadratic_of(weight, x, student_x)
    scales = scales_for(weight, planes)
    grid = Grid.of(scales, quadratic.target)
    ours = in_rows(quadratic, grid.value(round_with_feedback(quadratic, grid)))
    theirs = reference.feedback(target, h, scales.T, quadratic.metric.order.numpy())
    np.testing.assert_allclose(ours, reference.value(theirs, scales.T), atol=1e-12)


@pytest.mark.parametrize("planes", [1, 2, 3])
@pytest.mark.parametrize("columns", [9, 150])
def test_descent_is_the_references(planes, columns):
    weight, x, student_x = make_data(2, rows=3, columns=columns, tokens=2 * columns)
    target, h = reference.quadratic(weight, x, student_x, 0.01)
    quadratic = quadratic_of(weight, x, student_x)
    scales = scales_for(weight, planes)
    grid = Grid.of(scales, quadratic.target)
    start = torch.zeros(quadratic.target.shape, dtype=torch.int8)
    ours = in_rows(quadratic, grid.value(descend(quadratic, grid, start, 2)))
    zeros = np.zeros((*weight.shape, planes), dtype=np.int8)
    theirs = reference.descend(target, h, scales.T, zeros, quadratic.metric.order.numpy(), 2)
    np.testing.assert_allclose(ours, reference.value(theirs, scales.T), atol=1e-12)


@given(seeds, st.integers(1, 4), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=25, deadline=None)
def test_objective_never_rises(seed, planes, dtype):
    weight, x, student_x = make_data(seed)
    quadratic = quadratic_of(weight, x, student_x, dtype=dtype)
    grid = Grid.of(scales_for(weight, planes), quadratic.target)
    level = torch.from_numpy(
        np.random.default_rng(seed).integers(1 - len(grid.values), len(grid.values), size=quadratic.target.shape)
    ).to(torch.int8)
    slack = 1e-4 if dtype == torch.float32 else 1e-9
    error = quadratic.error(grid.value(level))
    scale_dtype = F16
    for _ in range(3):
        level = descend(quadratic, grid, level, 1)
        after = quadratic.error(grid.value(level))
        assert (after <= error * (1 + slack)).all()
        before, error = error, after
        grid, level, scale_dtype = refit(quadratic, grid, level, scale_dtype)
        after = quadratic.error(grid.value(level))
        assert (after <= error + slack * before).all()
        error = after


@given(seeds, st.integers(1, 3), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=25, deadline=None)
def test_no_row_is_worse_than_without_data(seed, planes, dtype):
    weight, x, student_x = make_data(seed)
    solved = solve(weight, x, student_x, planes, dtype)
    plain = quantize(weight.astype(np.float32), "exact" if planes == 1 else "planes", planes=planes)
    target, h = reference.quadratic(weight.astype(np.float32).astype(float), x, student_x, 0.01)
    ours = reference.error(solved.tensor.dequantize(np.float64), target, h)
    theirs = reference.error(plain.dequantize(np.float64), target, h)
    assert (ours <= theirs * (1 + 1e-3)).all()
    assert solved.error <= solved.exact_error
    assert solved.exact_error == pytest.approx(theirs.sum(), rel=1e-3)


@given(seeds, st.integers(1, 2))
@settings(max_examples=15, deadline=None)
def test_close_to_the_best_codes_there_are(seed, planes):
    weight, x, student_x = make_data(seed, rows=3, columns=5)
    target, h = reference.quadratic(weight, x, student_x, 0.01)
    solved = solve(weight, x, student_x, planes)
    scales = np.stack([plane.scale.astype(np.float64) for plane in solved.tensor.planes], axis=1)
    best = reference.brute_force(target, h, scales)
    ours = reference.error(solved.tensor.dequantize(np.float64), target, h)
    assert (ours >= best * (1 - 1e-6)).all()
    assert ours.sum() <= 4 * best.sum() + 1e-6 * reference.error(np.zeros_like(weight), target, h).sum()


@pytest.mark.parametrize("planes", [1, 2, 3])
def test_white_inputs_give_the_data_free_codes(planes):
    weight, _, _ = make_data(5, rows=6, columns=24)
    weight = weight.astype(np.float32).astype(np.float64)
    x = np.sqrt(24) * np.eye(24)  # H = G = I
    solved = solve(weight, x, x, planes)
    plain = quantize(weight.astype(np.float32), "exact" if planes == 1 else "planes", planes=planes)
    assert solved.error <= solved.exact_error
    assert solved.error == pytest.approx(solved.exact_error, rel=2e-2 if planes > 1 else 1e-3)
    if planes == 1:
        assert (solved.tensor.unpack() == plain.unpack()).mean() > 0.99


@given(seeds, st.integers(1, 2))
@settings(max_examples=10, deadline=None)
def test_order_of_rows_and_columns_does_not_matter(seed, planes):
    weight, x, student_x = make_data(seed)
    random = np.random.default_rng(seed)
    rows, columns = random.permutation(len(weight)), random.permutation(weight.shape[1])
    chosen = CalibratedSettings(rounds=2)
    one = solve(weight, x, student_x, planes, settings=chosen).tensor.dequantize()
    other = solve(
        weight[rows][:, columns], x[:, columns], student_x[:, columns], planes, settings=chosen
    ).tensor.dequantize()
    np.testing.assert_array_equal(other, one[rows][:, columns])


def test_columns_come_in_order_of_decreasing_second_moment():
    weight, x, student_x = make_data(6)
    order = quadratic_of(weight, x, student_x).metric.order
    assert (np.diff((student_x**2).mean(0)[order]) <= 0).all()
    natural = quadratic_of(weight, x, student_x, act_order=False).metric.order
    assert natural.tolist() == list(range(len(order)))


@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", ["dead inputs", "no input", "zero row", "one token", "equal columns"])
def test_degenerate_data(case, dtype, planes):
    weight, x, _ = make_data(7, columns=20)
    if case == "dead inputs":
        x[:, [3, 8]] = 0
    elif case == "no input":
        x[:] = 0
    elif case == "zero row":
        weight[2] = 0
    elif case == "one token":
        x = x[:1]
    else:
        x[:, 1:] = x[:, :1]
    solved = solve(weight, x, x, planes, dtype)
    values = solved.tensor.dequantize()
    assert np.isfinite(values).all()
    assert solved.error <= solved.exact_error
    plain = quantize(weight.astype(np.float32), "exact" if planes == 1 else "planes", planes=planes).dequantize()
    if case == "dead inputs":
        assert (values[:, [3, 8]] != 0).any()  # rounded, not dropped
    elif case == "no input":
        assert ((values - weight) ** 2).sum() == pytest.approx(((plain - weight) ** 2).sum(), rel=2e-2)
    elif case == "zero row":
        assert all((plane.scale[2] == 0) and not plane.codes[2].any() for plane in solved.tensor.planes)


def test_damping_grows_until_there_is_a_factor():
    x = np.repeat(np.random.default_rng(0).normal(size=(50, 1)), 30, axis=1)
    metric = make_metric(moments_of(x, x, torch.float32), damping=1e-12, act_order=True)
    torch.testing.assert_close(metric.factor @ metric.factor.T, metric.hessian)
    assert metric.cross is not None
    natural = torch.empty_like(metric.hessian)
    natural[metric.order] = metric.hessian
    torch.testing.assert_close(natural, metric.cross)  # G + d I = H + d I where x = x'


@pytest.mark.parametrize(
    ("factor", "asked", "expected"),
    [(1.0, None, "float16"), (1e-6, None, "float32"), (1.0, "BF16", "bfloat16"), (1.0, "F32", "float32")],
)
def test_scales_are_stored_as_asked(factor, asked, expected):
    weight, x, student_x = make_data(8)
    solved = solve(factor * weight, x, student_x, scale_dtype=asked)
    assert str(solved.tensor.scale.dtype) == expected
    assert solved.error < solved.exact_error


def test_rank_above_two_keeps_its_shape():
    weight, x, student_x = make_data(10, columns=8)
    flat = solve(weight, x, student_x)
    metric = make_metric(moments_of(x, student_x), damping=0.01, act_order=True)
    cube = solve_layer(torch.from_numpy(weight).reshape(-1, 2, 2, 2), metric, layer(), CalibratedSettings(damping=0.01))
    assert cube.tensor.shape == (5, 2, 2, 2)
    np.testing.assert_array_equal(cube.tensor.codes, flat.tensor.codes)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("samples", 0), ("batch", 0), ("sweeps", 0), ("rounds", -1), ("damping", 0.0)],
)
def test_impossible_settings_are_refused(setting, value):
    with pytest.raises(ValueError, match=f"{setting}: expected"):
        CalibratedSettings(**{setting: value})
