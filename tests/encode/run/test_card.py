"""Name, licence and model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from ternfmt.encode.run.card import Numbers, model_card
from ternfmt.encode.settings import LayerSettings
from ternfmt.encode.source.checkpoint import find_checkpoint
from ternfmt.encode.source.origin import Origin, find_origin
from tests.encode.source.checkpoints import TENSORS, write_model, write_pipeline

FLUX_CARD = """\
---
language:
- en
license: other
license_name: flux-1-dev-non-commercial-license
license_link: LICENSE.md
extra_gated_prompt: By clicking "Agree", you agree to the licence: all of it.
pipeline_tag: text-to-image
tags:
- image-generation
---

# FLUX.1 [dev]
"""
NUMBERS = Numbers(
    tensors=1160,
    weights=11_901_408_320,
    ternary_weights=11_834_228_736,
    source_bytes=23_802_816_640,
    bytes=3_098_986_624,
    block_ratio=7.979,
    file_ratio=7.681,
)
LAYERS = {
    **{f"transformer_blocks.{i}.attn.to_q.weight": (LayerSettings(), (3072, 3072)) for i in range(19)},
    **{f"transformer_blocks.{i}.ff.net.2.weight": (LayerSettings(), (3072, 12288)) for i in range(18)},
    "transformer_blocks.18.ff.net.2.weight": (LayerSettings("planes", 2, 64), (3072, 12288)),
}


def origin_of(path: Path, metadata: dict[str, str] | None = None, model: str | None = None) -> Origin:
    return find_origin(find_checkpoint(path), metadata or {}, model)


def parsed(card: str) -> dict[str, Any]:
    """The front matter as the Hub reads it."""
    yaml = pytest.importorskip("yaml")
    empty, front, _ = card.split("---\n", 2)
    assert empty == ""
    value: dict[str, Any] = yaml.safe_load(front)
    return value


@pytest.mark.parametrize(
    ("card", "license"),
    [
        (FLUX_CARD, Origin(None, "other", "flux-1-dev-non-commercial-license", "LICENSE.md")),
        ("---\nlicense: apache-2.0\n---\n", Origin(None, "apache-2.0")),
        ("\ufeff---\r\nlicense: 'mit'  # really\r\n---\r\n", Origin(None, "mit")),
        ("---\nlicense:\n- cc-by-4.0\n- mit\n---\n", Origin(None, "cc-by-4.0")),
        ("---\nlicense: [openrail++, mit]\n---\n", Origin(None, "openrail++")),
        ("---\nmodel-index:\n- license: mit\n---\n", Origin()),
        ("---\nlicense: mit\n\nno end", Origin()),
        ("license: mit\n", Origin()),
    ],
)
def test_the_licence_is_that_of_the_card(tmp_path: Path, card: str, license: Origin) -> None:
    folder = write_model(tmp_path / "m")
    (folder / "README.md").write_text(card, newline="")
    assert origin_of(folder) == license
    assert origin_of(folder / "diffusion_pytorch_model.safetensors") == license


def test_a_component_has_the_licence_of_its_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_pipeline(tmp_path / "p")
    assert origin_of(folder).license == "apache-2.0"
    assert origin_of(folder / "transformer").license == "apache-2.0"
    monkeypatch.chdir(folder / "transformer")
    assert origin_of(Path()).license == "apache-2.0"


def test_other_folders_around_say_nothing(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    (tmp_path / "README.md").write_text(FLUX_CARD)
    assert origin_of(folder) == Origin()


def test_the_licence_in_the_metadata_or_a_file(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "x.safetensors")
    assert origin_of(tmp_path / "x.safetensors", {"modelspec.license": "apache-2.0"}).license == "apache-2.0"
    (tmp_path / "LICENSE.txt").write_text("do what you like")
    assert origin_of(tmp_path / "x.safetensors") == Origin(None, "other", None, "LICENSE.txt")


def test_the_name(tmp_path: Path) -> None:
    snapshot = write_model(tmp_path / "models--black-forest-labs--FLUX.1-dev" / "snapshots" / "0123")
    assert origin_of(snapshot).model == "black-forest-labs/FLUX.1-dev"
    assert origin_of(snapshot, model="me/other").to_json() == {"model": "me/other"}
    assert origin_of(write_model(tmp_path / "m")).to_json() == {}
    with pytest.raises(ValueError, match=r"--base-model 'FLUX': expected organisation/name"):
        origin_of(snapshot, model="FLUX")


def test_a_card_that_the_hub_reads(tmp_path: Path) -> None:
    folder = write_pipeline(tmp_path / "p")
    (folder / "README.md").write_text(FLUX_CARD)
    checkpoint = find_checkpoint(folder)
    origin = find_origin(checkpoint, {}, "black-forest-labs/FLUX.1-dev")
    card = model_card(checkpoint, checkpoint.config, origin, LAYERS, NUMBERS)
    assert parsed(card) == {
        "base_model": "black-forest-labs/FLUX.1-dev",
        "base_model_relation": "quantized",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "license": "other",
        "license_name": "flux-1-dev-non-commercial-license",
        "license_link": "LICENSE.md",
        "tags": ["ternfmt", "ternary"],
    }
    for text in (
        "[README.source.md](README.source.md)",
        "Licence: [flux-1-dev-non-commercial-license](LICENSE.md)",
        'pipe = DiffusionPipeline.from_pretrained("path/to/this/folder", torch_dtype=torch.bfloat16)',
        "38 of 1160 tensors, 99.44% of 11,901,408,320 weights",
        "block ratio 7.98x",
        "file ratio 7.68x: 23,802,816,640 bytes before, 3,098,986,624 after",
        "| `transformer_blocks.#.attn.to_q.weight` | 19 | 3072x3072 | exact | 1 | row |",
        "| `transformer_blocks.#.ff.net.2.weight` | 18 | 3072x12288 | exact | 1 | row |",
        "| `transformer_blocks.#.ff.net.2.weight` | 1 | 3072x12288 | planes | 2 | 64 |  |",
    ):
        assert text in card, text


def test_an_unknown_licence_is_said_to_be_unknown(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "my model", "model", {"architectures": ["BertModel"]})
    layers = {"a.weight": (LayerSettings(), (4, 4))}
    checkpoint = find_checkpoint(folder)
    card = model_card(checkpoint, checkpoint.config, Origin(), layers, NUMBERS)
    assert parsed(card) == {
        "library_name": "transformers",
        "license": "unknown",
        "tags": ["ternfmt", "ternary", "1.58-bit"],
    }
    assert "**Licence: unknown.**" in card
    assert "`my model` (its name on the Hub is not known)" in card
    assert 'model = BertModel.from_pretrained("path/to/this/folder", dtype=torch.bfloat16)' in card
    assert "README.source.md" not in card


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"_class_name": "FluxTransformer2DModel"}, "from diffusers import FluxTransformer2DModel"),
        ({"model_type": "x"}, "from transformers import AutoModel"),
        ({"dim": 3}, 'with ternfmt.open("path/to/this/folder") as model:'),
    ],
)
def test_how_to_load(tmp_path: Path, config: dict[str, Any], text: str) -> None:
    folder = write_model(tmp_path / "m", config=config)
    assert text in model_card(find_checkpoint(folder), config, Origin(), LAYERS, NUMBERS)


def test_odd_strings_stay_strings_in_yaml(tmp_path: Path) -> None:
    origin = Origin("a/b", "no", "licence: with 'colon' # and \u00fc", "- https://example.org/#x")
    read = parsed(model_card(find_checkpoint(write_model(tmp_path / "m")), {}, origin, LAYERS, NUMBERS))
    assert (read["license"], read["license_name"], read["license_link"]) == (
        "no", "licence: with 'colon' # and \u00fc", "- https://example.org/#x",
    )  # fmt: skip
