"""One mini corpus for all tests of the runner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ternfmt_conformance.command import Command
from ternfmt_conformance.corpus import Corpus
from ternfmt_conformance.report import Report
from ternfmt_conformance.runner import run_suite
from ternfmt_conformance.settings import Settings
from tests.conformance import mini


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return mini.write(tmp_path_factory.mktemp("corpus") / "vectors")


RunFake = Callable[..., Report]


@pytest.fixture
def run_fake(corpus: Corpus) -> RunFake:
    """Run the corpus, or another, against a command; keywords are those of `Settings`."""
    mini_corpus = corpus

    def run(command: Command, corpus: Corpus = mini_corpus, **settings: Any) -> Report:
        return run_suite(corpus, Settings(command, **{"timeout": 10.0, **settings}))

    return run
