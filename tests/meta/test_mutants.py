"""Every deliberately wrong implementation is found out by a case of its own rule; the right one by none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from ternfmt_conformance.outcome import Outcome
from tests.meta.in_process import Bench, bench, cases_of, corpus, is_large
from tests.meta.kill_table import mutants
from tests.meta.mutant import Mutant

MUTANTS = mutants()


@pytest.fixture(scope="module")
def place() -> Iterator[Bench]:
    with bench() as made:
        yield made


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.rule}: {mutant.name}")
def test_a_case_of_its_rule_finds_out(mutant: Mutant, place: Bench) -> None:
    assert place.killer(mutant, cases_of(mutant.rule)) is not None


def test_no_case_finds_fault_with_the_reference(place: Bench) -> None:
    cases = [case for case in corpus().cases if case.level != "S" and not is_large(case)]
    wrong = {case.id: verdict for case in cases if (verdict := place.ask(case)).outcome is not Outcome.EXACT}
    assert not wrong
    assert len(cases) > 0.9 * len(corpus().cases)


def test_there_are_enough() -> None:
    assert len(MUTANTS) >= 80
    assert len({(mutant.rule, mutant.name) for mutant in MUTANTS}) == len(MUTANTS)


def test_every_rule_that_accepts_or_rejects_has_some() -> None:
    mutants_of = Counter(mutant.rule for mutant in MUTANTS)
    cited_first = {case.rules[0] for case in corpus().cases if case.level in ("R0", "R1", "R2", "R3")}
    assert {rule for rule in cited_first if not mutants_of[rule]} == set()
