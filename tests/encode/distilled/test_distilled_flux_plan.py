"""What distilling FLUX.1-dev would take is worked out from shapes; here from a small one's."""

from __future__ import annotations

import pytest

from ternfmt.encode.distilled.flux_plan import Way, flux, table, ways
from ternfmt.encode.distilled.settings import DistilledSettings

SMALL = {
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 64,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 32,
    "in_channels": 16,
    "axes_dims_rope": (16, 24, 24),
}


@pytest.fixture(scope="module")
def found() -> dict[str, Way]:
    loaded, call = flux(64, **SMALL)
    return {way.name: way for way in ways(loaded, call, DistilledSettings(steps=10, batch=2, micro_batch=1))}


def test_frozen_codes_take_less_and_a_block_at_a_time_least(found: dict[str, Way]) -> None:
    totals = [found[name].memory.total for name in ("end to end", "frozen codes, rank 64", "block by block")]
    assert totals == sorted(totals, reverse=True)
    assert found["block by block"].memory.teacher == 0


def test_more_steps_take_as_much_longer(found: dict[str, Way]) -> None:
    loaded, call = flux(64, **SMALL)
    longer = ways(loaded, call, DistilledSettings(steps=30, batch=2, micro_batch=1))[0]
    for gpu, hours in found["end to end"].hours.items():
        assert longer.hours[gpu] == pytest.approx(3 * hours)


def test_the_table_has_a_line_for_each_way(found: dict[str, Way]) -> None:
    lines = table(list(found.values())).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == list(found)
    assert len({line.count("|") for line in lines}) == 1
