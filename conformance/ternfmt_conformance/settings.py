"""How to run the corpus."""

from __future__ import annotations

from dataclasses import dataclass

from .command import Command

TIMEOUT_SECONDS = 20.0
MEMORY_CAP_BYTES = 3 << 30
"""Above every budget of the corpus, by what a runtime takes itself: else the cap would decide, not the budget."""


@dataclass(frozen=True)
class Settings:
    """How to run.

    Attributes:
        command: the testee.
        levels: run these and all they include; none given: all that the testee claims.
        pattern: shell glob on case ids.
        timeout: seconds for an answer; twice a case's own budget where that is more.
        memory_cap: bytes of private memory.
        one_shot: drive it as ``testee validate PATH``.
        expected_failures: ids of cases that may fail.
    """

    command: Command
    levels: tuple[str, ...] = ()
    pattern: str = "*"
    timeout: float = TIMEOUT_SECONDS
    memory_cap: int = MEMORY_CAP_BYTES
    one_shot: bool = False
    expected_failures: frozenset[str] = frozenset()
