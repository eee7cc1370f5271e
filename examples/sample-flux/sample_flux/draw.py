"""Loads a pipeline folder, draws the pictures of cases, and measures what that takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from diffusers import DiffusionPipeline
from diffusers.utils import logging

import ternfmt_runtime  # noqa: F401 - diffusers then reads ternary folders
from sample_flux.cases import Case, noise
from sample_flux.scenes import SIZE
from ternfmt.peak_memory import peak_rss

BATCH = 60  # pictures at a time: large enough to keep a core busy, small enough to show progress

Pictures = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Drawing:
    """Pictures and what they took.

    Attributes:
        pictures: uint8 [n, SIZE, SIZE, 3].
        seconds: for one picture, the mean.
        transformer_bytes: of the transformer's weights as they lie in memory.
        peak_bytes: most resident memory of this process so far, PyTorch included; None where the
            system does not tell.
    """

    pictures: Pictures
    seconds: float
    transformer_bytes: int
    peak_bytes: int | None


def load_pipeline(folder: Path) -> Any:
    """Load a pipeline folder, dense or ternary, computing in float32: CPUs without bf16 arithmetic are far slower."""
    logging.disable_progress_bar()
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: Any, cases: Sequence[Case], on_progress: Callable[[int], None] = lambda count: None) -> Drawing:
    """Draw the picture of each case.

    Args:
        pipe: from `load_pipeline`.
        cases: n cases.
        on_progress: called with the number of pictures that were just drawn.
    """
    pictures = np.empty((len(cases), SIZE, SIZE, 3), np.uint8)
    start = time.perf_counter()
    for first in range(0, len(cases), BATCH):
        batch = cases[first : first + BATCH]
        images = pipe([case.prompt.text for case in batch], latents=noise(batch), output_type="np").images
        pictures[first : first + BATCH] = (images * 255).round()
        on_progress(len(batch))
    seconds = (time.perf_counter() - start) / len(cases)
    tensors = [*pipe.transformer.parameters(), *pipe.transformer.buffers()]
    return Drawing(pictures, seconds, sum(tensor.nbytes for tensor in tensors), peak_rss())
