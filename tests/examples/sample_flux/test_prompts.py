import itertools
from collections import Counter

import pytest

from sample_flux.cases import MOST_SHARED, make_cases, noise
from sample_flux.prompts import (
    CATEGORIES,
    SHARED,
    SHARES,
    SPLITS,
    all_prompts,
    calibration_prompts,
    half_coloured_pairs,
    placed_pairs,
    split,
)
from sample_flux.text_encoder import TOKENS, tokenize


def test_every_category_has_every_prompt_once():
    counts = {name: len(prompts) for name, prompts in all_prompts().items()}
    assert counts == {
        "single": 4,
        "two objects": 4 * 3,
        "counting": 3 * 4 * 5,
        "colours": 4 * 4,
        "position": 4 * (4 * 3) * (4 * 3),
        "attribution": (4 * 3) * (4 * 3),
    }
    texts = [prompt.text for prompts in all_prompts().values() for prompt in prompts]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("category", CATEGORIES)
def test_splits_are_disjoint_and_complete(category):
    parts = [set(split(name)[category]) for name in SPLITS]
    assert all(parts)
    if category in SHARED:
        assert parts[0] == parts[1] == parts[2] == set(all_prompts()[category])
    else:
        assert all(a.isdisjoint(b) for a, b in itertools.combinations(parts, 2))
        assert set.union(*parts) == set(all_prompts()[category])


def test_splits_never_change():
    # The committed model was trained on one of them.
    held_out = [prompt.text for prompt in split("evaluation")["two objects"]]
    assert held_out == ["a cross and a square", "a cross and a triangle", "a square and a triangle"]


def test_half_coloured_pairs_are_in_no_split():
    known = {prompt.text for prompts in all_prompts().values() for prompt in prompts}
    texts = {prompt.text for prompt in half_coloured_pairs()}
    assert len(texts) == len(half_coloured_pairs()) == 4 * 3 * 4 * 2
    assert {"a red circle and a square", "a circle and a red square"} <= texts
    assert texts.isdisjoint(known)


def test_placed_pairs_are_in_no_split():
    known = {prompt.text for prompts in all_prompts().values() for prompt in prompts}
    texts = {prompt.text for prompt in placed_pairs()}
    assert len(texts) == len(placed_pairs()) == 4 * (4 * 3 * 4 * 2 + 4 * 3)
    assert {"a red circle above a square", "a circle left of a square"} <= texts
    assert texts.isdisjoint(known)


@pytest.mark.parametrize("shares", SHARES)
def test_calibration_sees_no_sentence_that_is_held_out(shares):
    held_out = {
        prompt.text
        for name in ("validation", "evaluation")
        for category, prompts in split(name).items()
        if category not in SHARED
        for prompt in prompts
    }
    texts = [prompt.text for prompt in calibration_prompts(shares)]
    assert held_out.isdisjoint(texts)
    assert all(sum(text == one for text in texts) for one in ("a circle", "a red circle and a square"))
    assert ("a circle left of a square" in texts) == (shares == "more-pairs")


def test_calibration_by_losses_has_two_objects_without_colours_as_often_as_places():
    texts = [prompt.text for prompt in calibration_prompts("as-lost")]
    plain = {prompt.text for prompt in split("train")["two objects"]}
    places = {prompt.text for prompt in split("train")["position"]}
    assert sum(text in plain for text in texts) == sum(text in places for text in texts) > len(texts) // 5


def test_unknown_shares():
    with pytest.raises(ValueError, match=r"no shares 'most': choose from even, more-pairs, as-lost"):
        calibration_prompts("most")


def test_unknown_split():
    with pytest.raises(ValueError, match=r"no split 'test': choose from train, validation, evaluation"):
        split("test")


def test_the_vocabulary_covers_every_prompt():
    texts = [prompt.text for prompts in all_prompts().values() for prompt in prompts]
    tokens = tokenize(texts)
    assert tokens.shape == (len(texts), TOKENS)
    assert len({tuple(row) for row in tokens.tolist()}) == len(texts)


@pytest.mark.parametrize("prompt", ["a purple circle", "a a a a a a a a a"])
def test_tokenize_refuses(prompt):
    with pytest.raises(ValueError, match=prompt):
        tokenize(["a circle", prompt])


def test_cases_have_seeds_of_their_own():
    cases = make_cases("evaluation", 40) + make_cases("validation", 40)
    assert len({case.seed for case in cases}) == len(cases) == 2 * 6 * 40
    held_out = split("evaluation")
    assert all(case.prompt in held_out[case.prompt.category] for case in cases[: 6 * 40])


def test_of_categories_that_all_splits_share_there_are_few_cases():
    cases = make_cases("evaluation", MOST_SHARED + 1)
    counts = Counter(case.prompt.category for case in cases)
    assert counts == {name: MOST_SHARED + (name not in SHARED) for name in CATEGORIES}
    first = make_cases("evaluation", MOST_SHARED)
    assert set(cases) > set(first)
    after = make_cases("evaluation", 3 * MOST_SHARED, MOST_SHARED)
    assert set(first).isdisjoint(after)
    assert Counter(c.prompt.category for c in after) == {n: (2 - (n in SHARED)) * MOST_SHARED for n in CATEGORIES}


def test_noise_depends_on_the_seed_alone():
    cases = make_cases("validation", 2)
    assert noise(cases)[3:5].equal(noise(cases[3:5]))
    assert not noise(cases)[0].equal(noise(cases)[1])


def test_there_are_no_cases_of_the_training_split():
    with pytest.raises(ValueError, match="no cases of split 'train'"):
        make_cases("train", 1)
