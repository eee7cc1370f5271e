"""The examples of docs/diffusers.md run, in order, as README.md's do, and what it quotes is what diffusers says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests import test_readme

PAGE = test_readme.ROOT / "docs" / "diffusers.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.mark.usefixtures("single_file")
def test_examples_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    test_readme.run_page(PAGE)


@pytest.mark.parametrize("target", sorted({*test_readme.LINK.findall(TEXT)}))
def test_links_lead_somewhere(target: str) -> None:
    assert (PAGE.parent / target).exists()


def test_what_somebody_without_the_package_sees(flux_class, folder, monkeypatch) -> None:
    from diffusers.quantizers import auto

    monkeypatch.delitem(auto.AUTO_QUANTIZATION_CONFIG_MAPPING, "ternfmt")
    monkeypatch.delitem(auto.AUTO_QUANTIZER_MAPPING, "ternfmt")
    message = "Unknown quantization type, got ternfmt - supported types are: ["
    assert message in TEXT
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        flux_class.from_pretrained(folder)
    assert message in str(caught.value)


def test_random_weights_only_for_those_who_ask_twice(flux_class, folder, tmp_path, caplog) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config))
    with caplog.at_level("WARNING"):
        flux_class.from_pretrained(tmp_path / "copy", low_cpu_mem_usage=False, ignore_mismatched_sizes=True)
    assert "newly initialized because the shapes did not match" in caplog.text
