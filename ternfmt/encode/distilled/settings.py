"""What a distillation is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from ..settings import LayerSettings


class SettingsError(ValueError):
    """A setting is out of range, or not supported by `distilled`."""


@dataclass(frozen=True)
class DistilledSettings:
    """Settings of `distill`; the defaults are the recipe of docs/calibration.md.

    Attributes:
        steps: optimizer steps; block-wise, those of each block.
        batch: samples in a step, over all ranks.
        micro_batch: samples in one forward pass; None is ``batch`` divided by the ranks. Their gradients add up.
        muon_lr: highest learning rate of latent weights.
        adam_lr: highest learning rate of scales, biases, norms and other dense tensors, and low-rank branches.
        warmup: share of the steps in which a group's learning rate rises, from the step it starts at.
        decay: share of the steps, the last ones, in which it falls to zero.
        decay_shape: ``linear`` or ``cosine``.
        low_rank_from, codes_from: share of the steps after which low-rank branches and codes begin to train; scales,
            biases and norms train from the first step.
        soft: share of the steps, the first ones, over which layers pass from their latent weights to ternary ones.
        train_codes: False keeps the codes of the start, packed: scales, dense tensors and low-rank branches are all
            that is trained, in a fraction of the memory.
        train_dense: ``all`` dense tensors but embedding tables are trained with the scales, those of them inside
            ``blocks``, or those of ternary layers and norms inside blocks alone: ``biases``.
        feature_weight: of the mean relative squared error of blocks' outputs, added to that of the model's output.
        start: ``exact``, or a name for the tensors that `distill` is given to start from.
        blockwise: a block at a time; None decides by the memory there is.
        recompute: keep no activations inside blocks, compute them again (Chen et al. 2016, arXiv:1604.06174).
        compile: let torch compile teacher and student.
        samples: inputs of each block that are kept on disk, block-wise.
        block_device: where blocks are trained, block-wise, if not where the model is: the model on the CPU, and a block
            at a time on ``cuda``.
        validate_every: steps between validations.
        validation_calls: calls of a validation.
        checkpoint_seconds: between checkpoints.
        seed: of everything that is drawn.

    Raises:
        SettingsError: a value is out of range.
    """

    steps: int = 4000
    batch: int = 64
    micro_batch: int | None = None
    muon_lr: float = 2e-3
    adam_lr: float = 1e-3
    warmup: float = 0.02
    decay: float = 0.6
    decay_shape: str = "linear"
    low_rank_from: float = 0.0
    codes_from: float = 0.0
    soft: float = 0.0
    train_codes: bool = True
    train_dense: str = "all"
    feature_weight: float = 0.0
    start: str = "exact"
    blockwise: bool | None = None
    recompute: bool = False
    compile: bool = False
    samples: int = 1024
    block_device: str | None = None
    validate_every: int = 100
    validation_calls: int = 4
    checkpoint_seconds: float = 180.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "samples", "validate_every", "validation_calls"):
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        micro = self.micro_batch
        _require(micro is None or 1 <= micro <= self.batch, "micro_batch", f"1 to batch = {self.batch}", micro)
        _require(micro is None or self.batch % micro == 0, "micro_batch", f"a divisor of batch = {self.batch}", micro)
        for name in ("muon_lr", "adam_lr"):
            _require(getattr(self, name) > 0, name, "above 0", getattr(self, name))
        for name in ("warmup", "decay", "low_rank_from", "codes_from", "soft"):
            _require(0 <= getattr(self, name) <= 1, name, "0 to 1", getattr(self, name))
        for name in ("feature_weight", "checkpoint_seconds"):
            _require(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))
        _require(self.decay_shape in ("linear", "cosine"), "decay_shape", "linear or cosine", self.decay_shape)
        _require(
            self.train_dense in ("all", "blocks", "biases"), "train_dense", "all, blocks or biases", self.train_dense
        )

    def to_json(self) -> dict[str, str | int | bool]:
        """What differs from the defaults, for the document's ``encoder``: numbers that are no integers as strings."""
        changed: dict[str, str | int | bool] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default and value is not None:
                changed[field.name] = str(value) if isinstance(value, float) else value
        return changed


def check_layers(layers: Mapping[str, LayerSettings], names: Mapping[str, object]) -> None:
    """Refuse what this method cannot do.

    Args:
        layers: settings by ternary tensor.
        names: the ternary tensors that the model has.

    Raises:
        SettingsError: a layer has groups, or is not in the model.
    """
    for name, layer in layers.items():
        if layer.group_size is not None:
            raise SettingsError(
                f"{name!r}: distilled has one scale a row, but group_size {layer.group_size} is asked for; "
                f"leave the group size out, or choose another method for this tensor"
            )
        if name not in names:
            raise SettingsError(f"{name!r}: expected a linear layer of the model, which has none of this name")


def _require(holds: bool, name: str, expected: str, actual: object) -> None:
    if not holds:
        raise SettingsError(f"{name}: expected {expected}, got {actual}")
