import itertools

import numpy as np
import pytest

from sample_flux.prompts import CATEGORIES, COLOURS, SHAPES, all_prompts
from sample_flux.scenes import BACKGROUND, GAP, MARGIN, RGB, SIZE, Thing, render, sample_scene


@pytest.mark.parametrize("category", CATEGORIES)
def test_scenes_show_what_their_prompt_says(category):
    rng = np.random.default_rng(0)
    prompts = all_prompts()[category]
    for prompt in [prompts[rng.integers(len(prompts))] for _ in range(50)]:
        scene = sample_scene(prompt, rng)
        assert [thing.shape for thing in scene] == [wanted.shape for wanted in prompt.wanted]
        assert all(w.colour in (None, thing.colour) for thing, w in zip(scene, prompt.wanted, strict=True))
        for thing in scene:
            assert thing.radius + MARGIN <= min(thing.x, thing.y, SIZE - thing.x, SIZE - thing.y) + 1e-9
        for a, b in itertools.combinations(scene, 2):
            assert max(abs(a.x - b.x), abs(a.y - b.y)) - a.radius - b.radius >= GAP - 1e-9
        if prompt.relation:
            x, y = scene[0].x - scene[1].x, scene[0].y - scene[1].y
            assert {"left of": x < -abs(y), "right of": x > abs(y), "above": y < -abs(x), "below": y > abs(x)}[
                prompt.relation
            ]


def test_scenes_follow_from_the_seed():
    prompt = all_prompts()["counting"][7]
    assert sample_scene(prompt, np.random.default_rng(3)) == sample_scene(prompt, np.random.default_rng(3))
    assert sample_scene(prompt, np.random.default_rng(3)) != sample_scene(prompt, np.random.default_rng(4))


def test_objects_counted_without_a_colour_share_one():
    prompts = [prompt for prompt in all_prompts()["counting"] if prompt.wanted[0].colour is None]
    scenes = [sample_scene(prompt, np.random.default_rng(0)) for prompt in prompts]
    assert all(len({thing.colour for thing in scene}) == 1 for scene in scenes)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_objects_are_painted_where_they_are(shape, colour):
    (image,) = render([(Thing(shape, colour, 10, 14, 6),)])
    np.testing.assert_allclose(image[:, 14, 9], RGB[colour], atol=1e-6)
    np.testing.assert_allclose(image[:, :, 17:], np.broadcast_to(np.reshape(BACKGROUND, (3, 1, 1)), (3, SIZE, 7)))
    assert image.dtype == np.float32


@pytest.mark.parametrize(
    ("shape", "area"), [("circle", np.pi), ("square", 4 * 0.88**2), ("triangle", 1.8), ("cross", 2.3616)]
)
def test_shapes_have_their_areas(shape, area):
    (image,) = render([(Thing(shape, "yellow", 12.3, 11.6, 8),)])
    covered = (image - np.reshape(BACKGROUND, (3, 1, 1)))[0].sum() / (RGB["yellow"][0] - BACKGROUND[0])
    assert covered == pytest.approx(area * 64, rel=0.02)
