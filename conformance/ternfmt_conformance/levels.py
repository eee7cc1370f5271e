"""The levels of PROTOCOL.md and which of them build on each other."""

from __future__ import annotations

from collections.abc import Collection, Iterable

CHAINS = (("R0", "R1", "R2", "R3", "R4"), ("W1", "W2"), ("S",))
"""A level includes those before it in its chain."""

LEVELS = tuple(level for chain in CHAINS for level in chain)

ONE_SHOT_LEVELS = ("R0", "R1", "R2", "R3")
"""What a one-shot testee, which cannot claim levels, is run at."""


def levels_up_to(levels: Iterable[str]) -> tuple[str, ...]:
    """The levels given and all that they include, in order."""
    wanted = set(levels)
    return tuple(
        level for chain in CHAINS for position, level in enumerate(chain) if wanted.intersection(chain[position:])
    )


def complete_levels(levels: Collection[str]) -> tuple[str, ...]:
    """Those of ``levels`` that have every level they include in ``levels``, too."""
    return tuple(
        level
        for chain in CHAINS
        for position, level in enumerate(chain)
        if all(lower in levels for lower in chain[: position + 1])
    )


def format_levels(levels: Collection[str]) -> str:
    """``R0-R3, W1, S``: runs within a chain joined."""
    parts: list[str] = []
    for chain in CHAINS:
        run: list[str] = []
        for level in (*chain, ""):
            if level in levels:
                run.append(level)
            elif run:
                parts.append(run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}")
                run = []
    return ", ".join(parts)
