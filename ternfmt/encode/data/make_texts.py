"""Make texts for a model of transformers: sentences, or what it writes itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count, cycle
from pathlib import Path
from typing import Any

import torch

from ..plan import Plan
from ..run.lock import FileLock
from .calls import Calls, Check, Progress
from .model import LoadedModel
from .prompts import make_prompts, read_prompts, templates_digest
from .source import DataError, data_digest, prompts_for
from .texts import OPENING_TOKENS, TextError, Texts, generate, tokenize, write_tokens

LONGEST_TEXT = 128
"""Tokens of a sentence, at most."""

PIECE_TOKENS = 256
"""Tokens of each piece of a causal language model's text."""

SENTENCES_AT_LEAST = 4096
"""Sentences are cheap; with many, batches of one length have different ones."""

_TEMPLATES_AT_A_TIME = 1024

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "spiece.model", "tokenizer.model")


def make_texts(
    plan: Plan,
    loaded: LoadedModel,
    folder: Path,
    prompts: Path | None,
    counts: Mapping[str, int],
    seed: int,
    check: Check,
    progress: Progress,
) -> tuple[Calls, Calls]:
    """As `make.make_data`, for a model of transformers; ``counts`` are the least numbers of texts by split."""
    from transformers import AutoTokenizer

    where = tokenizer_folder(plan)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{where}: the tokenizer cannot be loaded: {error}") from error
    model: Any = loaded.model
    config = model.config
    both = bool(getattr(config, "is_encoder_decoder", False))
    writes = not both and callable(getattr(model, "can_generate", None)) and bool(model.can_generate())
    extra = {"decoder_start": _decoder_start(config)} if both else {}
    longest = _longest(tokenizer, config, PIECE_TOKENS if writes else LONGEST_TEXT)
    what = {
        "prompts": templates_digest() if prompts is None else read_prompts(prompts),
        "counts": dict(counts),
        "longest": longest,
    }
    if writes:
        for split in counts:
            opening = tokenizer(next(_endless(prompts, split, seed, tokenizer)))["input_ids"][:OPENING_TOKENS]
            check({"input_ids": torch.tensor([(opening * longest)[:longest]])})  # as long as what will be written
    work = folder / f"texts-{data_digest(plan, what, seed)}"
    for number, (split, wanted) in enumerate(counts.items()):
        path = work / f"{split}.safetensors"
        if path.is_file():
            continue
        work.mkdir(parents=True, exist_ok=True)
        with FileLock(work / "lock", f"writing texts to {work}"):
            if writes:
                rows = generate(
                    model,
                    tokenizer,
                    _endless(prompts, split, seed, tokenizer),
                    work / f"written-{split}",
                    length=longest,
                    pieces=wanted,
                    seed=(2 * seed + number) << 20,
                    progress=lambda what, part, split=split: progress(f"{split}: {what}", part),  # type: ignore[misc]
                )
            else:
                rows = tokenize(
                    tokenizer, prompts_for(prompts, "text", split, max(wanted, SENTENCES_AT_LEAST), seed), longest
                )
            write_tokens(path, rows, extra)
    train, held_out = Texts(work, "train", seed=seed), Texts(work, "held-out", seed=seed)
    if not writes:
        check(train.call(0, 2))
    return train, held_out


def _endless(prompts: Path | None, split: str, seed: int, tokenizer: Any) -> Iterator[str]:
    """Openings for a model to go on from."""
    if prompts is None:
        for number in count():
            yield from make_prompts("text", split, _TEMPLATES_AT_A_TIME, seed * 1000 + number)
    chosen = prompts_for(prompts, "text", split, 0, seed)
    long = [text for text in chosen if len(tokenizer(text)["input_ids"]) >= OPENING_TOKENS]
    if not long:
        raise TextError(
            f"{prompts}: no {split} prompt of at least {OPENING_TOKENS} tokens, from which to go on writing"
        )
    yield from cycle(long)


def tokenizer_folder(plan: Plan) -> Path:
    """Where the tokenizer is: beside the model, or in the pipeline (``text_encoder_2`` has ``tokenizer_2``)."""
    checkpoint = plan.checkpoint
    folder = checkpoint.folder or checkpoint.path
    candidates = [folder]
    if checkpoint.pipeline is not None and checkpoint.component is not None:
        candidates.append(checkpoint.pipeline / checkpoint.component.replace("text_encoder", "tokenizer"))
    for candidate in candidates:
        if any((candidate / name).is_file() for name in _TOKENIZER_FILES):
            return candidate
    raise DataError(
        f"{folder}: no tokenizer ({', '.join(_TOKENIZER_FILES)}): the model is fed with text, so put the tokenizer's "
        "files beside its weights; a model that is not fed with text needs a method without calibration"
    )


def _longest(tokenizer: Any, config: Any, wanted: int) -> int:
    """Tokens that fit the model; some have two positions that are never used."""
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    limits = [wanted, int(tokenizer.model_max_length)]
    if isinstance(positions, int) and positions > 2:
        limits.append(positions - 2)
    return min(limits)


def _decoder_start(config: Any) -> int:
    for name in ("decoder_start_token_id", "pad_token_id", "bos_token_id"):
        if isinstance(getattr(config, name, None), int):
            return int(getattr(config, name))
    return 0
