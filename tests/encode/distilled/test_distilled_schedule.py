"""Learning rates rise, stay, and come to rest at zero; codes may wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ternfmt.encode.distilled.schedule import GROUPS, hardness, rate
from ternfmt.encode.distilled.settings import DistilledSettings, SettingsError, check_layers
from ternfmt.encode.settings import LayerSettings


def rates(group: str, *steps: int, **settings: object) -> list[float]:
    return [rate(DistilledSettings(steps=100, **settings), group, step) for step in steps]  # type: ignore[arg-type]


def test_linear():
    assert rates("codes", 0, 4, 9, 49, 75, 99, warmup=0.1, decay=0.5) == pytest.approx([0.1, 0.5, 1, 1, 0.5, 0.02])


def test_cosine():
    found = rates("scales", 50, 75, 99, warmup=0.0, decay=0.5, decay_shape="cosine")
    assert found == pytest.approx([1.0, 0.5, 0.001], abs=2e-4)


def test_codes_and_branches_wait_and_then_warm_up():
    waiting = {"warmup": 0.1, "decay": 0.0, "codes_from": 0.3, "low_rank_from": 0.2}
    assert rates("codes", 29, 30, 39, 60, **waiting) == pytest.approx([0, 0.1, 1, 1])
    assert rates("low_rank", 19, 20, 29, **waiting) == pytest.approx([0, 0.1, 1])
    assert rates("scales", 0, 9, **waiting) == pytest.approx([0.1, 1])


def test_weights_harden_over_their_share_of_the_steps_and_stay_hard():
    def at(soft, *steps):
        return [hardness(DistilledSettings(steps=100, soft=soft), step) for step in steps]

    assert at(0.5, 0, 25, 50, 99) == pytest.approx([0, 0.5, 1, 1])
    assert at(0.0, 0, 99) == [1, 1]
    assert at(1.0, 99) == pytest.approx([0.99])


@given(
    st.sampled_from(GROUPS), st.integers(1, 50), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1),
    st.sampled_from(["linear", "cosine"]),
)  # fmt: skip
def test_rates_are_shares_and_the_last_part_never_rises(group, steps, warmup, decay, codes_from, shape):
    settings = DistilledSettings(steps=steps, warmup=warmup, decay=decay, codes_from=codes_from, decay_shape=shape)
    found = [rate(settings, group, step) for step in range(steps)]
    assert all(0 <= value <= 1 for value in found)
    falling = found[int(max(codes_from + warmup, 1 - decay) * steps) + 1 :]
    assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"batch": 0}, "batch"),
        ({"batch": 8, "micro_batch": 3}, "micro_batch: expected a divisor of batch = 8, got 3"),
        ({"micro_batch": 0}, "micro_batch"),
        ({"muon_lr": 0.0}, "muon_lr: expected above 0"),
        ({"adam_lr": -1.0}, "adam_lr"),
        ({"warmup": 1.5}, "warmup: expected 0 to 1, got 1.5"),
        ({"decay": -0.1}, "decay"),
        ({"codes_from": 2.0}, "codes_from"),
        ({"decay_shape": "step"}, "decay_shape: expected linear or cosine, got step"),
        ({"train_dense": "some"}, "train_dense"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(SettingsError, match=message):
        DistilledSettings(**wrong)


def test_groups_are_refused():
    with pytest.raises(SettingsError, match=r"'a\.weight': distilled has one scale a row, but group_size 32"):
        check_layers({"a.weight": LayerSettings("distilled", 1, 32)}, {"a.weight": None})


def test_unknown_layers_are_refused():
    with pytest.raises(SettingsError, match=r"'b\.weight': expected a linear layer"):
        check_layers({"b.weight": LayerSettings("distilled")}, {"a.weight": None})


def test_settings_record_what_is_not_the_default():
    settings = DistilledSettings(steps=7, muon_lr=0.25, compile=True)
    assert settings.to_json() == {"steps": 7, "muon_lr": "0.25", "compile": True}
    assert DistilledSettings().to_json() == {}
