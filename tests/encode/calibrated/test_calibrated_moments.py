"""Second moments: the means that they say they are, and what they refuse."""

import numpy as np
import pytest
import torch

from ternfmt.encode.calibrated import second_moments
from ternfmt.encode.calibrated.second_moments import CalibrationError, SecondMoments

CPU = torch.device("cpu")


def inputs(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) + 1.0


@pytest.mark.parametrize("chunk", [3, 8192])
def test_means_over_all_tokens_of_all_calls(monkeypatch, chunk):
    monkeypatch.setattr(second_moments, "CHUNK_TOKENS", chunk)
    sums = SecondMoments(4, cross=True, device=CPU)
    calls = [(inputs(1, 2, 5, 4), inputs(2, 2, 5, 4)), (inputs(3, 4), inputs(4, 4))]
    for x, y in calls:
        sums.add(x, y)
    found = sums.finish(["w"])
    x, y = (torch.cat([call[i].reshape(-1, 4) for call in calls]) for i in (0, 1))
    assert found.tokens == 11
    torch.testing.assert_close(found.student, y.T @ y / 11)
    torch.testing.assert_close(found.cross, x.T @ y / 11)
    torch.testing.assert_close(found.teacher_mean, x.mean(0))
    torch.testing.assert_close(found.student_mean, y.mean(0))


def test_centred_are_covariances():
    x, y = inputs(1, 50, 3), inputs(2, 50, 3)
    sums = SecondMoments(3, cross=True, device=CPU)
    sums.add(x, y)
    found = sums.finish(["w"]).centred()
    torch.testing.assert_close(found.student, torch.cov(y.T, correction=0))
    torch.testing.assert_close(found.cross, (x - x.mean(0)).T @ (y - y.mean(0)) / 50)


def test_half_precision_inputs_are_summed_in_float32():
    x = inputs(1, 3000, 2).to(torch.float16)
    sums = SecondMoments(2, cross=False, device=CPU)
    sums.add(x, x)
    found = sums.finish(["w"])
    assert found.cross is None
    np.testing.assert_allclose(found.student, (x.double().T @ x.double()) / 3000, rtol=1e-5)


def test_no_tokens_give_zeros():
    found = SecondMoments(2, cross=True, device=CPU).finish(["w"])
    assert not found.student.any()
    assert found.tokens == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("whose", [0, 1])
def test_inputs_that_are_not_finite_are_refused(value, whose):
    pair = [torch.ones(3, 2), torch.ones(3, 2)]
    pair[whose][1, 0] = value
    sums = SecondMoments(2, cross=True, device=CPU)
    sums.add(*pair)
    with pytest.raises(CalibrationError, match=r"a\.weight, b\.weight: expected finite inputs"):
        sums.finish(["a.weight", "b.weight"])


@pytest.mark.parametrize("shapes", [((3, 2), (4, 2)), ((3, 5), (3, 5))])
def test_inputs_of_another_shape_are_refused(shapes):
    sums = SecondMoments(2, cross=True, device=CPU)
    with pytest.raises(CalibrationError, match=r"one shape \[..., 2\]"):
        sums.add(torch.ones(shapes[0]), torch.ones(shapes[1]))
