"""The examples of docs/transformers.md run, in order, as README.md's do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import test_readme

pytest.importorskip("accelerate")
pytest.importorskip("peft")

PAGE = test_readme.ROOT / "docs" / "transformers.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning:transformers")
def test_examples_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    test_readme.run_page(PAGE)


@pytest.mark.parametrize("target", sorted({*test_readme.LINK.findall(TEXT)}))
def test_links_lead_somewhere(target: str) -> None:
    assert (PAGE.parent / target).exists()
