"""quantize_ and dequantize_ on models in memory."""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

import ternfmt
from ternfmt_runtime import TernaryLinear, dequantize_, load_into, quantize_
from ternfmt_runtime.arrays import to_array


class TinyLM(nn.Module):
    """An embedding tied to the head, a shared layer, and a Linear that is more than a Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.first = nn.Linear(32, 64, bias=False)
        self.blocks = nn.ModuleList([nn.Linear(64, 64), nn.Linear(64, 32)])
        self.again = self.blocks[0]
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)
        self.head = nn.Linear(32, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.again(self.blocks[0](self.first(self.embed(tokens))))
        h = self.blocks[1](torch.relu(h))
        return self.head(h + self.attention(h, h, h, need_weights=False)[0])


def make_model(dtype: torch.dtype = torch.float32) -> TinyLM:
    torch.manual_seed(0)
    return TinyLM().to(dtype)


def test_default_choice() -> None:
    model = make_model()
    report = quantize_(model)
    assert report.quantized == ("first", "blocks.0", "blocks.1")
    assert set(report.kept) == {"attention.out_proj", "head"}
    assert "NonDynamicallyQuantizableLinear" in report.kept["attention.out_proj"]
    assert report.kept["head"] == "shares its weight with another module"
    assert isinstance(model.again, TernaryLinear)
    assert model.again is model.blocks[0]
    assert report.dense_bytes == 4 * (32 * 64 + 64 * 64 + 64 * 32)
    assert report.ternary_bytes == report.dense_bytes // 16 + 2 * (64 + 64 + 32)
    assert quantize_(model).quantized == ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_is_that_of_the_dequantised_twin(dtype: torch.dtype) -> None:
    model = make_model(dtype)
    tokens = torch.arange(12).view(3, 4)
    quantize_(model, "planes", planes=3, group_size=16)
    packed = model(tokens)
    assert model.first.compute_dtype == dtype
    assert dequantize_(model) == ["first", "blocks.0", "blocks.1"]
    assert {type(m) for m in model.modules() if isinstance(m, TernaryLinear)} == set()
    assert model.again is model.blocks[0]
    assert model.first.weight.dtype == packed.dtype == dtype
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(packed, model(tokens), **tolerance)


def test_same_bytes_as_the_encoder() -> None:
    model = make_model(torch.bfloat16)
    expected = ternfmt.quantize(to_array(model.first.weight), "planes", planes=2)
    quantize_(model, "planes")
    actual = model.first.to_ternary()
    for ours, theirs in zip(actual.planes, expected.planes, strict=True):
        assert np.array_equal(ours.codes, theirs.codes)
        assert np.array_equal(ours.scale, theirs.scale)


def test_include_and_exclude() -> None:
    report = quantize_(make_model(), include=["blocks.*", "head"], exclude=["*.1"])
    assert report.quantized == ("blocks.0",)
    assert report.kept["first"] == "not in include"
    assert report.kept["blocks.1"] == "in exclude"
    assert report.kept["head"] == "shares its weight with another module"


@pytest.mark.parametrize("argument", ["include", "exclude"])
def test_pattern_that_matches_nothing(argument: str) -> None:
    with pytest.raises(ValueError, match=r"'block\.\*' matches no nn.Linear of TinyLM"):
        quantize_(make_model(), **{argument: ["block.*"]})


def test_what_cannot_be_replaced_is_kept() -> None:
    assert quantize_(nn.Sequential(nn.ReLU())).kept == {}
    linear = nn.Linear(8, 8)
    assert "the model itself" in quantize_(linear).kept[""]
    assert "meta device" in quantize_(nn.Sequential(nn.Linear(8, 8, device="meta"))).kept["0"]
    encoder = nn.Sequential(nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)).eval()
    assert "fast path" in quantize_(encoder).kept["0.linear1"]
    hooked = nn.Sequential(nn.Linear(8, 8))
    hooked[0].register_forward_hook(lambda *args: None)
    assert "hooks" in quantize_(hooked).kept["0"]


def test_training_mode_and_bias_carry_over() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8, bias=False)).eval()
    bias = model[0].bias
    quantize_(model)
    assert model[0].bias is bias
    assert model[1].bias is None
    assert not model[0].training


def test_bad_weight_names_its_layer() -> None:
    model = make_model()
    with torch.no_grad():
        model.blocks[1].weight[3, 4] = torch.nan
    with pytest.raises(ValueError, match=r"blocks\.1\.weight"):
        quantize_(model)


def test_dense_weights_are_let_go_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(4)))
    weights = [weakref.ref(layer.weight) for layer in model]
    alive = []
    quantize = ternfmt.quantize

    def spy(*args, **kwargs):
        gc.collect()
        alive.append(sum(ref() is not None for ref in weights))
        return quantize(*args, **kwargs)

    monkeypatch.setattr(ternfmt, "quantize", spy)
    quantize_(model)
    assert alive == [4, 3, 2, 1]


def test_t5_runs_though_it_casts_to_the_dtype_of_its_weights(tmp_path: Path) -> None:
    config = T5Config(vocab_size=20, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    torch.manual_seed(0)
    model = T5EncoderModel(config).eval()
    twin = copy.deepcopy(model)
    quantize_(model)
    for name, layer in model.named_modules():
        if isinstance(layer, TernaryLinear):
            twin.get_submodule(name).weight.data = layer.dequantize().weight.data
    dense = {name: to_array(tensor) for name, tensor in twin.state_dict().items() if name != "shared.weight"}
    file = tmp_path / "t5.safetensors"
    ternfmt.save(file, {n: ternfmt.quantize(w) if n.endswith("wo.weight") else w for n, w in dense.items()})
    loaded = T5EncoderModel(config).eval()
    tokens = torch.arange(12).view(2, 6)
    with torch.no_grad():
        expected = twin(tokens).last_hidden_state
        assert torch.allclose(model(tokens).last_hidden_state, expected, atol=1e-5)
        for _ in range(2):  # the second time over packed layers
            load_into(loaded, file)
            assert torch.allclose(loaded(tokens).last_hidden_state, expected, atol=1e-5)
