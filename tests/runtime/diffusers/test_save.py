"""save_pretrained and dequantize."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

import ternfmt
from ternfmt.canonicalize import canonicalize
from ternfmt.metadata import parse_document
from ternfmt_runtime import TernaryLinear, dequantize_

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("shard_size", ["10GB", "20KB"])
def test_round_trip(flux_class, folder, tmp_path, assert_same, shard_size) -> None:
    model = flux_class.from_pretrained(folder)
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    validation = ternfmt.validate(tmp_path)
    assert validation.ternary == 34
    assert (validation.files > 1) == (shard_size == "20KB")
    again = flux_class.from_pretrained(tmp_path)
    assert_same(again, model)
    with ternfmt.open(folder) as before, ternfmt.open(tmp_path) as after:
        assert dict(after.document.entries) == dict(before.document.entries)
        assert after.document.ancillary == before.document.ancillary
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"] == {
        "quant_method": "ternfmt",
        "format_version": "1.0",
    }


def test_pitfall_11_canonicalize_gives_the_bytes_of_convert(flux_class, dense_folder, tmp_path) -> None:
    """safetensors writes several metadata keys in any order, so the saved bytes vary; canonical ones don't."""
    from ternfmt.cli import main

    source, again = tmp_path / "source", tmp_path / "again"
    assert main(["convert", str(dense_folder), str(source), "--exclude", "proj_out.weight"]) == 0
    flux_class.from_pretrained(source).save_pretrained(again)
    canonicalize(again / WEIGHTS, tmp_path / "canonical.safetensors")
    assert (tmp_path / "canonical.safetensors").read_bytes() == (source / WEIGHTS).read_bytes()


def test_ancillary_keys_are_kept(flux_class, folder, tmp_path) -> None:
    with ternfmt.open(folder) as file:
        tensors = {name: file[name] for name in file}
        ancillary = {"source": {"model": "somebody/flux", "license": "other"}, "note": ["kept"]}
        path = tmp_path / "given" / WEIGHTS
        path.parent.mkdir()
        ternfmt.save(path, tensors, ancillary=ancillary, metadata={"author": "somebody"})
    (path.parent / "config.json").write_bytes((folder / "config.json").read_bytes())
    flux_class.from_pretrained(path.parent).save_pretrained(tmp_path / "saved")
    with ternfmt.open(tmp_path / "saved") as file:
        header = file.stored.headers[0]
        assert header.metadata["author"] == "somebody"
        document = parse_document(header)
        assert {key: document.ancillary[key] for key in ancillary} == ancillary
        assert document.header_digest is None


def test_a_model_changed_after_loading_is_saved_as_it_is(flux_class, folder, tmp_path, assert_same) -> None:
    model = flux_class.from_pretrained(folder)
    model.transformer_blocks[0].attn.to_q = model.transformer_blocks[0].attn.to_q.dequantize()
    model.save_pretrained(tmp_path)
    assert ternfmt.validate(tmp_path).ternary == 33
    assert_same(flux_class.from_pretrained(tmp_path), model)


def test_pickle_is_refused(flux_class, folder, tmp_path) -> None:
    with pytest.raises(ValueError, match="safe_serialization=True"):
        flux_class.from_pretrained(folder).save_pretrained(tmp_path, safe_serialization=False)


def test_pitfall_10_dequantize_leaves_an_ordinary_model(flux_class, folder, tmp_path, run) -> None:
    model = flux_class.from_pretrained(folder)
    twin = flux_class.from_pretrained(folder)
    assert dequantize_(twin)
    dense = model.dequantize()
    assert dense is model
    assert not any(isinstance(module, TernaryLinear) for module in model.modules())
    assert "quantization_config" not in model.config
    assert torch.equal(run(dense), run(twin))
    model.half()
    model.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    again = flux_class.from_pretrained(tmp_path, torch_dtype=torch.float16)
    assert again.transformer_blocks[0].attn.to_q.weight.dtype == torch.float16


def test_dequantized_weights_are_rounded_once(flux_class, folder) -> None:
    model = flux_class.from_pretrained(folder, torch_dtype=torch.bfloat16)
    expected = model.transformer_blocks[0].attn.to_q.to_ternary().dequantize()
    weight = model.dequantize().transformer_blocks[0].attn.to_q.weight
    assert torch.equal(weight, torch.from_numpy(expected).bfloat16())


def test_state_dict_into_a_plain_dict(flux_class, folder: Path) -> None:
    """torch allows it; it has no room for the shapes that save_pretrained needs."""
    model = flux_class.from_pretrained(folder)
    with pytest.warns(FutureWarning):
        given = model.state_dict({}, "", False)
    assert given.keys() == model.state_dict().keys()


def test_a_copy_is_independent(flux_class, folder, tmp_path, assert_same) -> None:
    """As training scripts make for a moving average."""
    model = flux_class.from_pretrained(folder)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.proj_out.bias += 1
    twin.save_pretrained(tmp_path)
    assert_same(flux_class.from_pretrained(tmp_path), twin)
    assert not torch.equal(model.proj_out.bias, twin.proj_out.bias)
