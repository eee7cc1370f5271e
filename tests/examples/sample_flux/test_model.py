import json
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

import sample_flux
import ternfmt
from sample_flux.cases import make_cases, noise
from sample_flux.compare import judge_pictures
from sample_flux.draw import draw, load_pipeline
from sample_flux.model import SHIFT
from sample_flux.pipeline import patchify, unpatchify
from sample_flux.ternary import assemble_pipeline

PACKAGE = Path(sample_flux.__file__).parent
MODEL = PACKAGE.parent / "model"
DISTILLED = PACKAGE.parent / "distilled"
DISTILLED_6 = PACKAGE.parent / "distilled-6"


def test_patches_are_undone():
    images = torch.rand(2, 3, 24, 24)
    patches = patchify(images)
    assert patches.shape == (2, 36, 48)
    assert unpatchify(patches).equal(images)
    assert set(patches[0, 7].tolist()) == set(images[0, :, 4:8, 4:8].flatten().tolist())  # row 1, column 1


def test_pictures_follow_from_the_seed(tiny_folder):
    pipe = load_pipeline(tiny_folder)
    prompts = ["a red circle", "three crosses"]

    def pictures(seed: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(seed)
        return pipe(prompts, num_inference_steps=2, output_type="np", generator=generator).images

    assert pictures(0).shape == (2, 24, 24, 3)
    assert pictures(0).dtype == np.float32
    assert (pictures(0) == pictures(0)).all()
    assert (pictures(0) != pictures(1)).any()


def test_a_case_looks_the_same_in_any_batch(tiny_folder):
    pipe, cases = load_pipeline(tiny_folder), make_cases("validation", 2)
    together, alone = draw(pipe, cases).pictures, draw(pipe, cases[5:6]).pictures
    assert np.abs(together[5:6].astype(int) - alone).max() <= 1


def test_it_gives_pillow_images(tiny_folder):
    (image,) = load_pipeline(tiny_folder)(
        "a circle", num_inference_steps=1, latents=noise(make_cases("validation", 1)[:1])
    ).images
    assert image.size == (24, 24)


def test_unknown_words_are_refused(tiny_folder):
    with pytest.raises(ValueError, match="unknown: elephant"):
        load_pipeline(tiny_folder)("a red elephant")


def test_the_committed_model_is_a_flux_in_an_ordinary_pipeline_folder():
    pipe = DiffusionPipeline.from_pretrained(MODEL, trust_remote_code=True)
    assert type(pipe.transformer) is FluxTransformer2DModel
    assert type(pipe.scheduler) is FlowMatchEulerDiscreteScheduler
    assert pipe.scheduler.config.shift == SHIFT
    assert json.loads((MODEL / "transformer" / "config.json").read_text())["_class_name"] == "FluxTransformer2DModel"
    assert sum(path.stat().st_size for path in MODEL.rglob("*")) < 16e6


@pytest.mark.parametrize("name", ["pipeline", "text_encoder"])
def test_the_code_in_the_committed_model_is_that_of_the_package(name):
    (copy,) = MODEL.rglob(f"sample_flux_{name}.py")
    assert copy.read_bytes() == (PACKAGE / f"{name}.py").read_bytes()


@pytest.mark.parametrize("transformer", [None, DISTILLED, DISTILLED_6], ids=["model", "distilled", "distilled-6"])
def test_the_committed_models_draw_what_they_are_asked_for(transformer, tmp_path):
    cases, folder = make_cases("validation", 4), MODEL
    if transformer is not None:
        folder = tmp_path / "pipeline"
        assemble_pipeline(MODEL, transformer, folder)
    assert judge_pictures(cases, draw(load_pipeline(folder), cases).pictures).mean() >= 0.75


@pytest.mark.parametrize(("folder", "planes", "ratio"), [(DISTILLED, {1}, 7.6), (DISTILLED_6, {1, 2}, 6)])
def test_every_linear_in_the_blocks_of_the_distilled_models_is_ternary(folder, planes, ratio):
    ternfmt.validate(folder, digests=True)
    with ternfmt.open(folder) as file:
        infos = {name: info for name, info in file.tensors.items() if "blocks." in name and len(info.shape) == 2}
        assert sum(".norm" in name for name in infos) == 2 * 2 + 4  # modulation
        assert {(info.ternary, info.low_rank) for info in infos.values()} == {(True, None)}
        assert {info.planes for info in infos.values()} == planes
        assert 2 * sum(prod(info.shape) for info in infos.values()) / sum(i.nbytes for i in infos.values()) >= ratio
        assert file.document.ancillary["encoder"]["method"] == "distilled"
