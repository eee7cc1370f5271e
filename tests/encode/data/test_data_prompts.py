"""Texts from templates and files, and how they are split."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ternfmt.encode.data import prompts as module
from ternfmt.encode.data.prompts import (
    KINDS,
    SPLITS,
    WORDS,
    PromptError,
    is_held_out,
    make_prompts,
    read_prompts,
    split_prompts,
)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_different_and_follow_from_the_seed(kind):
    texts = make_prompts(kind, "train", 2000, seed=1)
    assert len(set(texts)) == 2000
    assert make_prompts(kind, "train", 500, seed=1) == texts[:500]
    assert len(set(texts) & set(make_prompts(kind, "train", 2000, seed=2))) < 600
    assert all("{" not in text and "}" not in text for text in texts)


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_is_in_both_splits(kind):
    train, held_out = (make_prompts(kind, split, 300, seed) for seed, split in enumerate(SPLITS))
    assert not any(map(is_held_out, train))
    assert all(map(is_held_out, held_out))


def test_sentences_have_their_lengths_and_kinds():
    texts = make_prompts("text", "train", 3000)
    lengths = [len(text.split()) for text in texts]
    assert WORDS[0] == min(lengths)
    assert 25 < max(lengths) <= WORDS[1]
    assert sum(text.endswith("?") for text in texts) > 100
    assert len({word.lower() for text in texts for word in text.split()}) > 2000


def test_articles_agree():
    texts = " ".join(make_prompts("image", "train", 1000))
    assert " a apple" not in texts
    assert " a elephant" not in texts
    assert " an hourglass" in texts or " a hourglass" not in texts


def test_every_slot_of_the_templates_is_filled():
    for grammar in json.loads((files("ternfmt.encode.data") / "templates.json").read_bytes()).values():
        used = {slot for options in grammar.values() for text in options for slot in module._SLOT.findall(text)}
        assert used <= set(grammar)
        assert all(grammar.values())


def test_templates_that_run_dry_say_so(monkeypatch):
    monkeypatch.setattr(module, "_grammars", lambda: {"image": {"prompt": ["a", "b", "c"]}})
    with pytest.raises(PromptError, match=r"the templates give \d different texts .* fewer than 5"):
        make_prompts("image", "train", 5)


@pytest.mark.parametrize(("kind", "split"), [("sound", "train"), ("image", "test")])
def test_an_unknown_kind_or_split_is_named(kind, split):
    with pytest.raises(ValueError, match=f"got '{kind}' and '{split}'"):
        make_prompts(kind, split, 1)


def test_a_file_holds_a_prompt_a_line_as_often_as_it_stands_there(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes(b"\xef\xbb\xbf# ours\n a red fox \r\n\n#b\nzwei H\xc3\xa4user\na red fox\n")
    assert read_prompts(path) == ["a red fox", "zwei Häuser", "a red fox"]


@pytest.mark.parametrize("content", [b"", b"\n \n", b"# a\n#b"])
def test_a_file_without_prompts_is_named(tmp_path, content):
    path = tmp_path / "p.txt"
    path.write_bytes(content)
    with pytest.raises(PromptError, match=r"p\.txt: no prompts in it"):
        read_prompts(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.txt: no such file of prompts"):
        read_prompts(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe\xe4")
    with pytest.raises(PromptError, match=r"latin\.txt: expected prompts in UTF-8"):
        read_prompts(tmp_path / "latin.txt")


@settings(max_examples=50)
@given(st.lists(st.text(min_size=1), min_size=2, max_size=60, unique=True))
def test_splits_of_a_file_are_its_parts(prompts):
    path = Path("p.txt")
    train, held_out = (split_prompts(prompts, split, path) for split in SPLITS)
    assert sorted(train + held_out) == sorted(prompts)
    assert train
    assert 1 <= len(held_out) <= len(prompts) / 8 + 1
    assert set(split_prompts(prompts[::-1], "held-out", path)) == set(held_out)


def test_one_prompt_cannot_be_split():
    with pytest.raises(PromptError, match=r"p\.txt: one prompt; expected at least two"):
        split_prompts(["a"], "train", Path("p.txt"))
