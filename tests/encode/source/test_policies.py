"""Which tensors become ternary, on the real module names and sizes of every architecture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from ternfmt.container import nbytes
from ternfmt.encode.settings import LayerSettings
from ternfmt.encode.source.flux_names import rename
from ternfmt.encode.source.policies import ARCHITECTURES, POLICIES, find_policy
from ternfmt.encode.source.policy import COMFYUI_PREFIX, GENERAL, choose
from ternfmt.encode.source.recipe import Recipe

FLUX_OUTSIDE = {
    "x_embedder", "context_embedder", "norm_out.linear", "proj_out",
    *(f"time_text_embed.{x}_embedder.linear_{i}" for x in ("timestep", "guidance", "text") for i in (1, 2)),
}  # fmt: skip
SD35_LARGE = {
    "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "qk_norm": "rms_norm",
    "pos_embed_max_size": 192, "out_channels": 16,
}  # fmt: skip
FAMILIES = [
    # class, config (the class's defaults are the real model's but for these), policy, ternary tensors, % of
    # parameters, file ratio with one plane and F16 scales
    ("FluxTransformer2DModel", {"guidance_embeds": True}, "flux1", 494, 99.44, 7.68),
    ("FluxTransformer2DModel", {}, "flux1", 494, 99.52, 7.73),  # schnell
    (
        "FluxTransformer2DModel",
        {"guidance_embeds": True, "in_channels": 384, "out_channels": 64},
        "flux1",
        494,
        99.43,
        7.68,
    ),
    ("Flux2Transformer2DModel", {}, "flux2", 192, 97.47, 6.79),
    ("SD3Transformer2DModel", SD35_LARGE, "sd3", 529, 99.47, 7.70),
    ("QwenImageTransformer2DModel", {}, "qwen-image", 840, 99.77, 7.86),
    ("ZImageTransformer2DModel", {}, "z-image", 270, 99.79, 7.87),
    ("WanTransformer3DModel", {}, "wan", 400, 98.34, 7.16),
]


def shapes(*names: str, shape: tuple[int, ...] = (8, 8)) -> dict[str, Recipe]:
    return {name: Recipe(shape, "BF16", ()) for name in names}


def ternary(choices: dict[str, Any]) -> set[str]:
    return {name for name, choice in choices.items() if choice.ternary}


def parameters(class_name: str, config: dict[str, Any]) -> tuple[Any, dict[str, Recipe]]:
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        model = getattr(diffusers, class_name)(**config)
    return model, {name: Recipe(tuple(p.shape), "BF16", ()) for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("class_name", "config", "policy", "count", "percent", "ratio"), FAMILIES, ids=[f"{f[2]}-{f[4]}" for f in FAMILIES]
)
def test_real_models(
    class_name: str, config: dict[str, Any], policy: str, count: int, percent: float, ratio: float
) -> None:
    torch = pytest.importorskip("torch")

    model, tensors = parameters(class_name, config)
    found = find_policy({"_class_name": class_name}, tensors)
    assert found is POLICIES[policy]
    assert find_policy(None, tensors) is found
    chosen = ternary(choose(tensors, policy=found))
    assert len(chosen) == count
    sizes = {name: 2 * p.numel() for name, p in model.named_parameters()}
    total = sum(sizes.values())
    assert round(100 * sum(sizes[name] for name in chosen) / total, 2) == percent
    after = sum(sizes[name] for name in sizes.keys() - chosen)
    for name in chosen:
        after += sum(nbytes(*stored) for stored in LayerSettings().stored(name, tensors[name].shape).values())
    assert round(total / after, 2) == ratio
    # Exactly the linears in the model's lists of blocks: what the runtime quantises on the fly.
    lists = [name for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)]
    linears = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    inside = {f"{n}.weight" for n in linears if any(n.startswith(f"{held}.") for held in lists)}
    assert chosen == inside
    if class_name == "FluxTransformer2DModel":
        outside = {name.removesuffix(".weight") for name in tensors if name.endswith(".weight")} & linears
        optional = set() if "guidance_embeds" in config else {n for n in FLUX_OUTSIDE if "guidance" in n}
        assert outside - {n.removesuffix(".weight") for n in chosen} == FLUX_OUTSIDE - optional
        renamed = rename(tensors, "bfl")
        assert find_policy(None, renamed) is found
        bfl = ternary(choose(renamed, policy=found))
        assert len(bfl) == 304
        assert sum(2 * r.shape[0] * r.shape[1] for n, r in renamed.items() if n in bfl) == sum(sizes[n] for n in chosen)


ORIGINAL_NAMES = {
    "flux1": ("double_blocks.0.img_mod.lin.weight", "single_blocks.37.linear1.weight", "final_layer.linear.weight"),
    "flux2": (
        "double_blocks.7.txt_mlp.2.weight",
        "single_blocks.0.linear2.weight",
        "single_stream_modulation.lin.weight",
    ),
    "sd3": (
        "joint_blocks.0.x_block.adaLN_modulation.1.weight",
        "joint_blocks.37.context_block.attn.qkv.weight",
        "context_embedder.weight",
    ),
    "qwen-image": (
        "transformer_blocks.0.img_mod.1.weight",
        "transformer_blocks.59.attn.to_q.weight",
        "norm_out.linear.weight",
    ),
    "z-image": ("layers.0.adaLN_modulation.0.weight", "noise_refiner.1.attention.qkv.weight", "cap_embedder.1.weight"),
    "wan": ("blocks.0.self_attn.q.weight", "blocks.39.ffn.2.weight", "text_embedding.2.weight", "head.modulation"),
}


@pytest.mark.parametrize("prefix", ["", COMFYUI_PREFIX])
@pytest.mark.parametrize("name", ORIGINAL_NAMES)
def test_single_files_by_names(name: str, prefix: str) -> None:
    """The first two of each are in blocks, the others are not; nor is what else a ComfyUI file holds."""
    others = {"text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight", "vae.decoder.x.weight"}
    names = [prefix + n for n in ORIGINAL_NAMES[name]]
    tensors = shapes(*names, *(others if prefix else ()))
    policy = find_policy(None, tensors)
    assert policy.name == name
    assert ternary(choose(tensors, policy=policy)) == set(names[:2])
    # Without knowing the architecture it is the same.
    assert ternary(choose(tensors)) == set(names[:2])


def test_config_decides_before_names() -> None:
    tensors = shapes(*ORIGINAL_NAMES["flux1"])
    assert find_policy({"_class_name": "WanModel"}, tensors).name == "wan"
    assert find_policy({"architectures": ["BertModel"]}, shapes("encoder.layer.0.x.weight")) is GENERAL
    assert find_policy({"architectures": None, "model_type": "bert"}, ()) is GENERAL


def test_gpt_2_stays_dense() -> None:
    """Its weights are transposed, which no name tells: a class of the same names holds plain linears."""
    tensors = shapes("h.0.attn.c_attn.weight", "h.0.mlp.c_fc.weight")
    choices = choose(tensors, policy=find_policy({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, tensors))
    assert ternary(choices) == set()
    assert "stored as [in, out]" in choices["h.0.mlp.c_fc.weight"].reason
    bigcode = find_policy({"model_type": "gpt_bigcode"}, tensors)
    assert ternary(choose(tensors, policy=bigcode)) == set(tensors)
    assert ternary(choose(tensors, include=["*c_fc*"], policy=POLICIES["gpt2"])) == {"h.0.mlp.c_fc.weight"}


def test_bert_keeps_its_36_linears() -> None:
    """all-MiniLM-L6-v2's names: docs and demo say 36; the pooler lies outside of the layers."""
    linears = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
               "intermediate.dense", "output.dense")  # fmt: skip
    inside = {f"encoder.layer.{i}.{linear}.weight" for i in range(6) for linear in linears}
    tensors = shapes(
        *inside, "pooler.dense.weight", "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"
    )
    tensors |= shapes("encoder.layer.0.output.LayerNorm.weight", "pooler.dense.bias", shape=(8,))
    assert ternary(choose(tensors)) == inside


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        # no blocks at all
        (["a.weight", "head.proj.weight"], {"a.weight", "head.proj.weight"}),
        # steps of a sequence are no blocks
        (["0.weight", "2.weight"], {"0.weight", "2.weight"}),
        (["cap_embed.1.weight", "time.0.weight", "layers.0.q.weight"], {"layers.0.q.weight"}),
        # T5: heads and embeddings in and out of blocks
        (
            ["shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight",
             "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"],
            {"encoder.block.0.layer.0.SelfAttention.q.weight"},
        ),
        (["model.layers.0.mlp.up_proj.weight", "lm_head.weight", "model.norm.weight"],
         {"model.layers.0.mlp.up_proj.weight"}),
        # the UNet of a Stable Diffusion file, not its text encoder
        ([f"{COMFYUI_PREFIX}input_blocks.1.1.proj_in.weight", "conditioner.embedders.0.transformer.x.weight"],
         {f"{COMFYUI_PREFIX}input_blocks.1.1.proj_in.weight"}),
    ],
)  # fmt: skip
def test_general_policy(tensors: list[str], expected: set[str]) -> None:
    assert ternary(choose(shapes(*tensors))) == expected


def test_convolutions_and_tables_in_blocks_stay_dense() -> None:
    tensors = {
        "blocks.0.conv.weight": Recipe((8, 8, 3, 3), "F32", ()),
        "blocks.0.scale_shift_table": Recipe((6, 8), "F32", ()),
        "blocks.0.q.weight": Recipe((8, 8), "F8_E4M3", ()),
        "patch_embedding.weight": Recipe((8, 4, 1, 2, 2), "F32", ()),
    }
    choices = choose(tensors, policy=POLICIES["wan"])
    assert ternary(choices) == set()
    assert choices["blocks.0.q.weight"].reason == "dtype F8_E4M3 is not F32, F16 or BF16"


def test_include_and_exclude_outrank_every_policy() -> None:
    tensors = shapes("double_blocks.0.img_mod.lin.weight", "double_blocks.0.img_mlp.0.weight", "txt_in.weight")
    policy = POLICIES["flux1"]
    assert ternary(choose(tensors, include=["txt_in.*"], policy=policy)) == {"txt_in.weight"}
    choices = choose(tensors, exclude=["*_mod.*"], policy=policy)
    assert ternary(choices) == {"double_blocks.0.img_mlp.0.weight"}
    assert choices["txt_in.weight"].reason == "outside of the repeated blocks"
    assert choices["double_blocks.0.img_mod.lin.weight"].reason == "excluded by '*_mod.*'"


def test_names_are_unique_and_classes_are_in_one_policy() -> None:
    def distinct(values: Iterable[str]) -> bool:
        listed = list(values)
        return len(listed) == len(set(listed))

    assert len(POLICIES) == len(ARCHITECTURES) + 1
    assert distinct(name for policy in ARCHITECTURES for name in policy.classes)
    assert distinct(name for policy in ARCHITECTURES for name in policy.markers)
