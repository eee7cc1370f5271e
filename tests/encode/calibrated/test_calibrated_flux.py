"""A FLUX transformer of diffusers: its blocks, the groups of linears in them, and a solution for all."""

import pytest
import torch

from ternfmt.encode.calibrated.inputs import find_groups
from ternfmt.encode.calibrated.settings import CalibratedSettings
from ternfmt.encode.calibrated.solve import calibrate
from ternfmt.encode.data.model import make_loaded
from ternfmt.encode.data.replay import Replay
from ternfmt.encode.run.solution import Solution
from ternfmt.encode.settings import LayerSettings

diffusers = pytest.importorskip("diffusers")


class RandomCalls:
    def call(self, number, size):
        generator = torch.Generator().manual_seed(number)

        def random(*shape):
            return torch.randn(*shape, generator=generator)

        return {
            "hidden_states": random(size, 4, 8),
            "encoder_hidden_states": random(size, 3, 16),
            "pooled_projections": random(size, 8),
            "timestep": torch.rand(size, generator=generator),
            "img_ids": torch.zeros(4, 3),
            "txt_ids": torch.zeros(3, 3),
        }


@pytest.fixture(scope="module")
def loaded():
    torch.manual_seed(0)
    model = diffusers.FluxTransformer2DModel(
        in_channels=8,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
    )
    names = [
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "transformer_blocks" in name
    ]
    return make_loaded(model, names)


def test_double_block_groups(loaded, tmp_path):
    replay = Replay(loaded.model, loaded.blocks, [RandomCalls().call(0, 2)], tmp_path)
    args, kwargs = next(iter(replay.inputs(0)))
    block = loaded.blocks[0]
    groups = find_groups(block.module, block.linears, lambda: block.module(*args, **kwargs))
    short = [{n.removeprefix("transformer_blocks.0.").removesuffix(".weight") for n in group.names} for group in groups]
    assert {"attn.to_q", "attn.to_k", "attn.to_v"} in short
    assert {"attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"} in short
    place = {name: i for i, names in enumerate(short) for name in names}
    assert place["norm1.linear"] < place["attn.to_q"] < place["attn.to_out.0"] < place["ff.net.0.proj"]
    assert place["ff.net.0.proj"] < place["ff.net.2"]


def test_every_linear_is_solved(loaded, tmp_path):
    solution = Solution(tmp_path / "solution")
    layers = {name: LayerSettings() for name in loaded.linears}
    dtypes = dict.fromkeys(loaded.names.values(), "BF16")
    settings = CalibratedSettings(samples=4, batch=2, rounds=1, sweeps=1)
    calibrate(loaded, RandomCalls(), layers, solution, settings, tmp_path / "work", lambda what, part: None, dtypes)
    assert set(loaded.linears) <= set(solution)
    assert solution.parts() == {"transformer_blocks.0", "single_transformer_blocks.0", "single_transformer_blocks.1"}
