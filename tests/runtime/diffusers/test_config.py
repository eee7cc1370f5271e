"""TernaryConfig: what it accepts, what it writes, and which modules it covers."""

from __future__ import annotations

import json

import pytest
import torch

from ternfmt_runtime import TernaryConfig


def test_both_libraries_accept_it() -> None:
    from diffusers.quantizers.quantization_config import QuantizationConfigMixin as Diffusers
    from transformers.utils.quantization_config import QuantizationConfigMixin as Transformers

    assert issubclass(TernaryConfig, Diffusers)
    assert issubclass(TernaryConfig, Transformers)
    assert TernaryConfig().quant_method == "ternfmt"
    assert TernaryConfig().quant_method.value == "ternfmt"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"method": "planes", "planes": 3, "group_size": 64},
        {"modules_to_not_convert": ["norm1", "*.1.*"], "compute_dtype": torch.bfloat16},
    ],
)
def test_json_round_trip(settings) -> None:
    config = TernaryConfig(**settings)
    value = json.loads(json.dumps(config.to_dict()))
    assert value.keys() == {"quant_method", "format_version", *settings}
    assert TernaryConfig.from_dict(value) == TernaryConfig(**settings, format_version="1.0")
    assert json.loads(config.to_json_string()) == value
    assert str(config).startswith("TernaryConfig {")


def test_compute_dtype_by_name() -> None:
    assert TernaryConfig(compute_dtype="bfloat16").compute_dtype == torch.bfloat16
    assert TernaryConfig(compute_dtype="torch.float16").compute_dtype == torch.float16


def test_from_dict_ignores_what_it_does_not_know() -> None:
    config, unused = TernaryConfig.from_dict({"quant_method": "ternfmt", "new": 1}, True, method="absmean", other=2)
    assert config.method == "absmean"
    assert unused == {"other": 2}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "best"}, "method: expected one of"),
        ({"planes": 2}, 'planes=2 needs method="planes"'),
        ({"method": "planes", "planes": 5}, "planes: expected 2 to 4, got 5"),
        ({"group_size": 10}, "group_size: expected a multiple of 16, got 10"),
        ({"compute_dtype": torch.int8}, "compute_dtype: expected one of float32, float16, bfloat16, got torch.int8"),
        ({"quant_method": "gguf"}, "gguf"),
    ],
)
def test_bad_settings(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        TernaryConfig(**settings)


@pytest.mark.parametrize("kept", ["norm1", "norm1.linear", "transformer_blocks.0", "*.linear", "transformer_blocks.*"])
def test_covered(kept) -> None:
    assert TernaryConfig(modules_to_not_convert=[kept]).keeps_dense("transformer_blocks.0.norm1.linear")


@pytest.mark.parametrize("kept", ["norm", "lin", "blocks.0", "linear.*", "0.linear"])
def test_not_covered(kept) -> None:
    assert not TernaryConfig(modules_to_not_convert=[kept]).keeps_dense("transformer_blocks.0.norm1.linear")
