"""Calls from the teacher's own sampling."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ternfmt.encode.data import trajectories as module
from ternfmt.encode.data.disk import DiskError
from ternfmt.encode.data.noise_schedule import draw_levels
from ternfmt.encode.data.recorder import TrajectoryError
from ternfmt.encode.data.trajectories import Trajectories, record_trajectories

if importlib.util.find_spec("diffusers") is None:
    pytest.skip("needs diffusers", allow_module_level=True)

import numpy as np
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

from ternfmt.encode.data.own_sampling import OwnSampling
from tests.encode.data.fake_pipelines import CHANNELS, TOKENS, WIDTH, WORDS, Pipeline

PROMPTS = ["a red fox", "two green birds", "a lamp", "an old door", "rain", "three cups and a plate"]
GUIDANCE = ["doubled", "two", "embedded"]


def recorded(pipeline, folder: Path, count: int = 6, batch: int = 3, split: str = "train", **arguments) -> Path:
    record_trajectories(pipeline, pipeline.transformer, PROMPTS, count, folder / split, batch=batch, **arguments)
    return folder


def sampled(pipeline, folder, split="train"):
    """z_0 by prompt: what the pipeline itself ends with, run by run as the recording does it."""
    found = {}
    for number in range(2):
        prompts = PROMPTS[3 * number : 3 * number + 3]
        generator = torch.Generator().manual_seed(module._seed(0, number))
        found.update(zip(prompts, pipeline(prompts, generator=generator), strict=True))
    return found


@pytest.mark.parametrize("kind", GUIDANCE)
def test_latents_are_those_of_the_pipelines_own_sampling(kind, tmp_path):
    pipeline = Pipeline(kind)
    expected = sampled(pipeline, tmp_path)
    bank = Trajectories(recorded(pipeline, tmp_path))
    rows = [row for group in bank._groups for row in (*group[0], *group[1])]
    assert len(rows) == (6 if kind == "embedded" else 12)
    for row in rows:
        assert torch.equal(row.latent, expected[row.prompt])
    assert set(bank.prompts) == set(PROMPTS)


@pytest.mark.parametrize("kind", GUIDANCE)
def test_calls_are_on_the_flow_and_told_as_the_pipeline_tells(kind, tmp_path):
    pipeline = Pipeline(kind)
    pipeline.extra = 2
    bank = Trajectories(recorded(pipeline, tmp_path))
    latents = torch.stack([row.latent for group in bank._groups for row in (*group[0], *group[1])])
    for number in range(5):
        call = bank.call(number, 4)
        assert call["hidden_states"].shape == (4, TOKENS, CHANNELS + 2)
        assert call["encoder_hidden_states"].shape == (4, WORDS, WIDTH)
        assert call["img_ids"].shape == (TOKENS, 3)
        assert ("guidance" in call) == (kind == "embedded")
        if kind == "two":
            assert set(call["lengths"]) <= {1, WORDS}
        pipeline.transformer(**call)
        # The noise that would lead here from one of the latents is like noise, and from no other.
        for hidden, t in zip(call["hidden_states"], call["timestep"], strict=True):
            noise = (hidden[:, :CHANNELS] - (1 - t) * latents) / t
            assert noise.abs().amax((1, 2)).min() < 5
            places = hidden[:, CHANNELS:]
            assert torch.equal(places - places[0, 0], torch.arange(TOKENS * 2.0).reshape(TOKENS, 2))


def test_a_call_follows_from_its_number_size_and_seed_alone(tmp_path):
    folder = recorded(Pipeline("doubled"), tmp_path)
    first, second, other = Trajectories(folder), Trajectories(folder, memory=0), Trajectories(folder, seed=1)
    for number in (3, 0, 7):
        one, two = first.call(number, 5), second.call(number, 5)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(first.call(0, 5)["hidden_states"], first.call(1, 5)["hidden_states"])
    assert not torch.equal(first.call(0, 5)["hidden_states"], other.call(0, 5)["hidden_states"])


def test_a_call_may_be_changed_by_who_asked(tmp_path):
    bank = Trajectories(recorded(Pipeline("doubled"), tmp_path))
    before = bank.call(0, 3)
    for value in bank.call(0, 3).values():
        if isinstance(value, torch.Tensor):
            value.fill_(7)
    after = bank.call(0, 3)
    assert all(torch.equal(before[name], after[name]) for name in before if isinstance(before[name], torch.Tensor))


@pytest.mark.parametrize("kind", ["doubled", "two"])
def test_the_part_without_a_prompt_can_be_set(kind, tmp_path):
    pipeline = Pipeline(kind)
    folder = recorded(pipeline, tmp_path)
    empty = pipeline.encode([""])[0]

    def part(unconditioned):
        bank = Trajectories(folder, unconditioned=unconditioned)
        rows = [row for n in range(60) for row in bank.call(n, 5)["encoder_hidden_states"]]
        return sum(torch.equal(row, empty) for row in rows) / len(rows)

    assert part(0) == 0
    assert part(1) == 1
    assert part(0.1) == pytest.approx(0.1, abs=0.06)
    if kind == "doubled":
        assert part(None) == pytest.approx(0.5, abs=0.08)


def test_without_guidance_by_the_empty_prompt_there_is_no_such_part(tmp_path):
    folder = recorded(Pipeline("embedded"), tmp_path)
    with pytest.raises(TrajectoryError, match=r"unconditioned 0.5: sampling has no such rows"):
        Trajectories(folder, unconditioned=0.5)
    with pytest.raises(ValueError, match=r"expected a part from 0 to 1, got 2"):
        Trajectories(folder, unconditioned=2)


@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (1000, 0), (-1, 1), (-1000, 1000)])
def test_the_scale_of_timesteps_is_found(scale, offset, tmp_path):
    pipeline = Pipeline("doubled")
    pipeline.scale, pipeline.offset = scale, offset
    call = Trajectories(recorded(pipeline, tmp_path)).call(0, 64)
    levels = (call["timestep"] - offset) / scale
    assert 0 < levels.min() < 0.3
    assert 0.85 < levels.max() < 1


def test_an_unknown_scale_of_timesteps_is_refused(tmp_path):
    pipeline = Pipeline("doubled")
    pipeline.scale = 7
    with pytest.raises(TrajectoryError, match=r"timestep 7 at noise level 1: expected the level"):
        recorded(pipeline, tmp_path)


DIFFUSIONS = [DDIMScheduler(), DDPMScheduler(), DPMSolverMultistepScheduler(), UniPCMultistepScheduler()]


IN_DIFFUSERS = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@IN_DIFFUSERS
@pytest.mark.parametrize("scheduler", DIFFUSIONS, ids=lambda scheduler: type(scheduler).__name__)
def test_calls_of_a_diffusion_are_pictures_and_noise_of_one_variance(scheduler, tmp_path):
    pipeline = Pipeline("doubled", scheduler)
    bank = Trajectories(recorded(pipeline, tmp_path))
    pictures = [sample[0].latent for sample in bank.samples]
    call = bank.call(0, 500)
    steps = (1000 * call["timestep"]).round().long()
    assert torch.equal(call["timestep"], (steps / 1000).round(decimals=3))
    assert (steps.sort().values // 2).equal(torch.arange(500))  # one from each of so many equal parts of 1,000
    kept = scheduler.alphas_cumprod[steps].reshape(-1, 1, 1)
    noise = [(call["hidden_states"] - kept.sqrt() * picture) / (1 - kept).sqrt() for picture in pictures]
    # Of which picture it is nobody says: the one that leaves what looks most like noise.
    variance = torch.stack([part.square().mean((1, 2)) for part in noise]).min(0).values
    assert variance.mean() == pytest.approx(1, abs=0.1)


def test_a_scheduler_that_adds_noise_gets_the_seeds(tmp_path):
    first, second = (recorded(Pipeline("doubled", DDPMScheduler()), tmp_path / name) for name in ("1", "2"))
    for path in (first / "train").glob("*.safetensors"):
        assert path.read_bytes() == (second / "train" / path.name).read_bytes()


def test_a_tuple_with_a_row_for_each_prompt_is_refused(tmp_path):
    pipeline = Pipeline("two")
    pipeline.rotary = pipeline.rotary_of_rows = True
    with pytest.raises(TrajectoryError, match="'rotary': a tuple of tensors that depend on the prompts"):
        recorded(pipeline, tmp_path)


def test_a_solver_may_follow_a_flow(tmp_path):
    scheduler = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    bank = Trajectories(recorded(Pipeline("two", scheduler), tmp_path))
    rows = [row for group in bank._groups for row in (*group[0], *group[1])]
    assert {(row.shift, row.signal) for row in rows} == {(3.0, None)}


def test_own_sampling_is_for_flows(tmp_path):
    pipeline = Pipeline("doubled", DDIMScheduler())
    with pytest.raises(TrajectoryError, match="--own-sampling needs a scheduler that samples along a flow"):
        OwnSampling(Trajectories(recorded(pipeline, tmp_path)))


def test_tensors_that_all_rows_share_may_come_as_a_tuple(tmp_path):
    pipeline = Pipeline("two")
    pipeline.rotary = True
    cosines, sines = Trajectories(recorded(pipeline, tmp_path)).call(0, 4)["rotary"]
    ids = torch.arange(TOKENS * 3.0).reshape(TOKENS, 3)
    assert torch.equal(cosines, ids.cos())
    assert torch.equal(sines, ids.sin())


def test_noise_levels_follow_the_schedulers_shift(tmp_path):
    fixed = Trajectories(recorded(Pipeline("doubled", shift=3.0), tmp_path / "fixed"))
    assert fixed.call(0, 501)["timestep"].median().item() == pytest.approx(3 / 4, abs=0.01)
    moved = Trajectories(recorded(Pipeline("doubled", use_dynamic_shifting=True), tmp_path / "moved"))
    assert moved.call(0, 501)["timestep"].median().item() == pytest.approx(np.exp(0.7) / (1 + np.exp(0.7)), abs=0.01)
    plain = Trajectories(tmp_path / "fixed", shift=1.0)
    assert plain.call(0, 501)["timestep"].median().item() == pytest.approx(1 / 2, abs=0.01)


@settings(max_examples=50)
@given(st.integers(1, 200), st.floats(0.2, 8), st.integers(0, 2**32))
def test_noise_levels_are_spread_over_a_batch(size, shift, seed):
    levels = np.sort(draw_levels(np.random.default_rng(seed), size, shift).astype(np.float64))
    assert ((levels > 0) & (levels < 1)).all()
    normal = torch.from_numpy(np.log(levels / (1 - levels)) - np.log(shift))
    parts = torch.special.ndtr(normal).numpy() * size  # one in each of `size` equal parts
    assert (np.abs(parts - np.arange(size) - 0.5) <= 0.5 + 1e-2 * size).all()


def test_batches_hold_rows_of_one_shape(tmp_path):
    pipeline = Pipeline("embedded")
    pipeline.unequal = True
    bank = Trajectories(recorded(pipeline, tmp_path, batch=1))
    lengths = {bank.call(n, 3)["encoder_hidden_states"].shape[1] for n in range(40)}
    assert lengths == {len(prompt.split()) for prompt in PROMPTS}


def test_a_killed_run_goes_on(tmp_path):
    whole = recorded(Pipeline("doubled"), tmp_path / "whole")
    folder = recorded(Pipeline("doubled"), tmp_path / "part", count=3)
    (folder / "train" / "00001.partial").write_bytes(b"half")
    pipeline = Pipeline("doubled")
    done = []
    recorded(pipeline, folder, progress=lambda what, part: done.append((what, part)))
    assert pipeline.runs == [1, 2, 3]  # two looks at the arguments, and the run that was missing
    assert done == [("pictures of the teacher 3 of 6", 0.5), ("pictures of the teacher 6 of 6", 1.0)]
    for path in sorted((whole / "train").glob("*.safetensors")):
        assert path.read_bytes() == (folder / "train" / path.name).read_bytes()


def test_the_pipeline_is_left_as_it_was(tmp_path):
    pipeline = Pipeline("two")
    recorded(pipeline, tmp_path)
    assert "forward" not in pipeline.transformer.__dict__
    assert "step" not in vars(pipeline.scheduler)
    assert "set_timesteps" not in vars(pipeline.scheduler)


def refuses(tmp_path, message, prompts=PROMPTS, **attributes):
    pipeline = Pipeline("doubled")
    for name, value in attributes.items():
        setattr(pipeline, name, value)
    with pytest.raises(TrajectoryError, match=message):
        record_trajectories(pipeline, pipeline.transformer, prompts, 2, tmp_path / "train")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_what_cannot_be_recorded_is_refused(tmp_path):
    refuses(tmp_path, r"fails with a prompt.*unknown word 'forbidden'.*--prompts", prompts=["forbidden", "a"])
    refuses(tmp_path, r"fails with a prompt.*unknown word 'forbidden'.*--prompts", prompts=["a", "forbidden"])
    refuses(tmp_path, r"sampling ends at noise level 0\.\d+: expected 0", steps_to=0.7)
    refuses(tmp_path, r"argument 'img_ids' changes between steps", changing=True)
    refuses(tmp_path, r"sampling gives NaN or Inf for 'a red fox'", broken=True)


def test_a_component_that_does_not_sample_is_refused(tmp_path):
    with pytest.raises(TrajectoryError, match="Pipeline never calls its Linear"):
        record_trajectories(Pipeline("two"), torch.nn.Linear(1, 1), PROMPTS, 2, tmp_path)
    pipeline = Pipeline("two")
    with pytest.raises(TrajectoryError, match="Linear is called with input: expected a tensor 'hidden_states'"):
        record_trajectories(pipeline, pipeline.transformer.mix, PROMPTS, 2, tmp_path)


def test_options_of_the_pipeline_reach_it(tmp_path):
    pipeline = Pipeline("embedded")
    bank = Trajectories(recorded(pipeline, tmp_path, options={"guidance_scale": 5.5, "num_inference_steps": 2}))
    assert set(bank.call(0, 8)["guidance"].tolist()) == {5.5}
    with pytest.raises(TrajectoryError, match="unexpected keyword argument 'size'"):
        recorded(pipeline, tmp_path / "other", options={"size": 3})


def test_a_full_disk_is_foreseen(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DiskError, match=r"6 pictures' latents and conditioning need about .* are free"):
        recorded(Pipeline("doubled"), tmp_path)


def test_folders_without_recordings_are_named(tmp_path):
    with pytest.raises(TrajectoryError, match=r"held-out: nothing is recorded there"):
        Trajectories(recorded(Pipeline("doubled"), tmp_path), "held-out")
    with pytest.raises(ValueError, match=r"no split 'test'"):
        Trajectories(tmp_path, "test")
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "train" / "00009.safetensors")
    with pytest.raises(TrajectoryError, match=r"00009.safetensors: not a recording"):
        Trajectories(tmp_path)


def test_recordings_of_earlier_versions_are_named(tmp_path):
    """They lack noise levels and what guidance makes of answers."""
    import json

    from safetensors import safe_open
    from safetensors.torch import save_file

    path = recorded(Pipeline("doubled"), tmp_path) / "train" / "00000.safetensors"
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["recording"])
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    del header["levels"], header["mix"]
    save_file(tensors, path, {"recording": json.dumps(header)})
    with pytest.raises(TrajectoryError, match=r"00000.safetensors: not a recording.*levels.*: remove it"):
        Trajectories(tmp_path)


def test_batches_fit_the_size_of_latents(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ELEMENTS_PER_RUN", 2 * TOKENS * CHANNELS)
    pipeline = Pipeline("doubled")
    recorded(pipeline, tmp_path, batch=None)
    assert pipeline.runs == [1, 2, 2, 2, 2]


def flux_pipeline(guidance_embeds):
    """The real one, but for its text encoders."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    class Flux(FluxPipeline):
        def encode_prompt(self, prompt, **arguments):
            texts = [prompt] if isinstance(prompt, str) else prompt
            rows = torch.tensor([float(sum(map(ord, text)) % 97) / 97 for text in texts])
            return rows[:, None, None].expand(-1, 6, 12), rows[:, None].expand(-1, 10), torch.zeros(6, 3)

    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=10,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=guidance_embeds,
    )
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return Flux(scheduler=scheduler, transformer=transformer.eval().requires_grad_(False), **parts)


@pytest.mark.parametrize("guidance", ["embedded", "two"])
def test_the_pipeline_of_flux_can_be_recorded(guidance, tmp_path):
    pipeline = flux_pipeline(guidance == "embedded")
    options = {"height": 64, "width": 32, "num_inference_steps": 2}
    if guidance == "two":
        options.update(negative_prompt="", true_cfg_scale=3.0)
    bank = Trajectories(recorded(pipeline, tmp_path, options=options))
    call = bank.call(0, 4)
    assert call["hidden_states"].shape == (4, 8, 16)
    assert call["encoder_hidden_states"].shape == (4, 6, 12)
    assert call["img_ids"].shape == (8, 3)
    if guidance == "embedded":
        assert call["guidance"].tolist() == [3.5] * 4
    else:
        empty = [bool((row == 0).all()) for n in range(9) for row in bank.call(n, 4)["encoder_hidden_states"]]
        assert 0 < sum(empty) < len(empty)
    with torch.no_grad():
        assert pipeline.transformer(**call).sample.isfinite().all()


def encoded(prompt) -> torch.Tensor:
    """A stand-in for a text encoder: ``[B, 6, 12]``."""
    texts = [prompt] if isinstance(prompt, str) else prompt
    return torch.tensor([float(sum(map(ord, text)) % 97) / 97 for text in texts])[:, None, None].expand(-1, 6, 12)


def cogvideox_pipeline():
    """Rotary tables as a tuple, frames, and a scheduler of its own."""
    from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel

    class CogVideoX(CogVideoXPipeline):
        def encode_prompt(self, prompt, *arguments, **named):
            return encoded(prompt), torch.zeros_like(encoded(prompt))

    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=12,
        num_layers=1,
        sample_width=8,
        sample_height=8,
        sample_frames=9,
        max_text_seq_length=6,
        use_rotary_positional_embeddings=True,
    )
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
    scheduler = CogVideoXDDIMScheduler(prediction_type="v_prediction")
    return CogVideoX(transformer=transformer, scheduler=scheduler, **parts), {"num_frames": 9}


def pixart_pipeline():
    """Learned variances beside the noise, and masks."""
    from diffusers import PixArtSigmaPipeline, PixArtTransformer2DModel

    class PixArt(PixArtSigmaPipeline):
        def encode_prompt(self, prompt, *arguments, **named):
            mask = torch.ones(len(encoded(prompt)), 6)
            return encoded(prompt), mask, torch.zeros_like(encoded(prompt)), mask

    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        cross_attention_dim=16,
        sample_size=8,
        caption_channels=12,
        norm_num_groups=1,
    )
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
    return PixArt(transformer=transformer, scheduler=DPMSolverMultistepScheduler(), **parts), {
        "use_resolution_binning": False
    }


@IN_DIFFUSERS
@pytest.mark.parametrize("make", [cogvideox_pipeline, pixart_pipeline])
def test_pipelines_of_diffusions_can_be_recorded(make, tmp_path):
    torch.manual_seed(0)
    pipeline, options = make()
    pipeline.transformer.eval().requires_grad_(False)
    options |= {"height": 64, "width": 64, "num_inference_steps": 2}
    call = Trajectories(recorded(pipeline, tmp_path, options=options)).call(0, 4)
    assert call["hidden_states"].shape[0] == 4
    assert call["timestep"].equal(call["timestep"].round())
    with torch.no_grad():
        assert pipeline.transformer(**call).sample.isfinite().all()
