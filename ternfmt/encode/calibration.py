"""What the methods that look at the whole model, `calibrated` and `distilled`, are told.

Everything here is a number or a name: what does the work imports torch, and is only imported when it is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

DATA_METHODS = ("calibrated", "distilled")
"""Methods that run the model on data that it makes itself. They solve several layers together."""

STARTS = ("exact", "calibrated")
"""Methods whose result distillation can begin from."""


NO_BEARING = ("compile", "recompute", "trust_remote_code")
"""Fields that may differ when a run is resumed."""


@dataclass(frozen=True)
class Calibration:
    """How data is made and used.

    Attributes:
        prompts: file of prompts or sentences, one a line; None takes the built-in templates.
        samples: prompts whose trajectories, or sentences of which batches, are made.
        held_out: further ones that nothing is fitted to, to watch the error.
        batch: calls are made with this many at a time.
        steps: distillation steps; block by block those of each block.
        micro_batch: samples in one forward pass of distillation, whose gradients add up; None is a whole batch.
        recompute: keep no activations inside blocks for the backward pass, compute them again.
        keep_codes: distil scales, biases, norms and low-rank terms alone, beside the codes of the start.
        feature_weight: of the blocks' outputs in the loss of distillation.
        start: what distillation begins from: one of `STARTS`, or the path of a ternary model.
        learning_rate: of the latent weights, at its highest; that of scales and dense tensors is half of it.
        low_rank: rank of a low-rank term beside the planes; 0 for none. Only distillation fits one.
        own_sampling: learn from the student's own sampling, too, and what guidance makes of its answers.
        compile: let torch compile teacher and student for distillation.
        sampling_steps, guidance: of the trajectories; None is the pipeline's own default.
        size: height and width of their pictures, in pixels; None is the pipeline's own default.
        seed: of prompts, noise and order.
        device: where the model runs, as torch names it.
        block_device: where a block at a time is calibrated or distilled, while the model stays on ``device``; None is
            that, too.
        trust_remote_code: run the Python code that a pipeline's folder brings with it.
        data: folder that keeps the data for other conversions too; None keeps it until this one is done.
    """

    prompts: str | None = None
    samples: int = 256
    held_out: int = 32
    batch: int = 16
    steps: int = 4000
    micro_batch: int | None = None
    recompute: bool = False
    keep_codes: bool = False
    feature_weight: float = 0.0
    start: str = "exact"
    learning_rate: float = 2e-3
    low_rank: int = 0
    own_sampling: bool = False
    compile: bool = False
    sampling_steps: int | None = None
    guidance: float | None = None
    size: int | None = None
    seed: int = 0
    device: str = "cpu"
    block_device: str | None = None
    trust_remote_code: bool = False
    data: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As plan files hold it."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Calibration:
        """From what `to_json` gave."""
        return cls(**value)

    @property
    def start_name(self) -> str:
        """What distillation begins from, as documents record it: of a path the last part."""
        return Path(self.start).name

    def files(self) -> list[Path]:
        """The files that it names, as far as they are there: prompts, and the weights to start from."""
        named = [] if self.start in STARTS else [Path(self.start)]
        weights = [path for start in named for path in (start, *sorted(start.rglob("*.safetensors")))]
        return [path for path in (*weights, *map(Path, filter(None, [self.prompts]))) if path.is_file()]

    def absolute(self) -> Calibration:
        """The same with absolute paths, which do not depend on where the next command is given."""
        start = self.start if self.start in STARTS else str(Path(self.start).absolute())
        return replace(self, prompts=_absolute(self.prompts), data=_absolute(self.data), start=start)


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).absolute())
