"""How tensors are to be quantised: what is asked for a model, and what that comes to for one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..metadata import Entry
from ..names import CODES_SUFFIXES, DOWN_SUFFIX, SCALE_SUFFIXES, UP_SUFFIX
from ..pack import packed_columns
from ..writer import Stored
from .calibration import DATA_METHODS, Calibration
from .overrides import Override

SHARD_BYTES = 5_000_000_000
"""Default limit on an output file: 5 GB, as on the Hub. FLUX.1 with one plane fits one file."""


@dataclass(frozen=True)
class LayerSettings:
    """How one tensor is quantised.

    Attributes:
        method: one of `METHODS` or `DATA_METHODS`.
        planes: number of planes; 1 with ``absmean`` and ``exact``.
        group_size: columns that share a scale, or None.
        scale_dtype: ``F16``, ``BF16`` or ``F32``; None is F16 with F32 where F16 does not reach (SPEC S-4.5).
        low_rank: rank of the low-rank term, whose factors are F16; 0 for none.
    """

    method: str = "exact"
    planes: int = 1
    group_size: int | None = None
    scale_dtype: str | None = None
    low_rank: int = 0

    def entry(self, shape: tuple[int, ...]) -> Entry:
        """What the document will say of a tensor of this shape."""
        return Entry(shape, self.group_size, self.planes, self.low_rank or None)

    def stored(self, name: str, shape: tuple[int, ...], *, wide: bool = False) -> Stored:
        """The stored tensors of ternary tensor ``name``; ``wide`` has F32 in place of F16 scales."""
        entry = self.entry(shape)
        scale_dtype = self.scale_dtype or "F16"
        if wide and scale_dtype == "F16":
            scale_dtype = "F32"
        codes = {name + suffix: ("U8", (entry.n, packed_columns(entry.k))) for suffix in CODES_SUFFIXES[: self.planes]}
        scales = {name + suffix: (scale_dtype, entry.scale_shape) for suffix in SCALE_SUFFIXES[: self.planes]}
        if not self.low_rank:
            return {**codes, **scales}
        factors = {DOWN_SUFFIX: (self.low_rank, entry.k), UP_SUFFIX: (entry.n, self.low_rank)}
        return {**codes, **scales, **{name + suffix: ("F16", size) for suffix, size in factors.items()}}

    def to_json(self) -> dict[str, Any]:
        """As the document's ``encoder`` and plan files record it; what is default is left out."""
        value: dict[str, Any] = {"method": self.method}
        if self.planes > 1:
            value["planes"] = self.planes
        if self.group_size is not None:
            value["group_size"] = self.group_size
        if self.scale_dtype is not None:
            value["scale_dtype"] = self.scale_dtype
        if self.low_rank:
            value["low_rank"] = self.low_rank
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LayerSettings:
        """From what `to_json` gave."""
        return cls(**value)


@dataclass(frozen=True)
class Settings:
    """What is asked for a model.

    Attributes:
        method, planes, group_size, scale_dtype: as for `LayerSettings`, for every tensor without an override;
            ``absmean`` and ``exact`` do not use ``planes``.
        include, exclude: glob patterns, as for `choose`.
        policy: name of the table of layers to use; None finds it from the checkpoint.
        overrides: settings of single layers.
        ratio: block ratio to reach by giving further planes to the layers that gain most; None gives every layer
            the same.
        names: ``diffusers`` or ``bfl`` to rename; None keeps names.
        component: the part of a pipeline that is converted; None is its transformer.
        base_model: the source's name on the Hub; None finds it where it is stated.
        shard_bytes: limit on the bytes of tensors in an output file; None is SHARD_BYTES where the output is a
            folder, and no limit where it is a file.
        calibration: for the methods in `DATA_METHODS`.
    """

    method: str = "exact"
    planes: int = 2
    group_size: int | None = None
    scale_dtype: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    policy: str | None = None
    overrides: tuple[Override, ...] = ()
    ratio: float | None = None
    names: str | None = None
    component: str | None = None
    base_model: str | None = None
    shard_bytes: int | None = None
    calibration: Calibration = field(default_factory=Calibration)

    @property
    def layer(self) -> LayerSettings:
        """For a tensor without an override."""
        planes = self.planes if self.method in ("planes", *DATA_METHODS) else 1
        low_rank = self.calibration.low_rank if self.method == "distilled" else 0
        return LayerSettings(self.method, planes, self.group_size, self.scale_dtype, low_rank)

    def to_json(self) -> dict[str, Any]:
        """As the document's ``encoder`` records them."""
        value = self.layer.to_json()
        if self.ratio is not None:
            value["ratio"] = str(self.ratio)
        if self.method in DATA_METHODS:
            told = self.calibration
            value |= {"samples": told.samples, "seed": told.seed}
            if self.method == "distilled":
                value |= {"steps": told.steps, "batch": told.batch, "start": told.start_name}
                value["learning_rate"] = str(told.learning_rate)
                if told.own_sampling:
                    value["own_sampling"] = True
                if told.keep_codes:
                    value["keep_codes"] = True
                if told.feature_weight:
                    value["feature_weight"] = str(told.feature_weight)
        return value
