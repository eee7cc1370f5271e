"""Calls of a transformers model, made from texts: sentences of templates, and what the model itself goes on to write.

Calibration on random tokens is worse than none, so inputs have to look like text. Encoders get sentences. A causal
language model gets, for the most part, its own continuations of short openings (as in LLM-QAT, Liu et al. 2023,
arXiv:2305.17888), cut into pieces of one length. Nothing is padded: rows of a batch have as many tokens.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .calls import Progress
from .prompts import SPLITS

OPENING_TOKENS = 8
"""A causal language model goes on after so many tokens of a sentence."""

GENERATED_PER_RUN = 32
"""Texts that are generated at a time."""

_TOP_P = 0.98  # leaves out what is hardly ever meant


class TextError(ValueError):
    """A model cannot be fed with texts."""


class Texts:
    """Calls from tokens.

    Args:
        folder: holds ``train.safetensors`` and ``held-out.safetensors``, as `write_tokens` writes them.
        split: ``train`` or ``held-out``.
        seed: of the choice.

    Raises:
        TextError: there is no such file, or no text in it.
    """

    def __init__(self, folder: Path, split: str = "train", *, seed: int = 0) -> None:
        if split not in SPLITS:
            raise ValueError(f"no split {split!r}: expected one of {', '.join(SPLITS)}")
        rows, self._extra = read_tokens(folder / f"{split}.safetensors")
        by_length: dict[int, list[Tensor]] = {}
        for row in rows:
            by_length.setdefault(len(row), []).append(row)
        self._groups = [torch.stack(by_length[length]) for length in sorted(by_length)]
        tokens = np.array([group.numel() for group in self._groups], np.float64)
        self._ends = np.cumsum(tokens / tokens.sum())
        self._seed, self._stream = seed, SPLITS.index(split)

    def call(self, number: int, size: int) -> dict[str, Any]:
        """As `Calls.call`: ``input_ids``, int64 ``[size, length]``.

        A length is drawn as often as it has tokens, so every token of the texts is as probable. Rows repeat within a
        batch only where there are fewer of a length. An encoder-decoder model also gets ``decoder_input_ids``: the
        text again, one place later.
        """
        rng = np.random.default_rng([self._seed, self._stream, number, size])
        group = self._groups[min(int(np.searchsorted(self._ends, rng.random(), side="right")), len(self._groups) - 1)]
        tokens = group[torch.from_numpy(rng.choice(len(group), size, replace=size > len(group)))]
        start = self._extra.get("decoder_start")
        if start is None:
            return {"input_ids": tokens}
        shifted = torch.cat([torch.full((size, 1), int(start)), tokens[:, :-1]], 1)
        return {"input_ids": tokens, "decoder_input_ids": shifted}


def tokenize(tokenizer: Any, texts: Sequence[str], longest: int) -> list[list[int]]:
    """Token ids of texts, with the tokenizer's own special tokens, cut to ``longest``; empty ones are left out."""
    rows: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]
    return [row for row in rows if row]


def generate(
    model: nn.Module,
    tokenizer: Any,
    texts: Iterable[str],
    folder: Path,
    *,
    length: int,
    pieces: int,
    seed: int,
    progress: Progress,
) -> list[list[int]]:
    """Pieces of text that a causal language model writes after the openings of texts.

    Every run of `GENERATED_PER_RUN` texts is a file, so a run that was killed goes on.

    Args:
        model: with transformers' ``generate``; on its device.
        tokenizer: its own.
        texts: as many as are needed are taken, those with at least `OPENING_TOKENS` tokens.
        folder: for the files.
        length: tokens of each piece.
        pieces: how many.
        seed: of the sampling.
        progress: called after each run.

    Returns:
        ``pieces`` rows of ``length`` tokens: the texts one after another, with the end of text between them.

    Raises:
        TextError: there are too few texts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stream: list[int] = []
    for number, openings in enumerate(_openings(tokenizer, texts)):
        path = folder / f"{number:05}.safetensors"
        if not path.is_file():
            write_tokens(path, _continue(model, openings, length, seed + number), {})
        for row in read_tokens(path)[0]:
            stream += row.tolist()
        done = min(len(stream) // length, pieces)
        progress(f"text of the model: {done} of {pieces} pieces", done / pieces)
        if len(stream) >= length * pieces:
            return [stream[n * length : (n + 1) * length] for n in range(pieces)]
    raise TextError(
        f"the openings (texts of at least {OPENING_TOKENS} tokens) gave {len(stream)} tokens, "
        f"fewer than {pieces} pieces of {length}"
    )


def write_tokens(path: Path, rows: Sequence[Sequence[int]], extra: Mapping[str, Any]) -> None:
    """Write rows of tokens, and what else calls need, so that the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.partial")
    flat = torch.tensor([token for row in rows for token in row], dtype=torch.int32)
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int32)
    save_file({"tokens": flat, "lengths": lengths}, part, {"extra": json.dumps(dict(extra))})
    os.replace(part, path)


def read_tokens(path: Path) -> tuple[list[Tensor], dict[str, Any]]:
    """What `write_tokens` has written: rows, int64, and the rest.

    Raises:
        TextError: it is not such a file, or holds no text.
    """
    if not path.is_file():
        raise TextError(f"{path}: no texts there")
    try:
        with safe_open(path, "pt") as file:
            flat, lengths = file.get_tensor("tokens").long(), file.get_tensor("lengths").tolist()
            extra = json.loads(file.metadata()["extra"])
    except Exception as error:
        raise TextError(f"{path}: not a file of tokens: {error}: remove it") from error
    if not lengths:
        raise TextError(f"{path}: no text in it")
    return list(flat.split(lengths)), extra


def _openings(tokenizer: Any, texts: Iterable[str]) -> Iterator[list[list[int]]]:
    """Beginnings of texts, as many at a time as are generated together, all `OPENING_TOKENS` long."""
    waiting: list[list[int]] = []
    for text in texts:
        ids = tokenizer(text)["input_ids"][:OPENING_TOKENS]
        if len(ids) == OPENING_TOKENS:
            waiting.append(ids)
        if len(waiting) == GENERATED_PER_RUN:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _continue(model: nn.Module, openings: Sequence[Sequence[int]], length: int, seed: int) -> list[list[int]]:
    """Openings with what the model writes after them, up to and with the end of text."""
    device = next(model.parameters()).device
    inputs = torch.tensor(openings, device=device)
    generator: Callable[..., Tensor] = model.generate  # type: ignore[assignment]
    settings = model.generation_config
    ends = settings.eos_token_id  # type: ignore[union-attr]
    ends = set(ends) if isinstance(ends, list) else {ends}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(seed)
        made = generator(
            input_ids=inputs,
            attention_mask=torch.ones_like(inputs),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=_TOP_P,
            max_new_tokens=length,
            use_cache=True,
            pad_token_id=next(iter(ends)) if None not in ends else 0,
        )
    rows = []
    for row in made.tolist():
        stop = next((n for n in range(OPENING_TOKENS, len(row)) if row[n] in ends), len(row))
        rows.append(row[: stop + 1])
    return rows
