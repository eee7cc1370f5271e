"""Ask the reference, changed or not, without a process for it."""

from __future__ import annotations

import functools
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ternfmt_conformance.corpus import Case, Corpus, load_corpus
from ternfmt_conformance.judge import Verdict, judge, make_request
from ternfmt_conformance.outcome import Outcome
from ternfmt_conformance.python_adapter import answer
from ternfmt_conformance.recipe import make_files
from ternfmt_conformance.reference import Reference
from tests.meta.mutant import PLAINLY, Change, Mutant, both

VECTORS = Path(__file__).parents[2] / "conformance" / "vectors"
LARGE_BYTES = 64 << 20
"""Cases with larger files are left to the runner."""


@functools.cache
def corpus() -> Corpus:
    return load_corpus(VECTORS)


def is_large(case: Case) -> bool:
    return any(int(part.get("size", "0")) > LARGE_BYTES for part in (case.recipe or {}).values())


class Bench:
    """A folder to work in; recipes are carried out once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Path] = {}

    def ask(self, case: Case, change: Change = nullcontext) -> Verdict:
        """The outcome of one case; the change is made for the answer, not for its judge."""
        path = self._path(case)
        out = self._folder / "out.safetensors"
        out.unlink(missing_ok=True)
        request: dict[str, Any] = make_request(case, path, VECTORS, out)
        with change(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numpy, of which wrong arithmetic gives many
            answered = answer(Reference(), {"id": 0, **request})
        return judge(case, answered, case.expect, VECTORS, out)

    def killer(self, mutant: Mutant, cases: list[Case]) -> tuple[Case, Verdict] | None:
        """The first case of the mutant's rule that finds out; those mainly about the rule come first."""
        for case in sorted(cases, key=lambda case: (case.rules.index(mutant.rule), case.recipe is not None)):
            verdict = self.ask(case, both(PLAINLY, mutant.change))
            if verdict.outcome.failed and (verdict.outcome is not Outcome.CRASH or mutant.crashes):
                return case, verdict
        return None

    def _path(self, case: Case) -> Path | None:
        if "path" not in case.arguments:
            return None
        if case.recipe is None:
            return VECTORS / case.path
        if case.id not in self._made:
            folder = self._folder / "made" / str(len(self._made))
            folder.mkdir(parents=True)
            make_files(case.recipe, folder, VECTORS)
            self._made[case.id] = folder / case.path
        return self._made[case.id]


@contextmanager
def bench() -> Iterator[Bench]:
    folder = Path(tempfile.mkdtemp(prefix="ternfmt-meta-"))
    try:
        yield Bench(folder)
    finally:
        shutil.rmtree(folder)


def cases_of(rule: str) -> list[Case]:
    """The cases that cite a rule, but for large ones."""
    return [case for case in corpus().cases if rule in case.rules and case.level != "S" and not is_large(case)]
