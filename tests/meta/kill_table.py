"""``python -m tests.meta.kill_table``: which case finds each deliberately wrong implementation."""

from __future__ import annotations

import importlib
import sys

from ternfmt_conformance.rules import rule_order
from tests.meta.in_process import bench, cases_of
from tests.meta.mutant import Mutant

TABLES = ("containers", "metadata", "values", "models", "writers")


def mutants() -> list[Mutant]:
    """All of them, by rule."""
    found: list[Mutant] = []
    for name in TABLES:
        found += getattr(importlib.import_module(f"tests.meta.wrong_{name}"), f"WRONG_{name.upper()}")
    return sorted(found, key=lambda mutant: rule_order(mutant.rule))


def main() -> int:
    """Print the table; 1 if a mutant survives."""
    survivors = 0
    everyone = mutants()
    width = max(len(mutant.name) for mutant in everyone)
    print(f"{'rule':7} {'wrong implementation':{width}} killed by")
    with bench() as place:
        for mutant in everyone:
            try:
                killer = place.killer(mutant, cases_of(mutant.rule))
            except AssertionError as error:
                print("STALE", mutant.name, error)
                survivors += 1
                continue
            survivors += killer is None
            told = "SURVIVES" if killer is None else f"{killer[0].id}: {killer[1].outcome}, {killer[1].got}"
            print(f"{mutant.rule:7} {mutant.name:{width}} {told}")
    print(f"{len(everyone)} wrong implementations of {len({m.rule for m in everyone})} rules, {survivors} survive")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
