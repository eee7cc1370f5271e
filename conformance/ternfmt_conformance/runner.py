"""Run the corpus against a testee, one case at a time, and survive whatever it does."""

from __future__ import annotations

import fnmatch
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from .corpus import Case, Corpus
from .driver import LoopDriver, OneShotDriver
from .execute import run_case, unasked
from .levels import ONE_SHOT_LEVELS, levels_up_to
from .outcome import Fault, Outcome, Result
from .process import NotStarted
from .report import Report
from .settings import Settings

GIVE_UP_AFTER = 5
"""Time-outs and failed restarts in a row, after which the remaining cases are not tried."""

Progress = Callable[[Result, int], None]
"""Called with each result and the number of selected cases."""


def run_suite(corpus: Corpus, settings: Settings, progress: Progress | None = None) -> Report:
    """Run the cases that the settings select. Whatever the testee does ends up in the report.

    Raises:
        CorpusError: a case of the corpus cannot be carried out.
        OSError: the runner's own files cannot be written.
    """
    make_driver = OneShotDriver if settings.one_shot else LoopDriver
    driver = make_driver(settings.command, settings.timeout, settings.memory_cap)
    levels: tuple[str, ...] = ()
    results: list[Result] = []
    try:
        driver.start()
        levels = _levels(driver.info.levels, settings)
        cases = select(corpus, levels, settings.pattern)
        for result in _run_cases(cases, corpus, settings, driver):
            results.append(result)
            if progress is not None:
                progress(result, len(cases))
        driver.stop()
        problems = driver.problems
        problems += [f"the testee does not claim level {level}" for level in settings.levels if level not in levels]
        if not results:
            problems.append("no case was selected")
    except NotStarted as fault:
        problems = [f"the testee did not start: {fault}"]
    finally:
        driver.close()
    return Report(
        name=driver.info.name,
        version=driver.info.version,
        language=driver.info.language,
        command=settings.command.text,
        one_shot=settings.one_shot,
        corpus=corpus.version,
        corpus_digest=corpus.digest,
        levels=levels,
        all_cases=settings.pattern == "*",
        results=tuple(results),
        problems=tuple(problems),
        stale=_stale(corpus, settings, results),
    )


def select(corpus: Corpus, levels: Collection[str], pattern: str) -> list[Case]:
    """The cases of these levels whose ids match a shell glob."""
    return [case for case in corpus.cases if case.level in levels and fnmatch.fnmatchcase(case.id, pattern)]


def _levels(claimed: tuple[str, ...], settings: Settings) -> tuple[str, ...]:
    """The levels to run: of those asked for, the ones claimed."""
    asked = levels_up_to(settings.levels)
    if settings.one_shot:
        return asked or ONE_SHOT_LEVELS
    return tuple(level for level in claimed if not asked or level in asked)


def _run_cases(
    cases: Sequence[Case], corpus: Corpus, settings: Settings, driver: LoopDriver | OneShotDriver
) -> Iterator[Result]:
    lost_in_a_row = 0
    with tempfile.TemporaryDirectory(prefix="ternfmt-conformance-") as scratch:
        for number, case in enumerate(cases):
            folder = Path(scratch) / str(number)
            folder.mkdir()
            try:
                if lost_in_a_row == GIVE_UP_AFTER:
                    raise Fault(Outcome.TIMEOUT, f"not tried: the {GIVE_UP_AFTER} before it found no testee in time")
                result = run_case(case, corpus, settings, driver, folder)
                lost_in_a_row = 0
            except Fault as fault:
                again = "did not start again: " if isinstance(fault, NotStarted) else ""
                result = replace(
                    unasked(case, driver), outcome=fault.outcome, got=fault.outcome.value, detail=again + fault.detail
                )
                lost = isinstance(fault, NotStarted) or fault.outcome is Outcome.TIMEOUT
                lost_in_a_row = min(lost_in_a_row + 1, GIVE_UP_AFTER) if lost else 0
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            yield replace(result, expected_failure=result.outcome.failed and case.id in settings.expected_failures)


def _stale(corpus: Corpus, settings: Settings, results: Sequence[Result]) -> tuple[str, ...]:
    """Expected failures that were exact, or that no case is called."""
    known = {case.id for case in corpus.cases}
    exact = {result.id for result in results if result.outcome is Outcome.EXACT}
    return tuple(sorted(name for name in settings.expected_failures if name in exact or name not in known))
