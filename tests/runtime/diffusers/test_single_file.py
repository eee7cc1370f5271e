"""from_single_file: BFL's and ComfyUI's names, whose converter in diffusers has FLUX's width 3072 built in.

Being that wide, the model also shows how much memory loading takes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ternfmt
from ternfmt import FormatError, Kind, LowRank, Plane, TernaryTensor
from ternfmt_runtime import LoadError, TernaryConfig, TernaryLinear
from ternfmt_runtime.row_ids import RowIds

WIDTH = 3072
CONFIG = {
    "_class_name": "FluxTransformer2DModel",
    "patch_size": 1,
    "in_channels": 8,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 16,
    "pooled_projection_dim": 16,
    "guidance_embeds": True,
}
LINEARS = {
    "double_blocks.0.img_mod.lin": (6 * WIDTH, WIDTH),
    "double_blocks.0.txt_mod.lin": (6 * WIDTH, WIDTH),
    "double_blocks.0.img_attn.qkv": (3 * WIDTH, WIDTH),
    "double_blocks.0.txt_attn.qkv": (3 * WIDTH, WIDTH),
    "double_blocks.0.img_attn.proj": (WIDTH, WIDTH),
    "double_blocks.0.txt_attn.proj": (WIDTH, WIDTH),
    "double_blocks.0.img_mlp.0": (4 * WIDTH, WIDTH),
    "double_blocks.0.txt_mlp.0": (4 * WIDTH, WIDTH),
    "double_blocks.0.img_mlp.2": (WIDTH, 4 * WIDTH),
    "double_blocks.0.txt_mlp.2": (WIDTH, 4 * WIDTH),
    "single_blocks.0.modulation.lin": (3 * WIDTH, WIDTH),
    "single_blocks.0.linear1": (7 * WIDTH, WIDTH),
    "single_blocks.0.linear2": (WIDTH, 5 * WIDTH),
    "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
}
DENSE = {
    "time_in.in_layer": (WIDTH, 256),
    "time_in.out_layer": (WIDTH, WIDTH),
    "vector_in.in_layer": (WIDTH, 16),
    "vector_in.out_layer": (WIDTH, WIDTH),
    "guidance_in.in_layer": (WIDTH, 256),
    "guidance_in.out_layer": (WIDTH, WIDTH),
    "txt_in": (WIDTH, 16),
    "img_in": (WIDTH, 8),
    "final_layer.linear": (8, WIDTH),
}
NORMS = [
    *(f"double_blocks.0.{s}_attn.norm.{q}_norm.scale" for s in ("img", "txt") for q in ("query", "key")),
    *(f"single_blocks.0.norm.{q}_norm.scale" for q in ("query", "key")),
]
VALID_BYTES = np.array([b for b in range(256) if all((b >> s) & 3 != 2 for s in (0, 2, 4, 6))], dtype=np.uint8)


def make_ternary(rng: np.random.Generator, shape: tuple[int, int], rank: int = 0) -> TernaryTensor:
    n, k = shape
    plane = Plane(VALID_BYTES[rng.integers(0, len(VALID_BYTES), (n, k // 4))], (rng.random(n) / k).astype(np.float16))
    low_rank = None
    if rank:
        low_rank = LowRank(*(rng.standard_normal(s).astype(np.float16) for s in ((rank, k), (n, rank))))
    return TernaryTensor(shape, (plane,), None, low_rank)


@pytest.fixture(scope="module")
def tensors() -> dict[str, Any]:
    """A checkpoint of one double and one single block under BFL's names."""
    rng = np.random.default_rng(0)
    tensors: dict[str, Any] = {}
    for name, shape in LINEARS.items():
        rank = 2 if name.endswith("img_attn.qkv") else 0
        tensors[f"{name}.weight"] = make_ternary(rng, shape, rank)
        tensors[f"{name}.bias"] = rng.standard_normal(shape[0]).astype(np.float32)
    for name, shape in DENSE.items():
        tensors[f"{name}.weight"] = rng.standard_normal(shape, dtype=np.float32) / 50
        tensors[f"{name}.bias"] = rng.standard_normal(shape[0]).astype(np.float32)
    for name in NORMS:
        tensors[name] = rng.standard_normal(128).astype(np.float32)
    return tensors


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("config")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return str(folder)


@pytest.fixture(scope="module")
def bfl(tensors, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bfl") / "flux.safetensors"
    ternfmt.save(path, tensors)
    return path


@pytest.fixture(scope="module")
def model(flux_class, bfl, config) -> Any:
    return flux_class.from_single_file(str(bfl), config=config, quantization_config=TernaryConfig())


def test_pitfall_9_rows_go_where_diffusers_sends_them(model, tensors) -> None:
    double, single = model.transformer_blocks[0], model.single_transformer_blocks[0]
    qkv, linear1 = tensors["double_blocks.0.txt_attn.qkv.weight"], tensors["single_blocks.0.linear1.weight"]
    adaln = tensors["final_layer.adaLN_modulation.1.weight"]
    for layer, whole, rows in [
        (double.attn.add_q_proj, qkv, np.arange(WIDTH)),
        (double.attn.add_k_proj, qkv, np.arange(WIDTH, 2 * WIDTH)),
        (double.attn.add_v_proj, qkv, np.arange(2 * WIDTH, 3 * WIDTH)),
        (single.attn.to_k, linear1, np.arange(WIDTH, 2 * WIDTH)),
        (single.proj_mlp, linear1, np.arange(3 * WIDTH, 7 * WIDTH)),
        (double.ff.net[2], tensors["double_blocks.0.img_mlp.2.weight"], np.arange(WIDTH)),
        (model.norm_out.linear, adaln, np.concatenate([np.arange(WIDTH, 2 * WIDTH), np.arange(WIDTH)])),
    ]:
        assert isinstance(layer, TernaryLinear)
        assert np.array_equal(layer.weight, whole.codes[rows])
        assert np.array_equal(layer.weight_scale, whole.scale[rows])
        assert layer.weight_scale.dtype == torch.float16


def test_a_low_rank_term_is_split_with_its_rows(model, tensors) -> None:
    whole = tensors["double_blocks.0.img_attn.qkv.weight"]
    layer = model.transformer_blocks[0].attn.to_v
    assert layer.low_rank == 2
    assert np.array_equal(layer.weight_lowrank_down, whole.low_rank.down)
    assert np.array_equal(layer.weight_lowrank_up, whole.low_rank.up[2 * WIDTH :])


def test_everything_else_equals_the_dense_file(flux_class, model, tensors, config, tmp_path) -> None:
    from safetensors.torch import save_file

    dense = {}
    for name, value in tensors.items():
        value = value.dequantize() if isinstance(value, TernaryTensor) else value
        dense[name] = torch.from_numpy(value).bfloat16()
    save_file(dense, tmp_path / "dense.safetensors")
    del dense
    twin = flux_class.from_single_file(str(tmp_path / "dense.safetensors"), config=config, torch_dtype=torch.bfloat16)
    checked = 0
    for name, theirs in twin.state_dict().items():
        module = model.get_submodule(name.rpartition(".")[0])
        if isinstance(module, TernaryLinear) and name.endswith(".weight"):
            ours = torch.from_numpy(module.to_ternary()[:64].dequantize()).bfloat16()
            assert torch.equal(ours, theirs[:64]), name
            checked += 1
        else:
            assert torch.equal(model.state_dict()[name].bfloat16(), theirs), name
    assert checked == 21


def test_comfyui_names_give_the_same_model(flux_class, model, tensors, config, tmp_path, assert_same) -> None:
    path = tmp_path / "comfy.safetensors"
    ternfmt.save(path, {f"model.diffusion_model.{name}": value for name, value in tensors.items()})
    other = flux_class.from_single_file(str(path), config=config, quantization_config=TernaryConfig())
    assert_same(other, model)


def test_dtype(flux_class, bfl, config) -> None:
    model = flux_class.from_single_file(
        str(bfl), config=config, quantization_config=TernaryConfig(), torch_dtype=torch.bfloat16
    )
    layer = model.single_transformer_blocks[0].proj_out
    assert layer.bias.dtype == layer.compute_dtype == model.dtype == torch.bfloat16
    assert layer.weight_scale.dtype == torch.float16


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    return folder


def test_saved_under_diffusers_names(flux_class, model, saved, assert_same) -> None:
    """The config is recorded, which diffusers forgets for single files."""
    assert ternfmt.validate(saved).ternary == 21
    assert_same(flux_class.from_pretrained(saved), model)


MEMORY = """
import sys, threading, time
import torch, ternfmt_runtime
from diffusers import FluxTransformer2DModel
def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))
start, peak, done = resident(), 0, False
def watch():
    global peak
    while not done:
        peak = max(peak, resident())
        time.sleep(0.001)
thread = threading.Thread(target=watch)
thread.start()
how, path, config = sys.argv[1:]
if how == "from_pretrained":
    model = FluxTransformer2DModel.from_pretrained(path, torch_dtype=torch.bfloat16)
else:
    model = FluxTransformer2DModel.from_single_file(
        path, config=config, torch_dtype=torch.bfloat16, quantization_config=ternfmt_runtime.TernaryConfig()
    )
done = True
thread.join()
print(peak - start, sum(t.nbytes for t in model.state_dict().values()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize("how", ["from_pretrained", "from_single_file"])
def test_loading_takes_the_models_own_memory(bfl, saved, config, how) -> None:
    """All layers as they stay, and half as much again, which is less than the largest would take in bfloat16."""
    path = saved if how == "from_pretrained" else bfl
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, how, str(path), config],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    peak, size = map(int, done.stdout.split())
    dense = sum(2 * n * k for n, k in LINEARS.values())
    assert size < dense / 4
    assert size <= peak < 1.5 * size


def test_without_a_config_for_quantisation(flux_class, bfl, config) -> None:
    """diffusers asks for one with GGUF files, too."""
    with pytest.raises(ValueError, match=r"expected shape torch.Size\(\[18432, 3072\]\), but got"):
        flux_class.from_single_file(str(bfl), config=config)


def test_a_state_dict_has_no_shapes(flux_class, bfl, config) -> None:
    from safetensors.torch import load_file

    with pytest.raises(ValueError, match="the path of the safetensors file"):
        flux_class.from_single_file(load_file(bfl), config=config, quantization_config=TernaryConfig())


def test_a_dense_file_is_quantised(flux_class, dense_folder, assert_same) -> None:
    path = dense_folder / "diffusion_pytorch_model.safetensors"
    dtype = torch.bfloat16
    ours = flux_class.from_single_file(
        str(path), config=str(dense_folder), quantization_config=TernaryConfig(), torch_dtype=dtype
    )
    theirs = flux_class.from_pretrained(dense_folder, quantization_config=TernaryConfig(), torch_dtype=dtype)
    assert_same(ours, theirs)
    assert ours.config.quantization_config == theirs.config.quantization_config


def test_bad_codes(flux_class, bfl, config, tmp_path) -> None:
    with ternfmt.open(bfl) as file:
        span = file.stored.spans["single_blocks.0.linear1.weight"]
        start = file.stored.headers[0].data_start + span.begin
    path = tmp_path / "bad.safetensors"
    raw = bytearray(bfl.read_bytes())
    raw[start] = 0b10
    path.write_bytes(raw)
    with pytest.raises(FormatError) as caught:
        flux_class.from_single_file(str(path), config=config, quantization_config=TernaryConfig())
    assert caught.value.kind is Kind.CODE
    assert "bad.safetensors" in str(caught.value)


def test_a_config_of_another_model(flux_class, bfl, tmp_path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({**CONFIG, "attention_head_dim": 64, "axes_dims_rope": [8, 28, 28]})
    )
    with pytest.raises(LoadError, match=r"expects shape \[1536, 1536\], got \[3072, 3072\]"):
        flux_class.from_single_file(str(bfl), config=str(tmp_path), quantization_config=TernaryConfig())


def test_row_ids_survive_what_converters_do(make_tensor: Callable[..., TernaryTensor]) -> None:
    ids = RowIds()
    a, b = (make_tensor(seed, 12, 35, rank=0) for seed in (0, 1))
    first, second = ids.stand_in(a), ids.stand_in(b)
    q, _, v = torch.chunk(first, 3, dim=0)
    joined = ids.resolve(torch.cat([v, second[:5], q]))
    expected = ternfmt.concatenate_rows([a[8:], b[:5], a[:4]])
    for ours, theirs in zip(joined.planes, expected.planes, strict=True):
        assert np.array_equal(ours.codes, theirs.codes)
        assert np.array_equal(ours.scale, theirs.scale)
    with pytest.raises(ValueError, match="row by row"):
        ids.resolve(first.T)
    with pytest.raises(ValueError, match="low-rank"):
        ids.resolve(torch.cat([first, ids.stand_in(make_tensor(2, 12, 35))]))


def bfl_control_lora() -> dict[str, torch.Tensor]:
    """Rank 2 under BFL's names; diffusers' converter wants it for all of FLUX.1-dev's 19 and 38 blocks."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, (n, k) in {**LINEARS, **DENSE, "img_in": (WIDTH, 16)}.items():
        kind, _, rest = name.partition(".0.")
        count = {"double_blocks": 19, "single_blocks": 38}.get(kind, 1)
        for i in range(count):
            block = f"{kind}.{i}.{rest}" if count > 1 else name
            state[f"{block}.lora_A.weight"] = torch.randn(2, k, generator=generator) / 50
            state[f"{block}.lora_B.weight"] = torch.randn(n, 2, generator=generator) / 50
    for i in range(38):
        for norm in NORMS:
            state[norm.replace(".0.", f".{i}.")] = torch.ones(128)
    return state


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_pitfall_3_a_bfl_control_lora(make_pipeline, flux_class, bfl, config) -> None:
    model = flux_class.from_single_file(str(bfl), config=config, quantization_config=TernaryConfig())
    layers = model.transformer_blocks[0].attn.to_k, model.single_transformer_blocks[0].proj_mlp
    x = torch.randn(2, WIDTH)
    base = [layer(x) for layer in layers]
    state = bfl_control_lora()
    expected = []
    for name, rows in (
        ("double_blocks.0.img_attn.qkv", slice(WIDTH, 2 * WIDTH)),
        ("single_blocks.0.linear1", slice(3 * WIDTH, None)),
    ):
        a, b = state[f"{name}.lora_A.weight"], state[f"{name}.lora_B.weight"]
        expected.append(x @ a.T @ b[rows].T)
    make_pipeline(model).load_lora_weights(dict(state))
    layers = model.transformer_blocks[0].attn.to_k, model.single_transformer_blocks[0].proj_mlp
    for layer, before, delta in zip(layers, base, expected, strict=True):
        assert isinstance(layer.base_layer, TernaryLinear)
        torch.testing.assert_close(layer(x), before + delta)
    assert model.x_embedder.in_features == 16
