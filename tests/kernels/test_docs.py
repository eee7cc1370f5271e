"""The examples of docs/kernels.md run, as README.md's do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import test_readme

PAGE = test_readme.ROOT / "docs" / "kernels.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_examples_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    test_readme.run_page(PAGE)


@pytest.mark.parametrize("target", sorted({*test_readme.LINK.findall(TEXT)}))
def test_links_lead_somewhere(target: str) -> None:
    assert (PAGE.parent / target).exists()


def test_variables_are_the_codes() -> None:
    from ternfmt_kernels import registry
    from ternfmt_kernels.cpu_backend import isa

    (sets,) = (line for line in TEXT.splitlines() if line.startswith(f"| `{isa.VARIABLE}` |"))
    assert all(f"`{name}`" in sets for name in isa.built())
    assert f"| `{registry.OVERRIDE}` |" in TEXT
    tuning = pytest.importorskip("ternfmt_kernels.triton_backend.tuning")
    for name in (tuning.MODE, tuning.FILE):
        assert f"| `{name}` |" in TEXT
