"""FLUX.1 under the names of BFL and of diffusers."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ternfmt
from ternfmt.encode.source.flux_names import rename
from ternfmt.encode.source.recipe import Recipe, read
from tests.encode.source.flux import Arrays, bfl_checkpoint


def assert_same(ours: Arrays, theirs: Arrays) -> None:
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name in ours.tensors:
        assert np.array_equal(ours.tensors[name], theirs.tensors[name]), name


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 12), st.sampled_from([2, 4, 6]), st.sampled_from([3, 8, 48]), st.booleans(),
    st.booleans(),
)  # fmt: skip
def test_there_and_back_is_the_identity(
    double: int, single: int, head: int, mlp: int, guidance: bool, prefixed: bool
) -> None:
    bfl = bfl_checkpoint(double, single, head, mlp, guidance=guidance)
    source = bfl.prefixed if prefixed else bfl
    diffusers = source.renamed("diffusers")
    assert_same(diffusers.renamed("bfl"), bfl)
    assert_same(diffusers.renamed("bfl").renamed("diffusers"), diffusers)
    assert_same(source.renamed("bfl"), bfl)
    assert_same(diffusers.renamed("diffusers"), diffusers)


def test_flux_1_dev_has_780_tensors_there_and_1160_here() -> None:
    bfl = bfl_checkpoint(19, 38, 2, 3, guidance=True)
    assert len(bfl.tensors) == 780
    assert len(bfl.renamed("diffusers").tensors) == 1160


@pytest.mark.parametrize("guidance", [True, False], ids=["dev", "schnell"])
def test_names_and_shapes_are_those_of_the_class(guidance: bool) -> None:
    diffusers = pytest.importorskip("diffusers")
    model = diffusers.FluxTransformer2DModel(
        in_channels=12, out_channels=4, num_layers=2, num_single_layers=2, num_attention_heads=2, attention_head_dim=4,
        joint_attention_dim=10, pooled_projection_dim=6, guidance_embeds=guidance, axes_dims_rope=(2, 1, 1),
    )  # fmt: skip
    theirs = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    bfl = bfl_checkpoint(2, 2, 4, 32, guidance=guidance)
    for name in bfl.tensors:  # diffusers embeds time in 256 channels
        if name.endswith("_in.in_layer.weight") and not name.startswith("vector"):
            bfl.tensors[name] = np.zeros((8, 256), np.float32)  # type: ignore[index]
    assert {name: value.shape for name, value in bfl.renamed("diffusers").tensors.items()} == theirs


@pytest.mark.parametrize("prefixed", [False, True])
@pytest.mark.parametrize("guidance", [True, False])
def test_equals_diffusers_own_converter(prefixed: bool, guidance: bool) -> None:
    """Which has the real model's width built in."""
    torch = pytest.importorskip("torch")
    utils = pytest.importorskip("diffusers.loaders.single_file_utils")
    text = inspect.getsource(utils.convert_flux_transformer_checkpoint_to_diffusers)
    assert "inner_dim = 3072" in text
    names = dict(vars(utils))
    exec(text.replace("inner_dim = 3072", "inner_dim = 8"), names)
    bfl = bfl_checkpoint(2, 3, 4, 32, guidance=guidance)
    source = bfl.prefixed if prefixed else bfl
    theirs = names["convert_flux_transformer_checkpoint_to_diffusers"](
        {name: torch.from_numpy(value) for name, value in source.tensors.items()}
    )
    assert_same(source.renamed("diffusers"), Arrays({name: value.numpy() for name, value in theirs.items()}))


def test_ternary_rows_move_as_dense_ones_do() -> None:
    """Quantise, then rename = rename, then quantise."""
    bfl = bfl_checkpoint(1, 1, 4, 16, guidance=False)
    recipes = rename(bfl.spans, "diffusers")
    whole = {name: ternfmt.quantize(value) for name, value in bfl.tensors.items() if value.ndim == 2}
    for name, recipe in recipes.items():
        if len(recipe.shape) != 2:
            continue
        ours = ternfmt.concatenate_rows([whole[p.tensor][p.start : p.stop] for p in recipe.parts])
        theirs = ternfmt.quantize(read(recipe, bfl, 0, recipe.shape[0]))
        assert np.array_equal(ours.codes, theirs.codes), name
        assert np.array_equal(ours.scale, theirs.scale), name


@pytest.mark.parametrize("naming", ["bfl", "diffusers"])
def test_foreign_tensors_are_named(naming: str) -> None:
    spans = bfl_checkpoint(1, 1, 2, 3, guidance=False).spans
    spans["vae.decoder.conv.weight"] = spans["double_blocks.0.img_attn.scale_weight"] = Recipe((2, 2), "F32", ())
    message = r"2 of \d+ tensors are not FLUX.1's: 'vae.decoder.conv.weight', 'double_blocks.0.img_attn.scale_weight'"
    with pytest.raises(ValueError, match=message):
        rename(spans, naming)


def test_a_missing_part_is_named() -> None:
    spans = bfl_checkpoint(1, 1, 2, 3, guidance=False).renamed("diffusers").spans
    del spans["transformer_blocks.0.attn.to_k.weight"]
    with pytest.raises(ValueError, match=r"'double_blocks.0.img_attn.qkv.weight' .*; '.*to_k.weight' is missing"):
        rename(spans, "bfl")


def test_parts_of_different_kinds_are_not_joined() -> None:
    spans = bfl_checkpoint(1, 1, 2, 3, guidance=False).renamed("diffusers").spans
    spans["transformer_blocks.0.attn.to_k.weight"] = Recipe((4, 4), "BF16", ())
    with pytest.raises(ValueError, match=r"to_k.weight' is BF16 \[4, 4\].* would have to be F32 \[4, 4\]"):
        rename(spans, "bfl")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("double_blocks.0.img_attn.qkv.weight", (13, 4)),
        ("single_blocks.0.linear1.weight", (12, 4)),
        ("single_blocks.0.linear1.bias", (11,)),
        ("final_layer.adaLN_modulation.1.bias", (7,)),
    ],
)
def test_rows_that_do_not_divide(name: str, shape: tuple[int, ...]) -> None:
    spans = bfl_checkpoint(1, 1, 2, 3, guidance=False).spans
    spans[name] = Recipe(shape, "F32", ())
    with pytest.raises(ValueError, match=f"'{name}' has {shape[0]} rows, which do not divide"):
        rename(spans, "diffusers")
