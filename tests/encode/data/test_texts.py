"""Calls from texts: grouped by length, drawn by tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ternfmt.encode.data import texts as module
from ternfmt.encode.data.texts import TextError, Texts, generate, read_tokens, write_tokens

ROWS = [[2, 5, 3], [2, 6, 3], [2, 7, 8, 9, 3], [2, 4, 3]]


@pytest.fixture
def folder(tmp_path):
    write_tokens(tmp_path / "train.safetensors", ROWS, {})
    return tmp_path


def test_a_batch_holds_rows_of_one_length(folder):
    bank = Texts(folder)
    seen = set()
    for number in range(40):
        call = bank.call(number, 3)
        assert call.keys() == {"input_ids"}
        assert call["input_ids"].dtype == torch.int64
        rows = call["input_ids"].tolist()
        assert all(row in ROWS for row in rows)
        if len(rows[0]) == 3:
            assert sorted(rows) == sorted(row for row in ROWS if len(row) == 3)  # none twice where there are enough
        seen.add(len(rows[0]))
    assert seen == {3, 5}


def test_lengths_are_drawn_by_their_tokens(folder):
    bank = Texts(folder)
    long = sum(bank.call(number, 1)["input_ids"].shape[1] == 5 for number in range(600)) / 600
    assert long == pytest.approx(5 / 14, abs=0.06)


def test_a_call_follows_from_its_number_size_and_seed_alone(folder):
    one, two, other = Texts(folder), Texts(folder), Texts(folder, seed=1)
    two.call(9, 2)
    assert all(torch.equal(one.call(n, 2)["input_ids"], two.call(n, 2)["input_ids"]) for n in range(20))
    found = [[bank.call(n, 2)["input_ids"].tolist() for n in range(20)] for bank in (one, other)]
    assert found[0] != found[1]


def test_a_decoder_gets_the_text_one_place_later(tmp_path):
    write_tokens(tmp_path / "train.safetensors", ROWS[2:3], {"decoder_start": 1})
    call = Texts(tmp_path).call(0, 2)
    assert call["input_ids"].tolist() == [[2, 7, 8, 9, 3]] * 2
    assert call["decoder_input_ids"].tolist() == [[1, 2, 7, 8, 9]] * 2


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=9), min_size=1, max_size=9), st.integers())
def test_tokens_come_back_from_the_disk(tmp_path_factory, rows, start):
    path = tmp_path_factory.mktemp("tokens") / "a" / "x.safetensors"
    write_tokens(path, rows, {"decoder_start": start})
    found, extra = read_tokens(path)
    assert [row.tolist() for row in found] == rows
    assert extra == {"decoder_start": start}
    assert [other.name for other in path.parent.iterdir()] == [path.name]


def test_files_without_texts_are_named(folder):
    with pytest.raises(TextError, match=r"held-out.safetensors: no texts there"):
        Texts(folder, "held-out")
    with pytest.raises(ValueError, match="no split 'test'"):
        Texts(folder, "test")
    (folder / "held-out.safetensors").write_bytes(b"half")
    with pytest.raises(TextError, match=r"held-out.safetensors: not a file of tokens: .* remove it"):
        Texts(folder, "held-out")
    write_tokens(folder / "held-out.safetensors", [], {})
    with pytest.raises(TextError, match=r"held-out.safetensors: no text in it"):
        Texts(folder, "held-out")


class Words:
    """A tokenizer: a word is its length."""

    def __call__(self, text):
        return {"input_ids": [len(word) + 3 for word in text.split()]}


def openings(count):
    return [" ".join("x" * (1 + (n * k) % 7) for k in range(9)) for n in range(count)]


def write(load, folder, pieces=6, count=80, seed=0, progress=lambda what, part: None):
    model = load("llama").model
    return generate(model, Words(), openings(count), folder, length=12, pieces=pieces, seed=seed, progress=progress)


def test_a_language_model_goes_on_from_openings(load, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GENERATED_PER_RUN", 4)
    rows = write(load, tmp_path)
    assert [len(row) for row in rows] == [12] * 6
    stream = [token for row in rows for token in row]
    assert stream[: module.OPENING_TOKENS] == Words()(openings(1)[0])["input_ids"][: module.OPENING_TOKENS]
    assert rows == write(load, tmp_path / "again")
    assert rows != write(load, tmp_path / "other", seed=1)
    assert load("llama").model.config.use_cache is False


def test_a_killed_run_of_writing_goes_on(load, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GENERATED_PER_RUN", 2)
    whole = write(load, tmp_path / "whole")
    real, runs = module._continue, []

    def dies(*arguments):
        if len(runs) == 1:
            raise KeyboardInterrupt
        runs.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(module, "_continue", dies)
    with pytest.raises(KeyboardInterrupt):
        write(load, tmp_path / "part")
    monkeypatch.setattr(module, "_continue", real)
    assert write(load, tmp_path / "part") == whole
    assert sorted(p.name for p in (tmp_path / "part").iterdir()) == sorted(
        p.name for p in (tmp_path / "whole").iterdir()
    )


def test_the_end_of_text_ends_a_row(load):
    model = load("llama").model
    model.generation_config.eos_token_id = list(range(90))
    rows = module._continue(model, [[1, 2, 3, 4, 5, 6, 7, 8]] * 3, 20, 0)
    assert all(row[:8] == [1, 2, 3, 4, 5, 6, 7, 8] for row in rows)
    assert all(sum(token < 90 for token in row[8:]) == 1 for row in rows if len(row) < 28)
    assert all(row[-1] < 90 for row in rows)


def test_sampling_leaves_the_random_state_alone(load):
    model = load("llama").model
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    module._continue(model, [[1] * 8], 4, 0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_too_few_openings_are_refused(load, tmp_path):
    with pytest.raises(TextError, match=r"the openings .* gave \d+ tokens, fewer than 6 pieces of 12"):
        write(load, tmp_path, count=1)
    with pytest.raises(TextError, match=r"gave 0 tokens"):
        generate(load("llama").model, Words(), ["short"], tmp_path / "x", length=4, pieces=1, seed=0, progress=print)
