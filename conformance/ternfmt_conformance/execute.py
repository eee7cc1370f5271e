"""Carry out one case: make its files, ask, judge, weigh against its budget."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from .corpus import Budget, Case, Corpus
from .driver import LoopDriver, OneShotDriver
from .foreign import clean
from .judge import describe_expected, expected_answer, judge, make_request
from .memory import can_measure
from .outcome import Outcome, Result
from .recipe import make_files
from .settings import Settings
from .testee import Answer

BUDGET_TIMEOUTS = 2
"""A case with a budget may take this many times its seconds before the testee is ended."""


def run_case(
    case: Case, corpus: Corpus, settings: Settings, driver: LoopDriver | OneShotDriver, folder: Path
) -> Result:
    """Run one case in an empty folder of its own.

    Raises:
        Fault: the testee gave no answer that can be judged.
        CorpusError: the case's recipe is at fault.
    """
    result = unasked(case, driver)
    budget = case.budget or Budget(None, None)
    refusal = driver.refusal(case)
    if budget.memory_bytes is not None and not can_measure():
        refusal = "this system does not tell how much memory a process takes"
    if refusal is not None:
        return replace(result, detail=refusal)
    try:
        path = _path(case, corpus, folder)
    except OSError as error:
        return replace(result, detail=f"its files cannot be made here: {error}")
    expect = expected_answer(case, driver.info.features)
    out = folder / "out.safetensors"
    request = make_request(case, path, corpus.root, out)
    timeout = max(settings.timeout, BUDGET_TIMEOUTS * (budget.seconds or 0))
    answer = driver.ask(request, timeout, fresh=case.budget is not None)
    verdict = judge(case, answer.value, expect, corpus.root, out)
    outcome, detail = verdict.outcome, verdict.detail
    excess = _excess(answer, budget)
    if outcome is Outcome.EXACT and excess is not None:
        outcome, detail = Outcome.OVER_BUDGET, excess
    return replace(
        result,
        outcome=outcome,
        got=clean(verdict.got),
        detail=clean(detail.replace(f"{corpus.root}{os.sep}", "").replace(f"{folder}{os.sep}", "")),
        seconds=round(answer.seconds, 6),
        memory_bytes=answer.memory_bytes,
    )


def unasked(case: Case, driver: LoopDriver | OneShotDriver) -> Result:
    """The result of a case that was not run."""
    return Result(
        id=case.id,
        title=case.title,
        level=case.level,
        severity=case.severity,
        rules=case.rules,
        op=case.op,
        path=case.path,
        outcome=Outcome.SKIPPED,
        expected=describe_expected(expected_answer(case, driver.info.features)),
        got="",
    )


def _path(case: Case, corpus: Corpus, folder: Path) -> Path | None:
    """What the case reads: in the corpus, or made in the folder."""
    if "path" not in case.arguments:
        return None
    if case.recipe is None:
        return corpus.root / case.path
    made = folder / "made"
    made.mkdir()
    make_files(case.recipe, made, corpus.root)
    return made / case.path


def _excess(answer: Answer, budget: Budget) -> str | None:
    """By how much an answer is over its budget, or None."""
    if budget.seconds is not None and answer.seconds > budget.seconds:
        return f"took {answer.seconds:.2f} s, the budget is {budget.seconds:g} s"
    if budget.memory_bytes is not None and (answer.memory_bytes or 0) > budget.memory_bytes:
        return f"took {answer.memory_bytes} bytes of memory, the budget is {budget.memory_bytes}"
    return None
