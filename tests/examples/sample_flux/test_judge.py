import numpy as np
import pytest

from sample_flux.detect import detect
from sample_flux.judge import passes
from sample_flux.prompts import CATEGORIES, Prompt, Wanted, all_prompts
from sample_flux.scenes import SIZE, Scene, Thing, render, sample_scene

RED_CIRCLE, BLUE_SQUARE = Wanted("circle", "red"), Wanted("square", "blue")
PAIR = Prompt("position", "a red circle left of a blue square", (RED_CIRCLE, BLUE_SQUARE), "left of")
PAIR_SCENE = (Thing("circle", "red", 6, 9, 4.5), Thing("square", "blue", 17, 14, 4.5))
THREE = Prompt("counting", "three triangles", (Wanted("triangle"),) * 3)
PLACES = [(6, 6), (17, 7), (6, 17), (17, 18)]


def triangles(count: int, colours: tuple[str, ...] = ("green",) * 4) -> Scene:
    return tuple(Thing("triangle", c, x, y, 4) for (x, y), c in zip(PLACES[:count], colours, strict=False))


@pytest.mark.parametrize("sigma", [0.05, 0.1])
def test_it_is_right_on_the_truth(sigma):
    rng = np.random.default_rng(0)
    right = []
    for category in CATEGORIES:
        prompts = [all_prompts()[category][i] for i in rng.integers(len(all_prompts()[category]), size=50)]
        images = render([sample_scene(prompt, rng) for prompt in prompts])
        images += sigma * rng.standard_normal(images.shape, np.float32)
        right += [passes(prompt, image) for prompt, image in zip(prompts, images, strict=True)]
    assert np.mean(right) >= 0.99


def test_it_finds_shapes_colours_and_places():
    found = sorted(detect(render([PAIR_SCENE])[0]), key=lambda each: each.x)
    assert [(each.shape, each.colour) for each in found] == [("circle", "red"), ("square", "blue")]
    np.testing.assert_allclose([(f.x, f.y) for f in found], [(t.x, t.y) for t in PAIR_SCENE], atol=0.5)


def swap(scene: Scene, attribute: str) -> Scene:
    a, b = ({**vars(thing)} for thing in scene)
    a[attribute], b[attribute] = b[attribute], a[attribute]
    return Thing(**a), Thing(**b)


@pytest.mark.parametrize(
    "scene",
    [
        pytest.param((), id="blank"),
        pytest.param(PAIR_SCENE[:1], id="an object is missing"),
        pytest.param(PAIR_SCENE[1:], id="the other is missing"),
        pytest.param((*PAIR_SCENE, Thing("cross", "green", 17, 4, 3.5)), id="one too many"),
        pytest.param((*PAIR_SCENE, Thing("circle", "red", 6, 18, 4)), id="one twice"),
        pytest.param(swap(PAIR_SCENE, "colour"), id="swapped colours"),
        pytest.param(swap(PAIR_SCENE, "shape"), id="swapped shapes"),
        pytest.param(swap(PAIR_SCENE, "x"), id="swapped places"),
        pytest.param((Thing("circle", "red", 8, 5, 4), Thing("square", "blue", 13, 18, 4.5)), id="above, not left of"),
        pytest.param((Thing("circle", "yellow", 6, 9, 4.5), PAIR_SCENE[1]), id="another colour"),
        pytest.param((Thing("triangle", "red", 6, 9, 4.5), PAIR_SCENE[1]), id="another shape"),
    ],
)
def test_it_fails(scene):
    right, wrong = render([PAIR_SCENE, scene])
    assert passes(PAIR, right)
    assert not passes(PAIR, wrong)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_it_counts(count):
    assert passes(THREE, render([triangles(count)])[0]) == (count == 3)


def test_any_colour_will_do_unless_one_is_asked_for():
    green = Prompt("counting", "three green triangles", (Wanted("triangle", "green"),) * 3)
    mixed = render([triangles(3, ("green", "green", "red"))])[0]
    assert passes(THREE, mixed)
    assert not passes(green, mixed)


def test_objects_that_touch_are_not_two():
    merged = (Thing("circle", "red", 8, 12, 4.5), Thing("square", "red", 15, 12, 4.5))
    both = Prompt("two objects", "a circle and a square", (Wanted("circle"), Wanted("square")))
    assert not passes(both, render([merged])[0])


@pytest.mark.parametrize("category", CATEGORIES)
def test_noise_shows_nothing(category):
    rng = np.random.default_rng(0)
    images = rng.random((20, 3, SIZE, SIZE), np.float32)
    flat = np.full((1, 3, SIZE, SIZE), 0.5, np.float32)
    prompts = all_prompts()[category]
    assert not any(passes(prompts[i % len(prompts)], image) for i, image in enumerate([*images, *flat]))


def test_a_picture_torn_to_pieces_fails():
    image = render([PAIR_SCENE])[0]
    patches = image.reshape(3, 6, 4, 6, 4)
    shuffled = patches[:, np.random.default_rng(0).permutation(6)].reshape(3, SIZE, SIZE)
    assert not passes(PAIR, shuffled)
