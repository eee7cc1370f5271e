"""The whole corpus."""

from __future__ import annotations

from pathlib import Path

from .budgets import add_budgets
from .collect import Collector
from .models import add_models
from .products import add_products
from .readme import make_readme
from .single_files import add_single_files
from .values import add_values
from .writing import add_writing


def make_corpus() -> Collector:
    """Every file and case."""
    corpus = Collector()
    add_single_files(corpus)
    add_values(corpus)
    add_models(corpus)
    add_products(corpus)
    add_writing(corpus)
    add_budgets(corpus)
    return corpus


def write_corpus(root: Path) -> Collector:
    """Make the corpus and write it into a folder that is empty or absent."""
    corpus = make_corpus()
    corpus.write(root, make_readme(corpus))
    return corpus
