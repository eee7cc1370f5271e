"""Other models in tiny configurations: quantise -> save -> load -> equal."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import ternfmt
from ternfmt_runtime import TernaryConfig, TernaryLinear

FLUX2 = {
    "patch_size": 1, "in_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16,
    "num_attention_heads": 2, "joint_attention_dim": 32, "timestep_guidance_channels": 256,
    "axes_dims_rope": (4, 4, 4, 4),
}  # fmt: skip
SD35 = {
    "sample_size": 8, "patch_size": 1, "in_channels": 4, "num_layers": 2, "attention_head_dim": 8,
    "num_attention_heads": 4, "caption_projection_dim": 32, "joint_attention_dim": 32, "pooled_projection_dim": 64,
    "out_channels": 4, "pos_embed_max_size": 16, "qk_norm": "rms_norm", "dual_attention_layers": (0,),
}  # fmt: skip
QWEN = {
    "patch_size": 2, "in_channels": 16, "out_channels": 4, "num_layers": 1, "attention_head_dim": 16,
    "num_attention_heads": 2, "joint_attention_dim": 16, "axes_dims_rope": (8, 4, 4),
}  # fmt: skip
Z_IMAGE = {
    "all_patch_size": (2,), "all_f_patch_size": (1,), "in_channels": 16, "dim": 32, "n_layers": 1,
    "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 16, "axes_dims": [8, 4, 4],
    "axes_lens": [64, 32, 32],
}  # fmt: skip
WAN = {
    "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4,
    "text_dim": 16, "freq_dim": 256, "ffn_dim": 32, "num_layers": 1, "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 32,
}  # fmt: skip
MODELS = {
    "Flux2Transformer2DModel": FLUX2,
    "SD3Transformer2DModel": SD35,
    "QwenImageTransformer2DModel": QWEN,
    "ZImageTransformer2DModel": Z_IMAGE,
    "WanTransformer3DModel": WAN,
}


def inputs(name: str) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    ids = torch.cartesian_prod(torch.arange(1), torch.arange(4), torch.arange(4), torch.arange(1)).float()
    return {
        "Flux2Transformer2DModel": lambda: {
            "hidden_states": noise(1, 16, 4), "encoder_hidden_states": noise(1, 5, 32), "timestep": torch.tensor([0.5]),
            "guidance": torch.tensor([1.0]), "img_ids": ids, "txt_ids": torch.zeros(5, 4),
        },
        "SD3Transformer2DModel": lambda: {
            "hidden_states": noise(1, 4, 8, 8), "encoder_hidden_states": noise(1, 5, 32),
            "pooled_projections": noise(1, 64), "timestep": torch.tensor([5]),
        },
        "QwenImageTransformer2DModel": lambda: {
            "hidden_states": noise(1, 16, 16), "encoder_hidden_states": noise(1, 5, 16),
            "encoder_hidden_states_mask": torch.ones(1, 5, dtype=torch.long), "timestep": torch.tensor([0.5]),
            "img_shapes": [(1, 4, 4)],
        },
        "ZImageTransformer2DModel": lambda: {
            "x": [noise(16, 1, 8, 8)], "t": torch.tensor([0.5]), "cap_feats": [noise(8, 16)],
        },
        "WanTransformer3DModel": lambda: {
            "hidden_states": noise(1, 4, 2, 8, 8), "encoder_hidden_states": noise(1, 5, 16),
            "timestep": torch.tensor([5]),
        },
    }[name]()  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("settings", [{}, {"method": "planes", "group_size": 16}])
def test_quantise_save_load(tmp_path, name, settings, assert_same) -> None:
    import diffusers

    cls = getattr(diffusers, name)
    torch.manual_seed(0)
    cls(**MODELS[name]).save_pretrained(tmp_path / "dense")
    model = cls.from_pretrained(tmp_path / "dense", quantization_config=TernaryConfig(**settings))
    layers = [module for module in model.modules() if isinstance(module, TernaryLinear)]
    assert len(layers) >= 8
    model.save_pretrained(tmp_path / "ternary")
    assert ternfmt.validate(tmp_path / "ternary").ternary == len(layers)
    again = cls.from_pretrained(tmp_path / "ternary")
    assert_same(again, model)
    ours, theirs = (m(**inputs(name), return_dict=False)[0] for m in (again, model))
    if isinstance(ours, list):
        (ours,), (theirs,) = ours, theirs
    assert ours.isfinite().all()
    # Not bit for bit, nor is it for dense models: in a mapped file tensors are aligned otherwise.
    torch.testing.assert_close(ours, theirs)


def test_modules_kept_in_float32(tmp_path) -> None:
    """Wan keeps its time embedder and norms in float32, quantised or not."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    WanTransformer3DModel(**WAN).save_pretrained(tmp_path)
    model = WanTransformer3DModel.from_pretrained(
        tmp_path, quantization_config=TernaryConfig(), torch_dtype=torch.bfloat16
    )
    assert model.condition_embedder.time_embedder.linear_1.weight.dtype == torch.float32
    assert model.blocks[0].attn1.to_q.compute_dtype == torch.bfloat16
