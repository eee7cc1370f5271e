"""Calls as data."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ternfmt.encode.data.calls import CallList, map_tensors, output_of, tensors_in, to_device


class Counting:
    def call(self, number, size):
        return {"x": torch.full((size,), float(number))}


def test_a_list_of_calls_makes_them_when_asked():
    calls = CallList(Counting(), 3, 2)
    assert len(calls) == 3
    assert [call["x"].tolist() for call in calls] == [[0, 0], [1, 1], [2, 2]]
    assert calls[-1]["x"].tolist() == [2, 2]
    assert [call["x"][0] for call in calls[1:]] == [1, 2]
    with pytest.raises(IndexError, match="call 3 of 3"):
        calls[3]


def test_floating_tensors_are_cast_and_others_are_not():
    call = {"x": torch.ones(2), "ids": torch.ones(2, dtype=torch.int64), "nested": (torch.ones(1), {"y": None}), "n": 3}
    found = to_device(call, "cpu", torch.bfloat16)
    assert found["x"].dtype == found["nested"][0].dtype == torch.bfloat16
    assert found["ids"].dtype == torch.int64
    assert found["nested"][1] == {"y": None}
    assert found["n"] == 3


def test_the_answer_of_a_model_is_one_tensor():
    x = torch.ones(1)
    for result in (x, (x, None), [x], SimpleNamespace(sample=x), SimpleNamespace(logits=x, last_hidden_state=None)):
        assert output_of(result) is x
    with pytest.raises(TypeError, match="got dict"):
        output_of({"a": x})
    with pytest.raises(TypeError, match="got tuple"):
        output_of(())


def test_tensors_are_found_with_their_places():
    x = torch.ones(1)
    assert [name for name, _ in tensors_in({"a": (x, [x]), "b": {"c": x}, "d": 1})] == ["a[0]", "a[1][0]", "b.c"]
    assert map_tensors(lambda t: t + 1, ((x,), {"k": x}, "s"))[1]["k"].item() == 2
