"""What a conversion will do, settled before it begins.

A plan says of every output tensor where its rows come from, whether it becomes ternary and how, and which file holds
it. With the source's files it is all that a machine needs to make one of the output files.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from ..container import nbytes
from ..metadata import Document
from ..writer import Stored, make_document
from .calibration import DATA_METHODS, NO_BEARING, Calibration
from .overrides import apply, check_matches, matching
from .run.shards import OutputFile, assign_files, index_name
from .settings import SHARD_BYTES, LayerSettings, Settings
from .source.checkpoint import Checkpoint, find_checkpoint
from .source.flux_config import flux_config
from .source.flux_names import rename
from .source.origin import find_origin
from .source.policies import POLICIES, find_policy
from .source.policy import Choice, choose
from .source.recipe import Part, Recipe, identity_recipes
from .source.sources import open_source
from .source.tensor_source import Stamp, TensorSource


@dataclass(frozen=True)
class Dial:
    """A block ratio that is still to be spent.

    Attributes:
        ratio: the block ratio.
        fixed: names of the tensors whose planes an override sets.
        shard_bytes: as in `Settings`, to fill the files anew.
    """

    ratio: float
    fixed: frozenset[str]
    shard_bytes: int | None


@dataclass(frozen=True)
class Plan:
    """What a conversion will do.

    Attributes:
        checkpoint: the source.
        stamps: size and time of the last change (ns), by path, of each of its weight files and of those that
            `calibration` names.
        recipes: where each output tensor comes from.
        choices: what becomes of each.
        layers: how each ternary tensor is quantised.
        files: the output files.
        policy: name of the table of layers that chose.
        is_folder: the output is a folder; else its one file.
        ancillary: what the metadata document says beside the tensors.
        dial: until `settle` has measured what the layers gain by further planes and low-rank terms.
        calibration: for the methods in `DATA_METHODS`, else None.
    """

    checkpoint: Checkpoint
    stamps: Mapping[str, tuple[int, int]]
    recipes: Mapping[str, Recipe]
    choices: Mapping[str, Choice]
    layers: Mapping[str, LayerSettings]
    files: tuple[OutputFile, ...]
    policy: str
    is_folder: bool
    ancillary: Mapping[str, Any] = field(default_factory=dict)
    dial: Dial | None = None
    calibration: Calibration | None = None

    @cached_property
    def config(self) -> Mapping[str, Any] | None:
        """The output folder's ``config.json``, if it has one: the source's, or what the shapes of a FLUX.1 file say."""
        if self.checkpoint.folder is not None:
            return self.checkpoint.config
        return flux_config(self.recipes) if self.is_folder else None

    @property
    def stem(self) -> str:
        """What the output files are called."""
        made_for_diffusers = self.checkpoint.folder is None and self.config is not None
        return "diffusion_pytorch_model" if made_for_diffusers else self.checkpoint.stem

    @property
    def ternary(self) -> list[str]:
        """Names of the tensors that become ternary."""
        return list(self.layers)

    @property
    def source_bytes(self) -> int:
        """Bytes of all tensors before."""
        return sum(nbytes(recipe.dtype, recipe.shape) for recipe in self.recipes.values())

    @property
    def weights(self) -> int:
        """Elements of all tensors, dense ones included."""
        return sum(map(self.size, self.recipes))

    def size(self, name: str) -> int:
        """Elements of a tensor."""
        return prod(self.recipes[name].shape)

    @property
    def index(self) -> str | None:
        """Name of the index, where there are several files."""
        return index_name(self.stem) if len(self.files) > 1 else None

    def stored(self, name: str, *, wide: bool = False) -> Stored:
        """The stored tensors that ``name`` becomes; ``wide`` has F32 in place of F16 scales."""
        recipe = self.recipes[name]
        if name not in self.layers:
            return {name: (recipe.dtype, recipe.shape)}
        return self.layers[name].stored(name, recipe.shape, wide=wide)

    def stored_bytes(self, name: str) -> int:
        """Bytes of those tensors."""
        return sum(nbytes(dtype, shape) for dtype, shape in self.stored(name).values())

    def document(self, file: OutputFile) -> Document:
        """The metadata document of an output file, without digests."""
        entries = {n: self.layers[n].entry(self.recipes[n].shape) for n in file.tensors if n in self.layers}
        return make_document(entries, dict.fromkeys(file.tensors), self.ancillary)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything above that has a bearing on the result."""
        value = self.to_json()
        for name in NO_BEARING if self.calibration else ():
            del value["calibration"][name]
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The plan as a plan file holds it; `docs/encoder.md` describes it."""
        dial = {} if self.dial is None else {"ratio": self.dial.ratio, "fixed": sorted(self.dial.fixed)}
        return {
            "source": str(self.checkpoint.path),
            "component": self.checkpoint.component,
            "source_files": {name: list(stamp) for name, stamp in self.stamps.items()},
            "files": {file.name: list(file.tensors) for file in self.files},
            "policy": self.policy,
            "is_folder": self.is_folder,
            "tensors": {name: self._tensor_to_json(name) for name in self.recipes},
            "ancillary": dict(self.ancillary),
            **dial,
            **({"calibration": self.calibration.to_json()} if self.calibration else {}),
        }

    def _tensor_to_json(self, name: str) -> dict[str, Any]:
        recipe, choice = self.recipes[name], self.choices[name]
        value: dict[str, Any] = {
            "dtype": recipe.dtype,
            "shape": list(recipe.shape),
            "rows": [list(part) for part in recipe.parts],
            "why": choice.reason,
        }
        if name in self.layers:
            value["ternary"] = self.layers[name].to_json()
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Plan:
        """From what `to_json` gave; finds the checkpoint again.

        Raises:
            KeyError, TypeError, ValueError: not a plan.
            OSError, FormatError: the checkpoint is not there any more.
        """
        tensors = value["tensors"]
        return cls(
            checkpoint=find_checkpoint(Path(value["source"]), value["component"]),
            stamps={name: (size, mtime) for name, (size, mtime) in value["source_files"].items()},
            recipes={
                name: Recipe(tuple(t["shape"]), t["dtype"], tuple(Part(*part) for part in t["rows"]))
                for name, t in tensors.items()
            },
            choices={name: Choice("ternary" in t, t["why"]) for name, t in tensors.items()},
            layers={name: LayerSettings.from_json(t["ternary"]) for name, t in tensors.items() if "ternary" in t},
            files=tuple(OutputFile(name, tuple(names)) for name, names in value["files"].items()),
            policy=value["policy"],
            is_folder=value["is_folder"],
            ancillary=value["ancillary"],
            calibration=Calibration.from_json(value["calibration"]) if "calibration" in value else None,
        )


def plan_conversion(path: str | Path, settings: Settings) -> Plan:
    """Read the source's headers and decide what becomes of each tensor; writes nothing.

    A ratio is left to `settle`, which has to read weights.

    Raises:
        FormatError: the source is not a valid checkpoint.
        ValueError: it is ternfmt already, a pattern matches nothing, or no tensor would become ternary.
        OSError: a file cannot be read.
    """
    checkpoint = find_checkpoint(Path(path).absolute(), settings.component)
    source = open_source(checkpoint)
    try:
        return _plan(checkpoint, source, settings)
    finally:
        source.close()


def with_layers(plan: Plan, layers: Mapping[str, LayerSettings], shard_bytes: int | None) -> Plan:
    """The plan with other settings of its ternary tensors, its files filled anew."""
    plan = replace(plan, layers=layers)
    limit = shard_bytes or (SHARD_BYTES if plan.is_folder else None)
    sizes = {name: plan.stored_bytes(name) for name in plan.recipes}
    return replace(plan, files=assign_files(sizes, limit, plan.stem))


def _plan(checkpoint: Checkpoint, source: TensorSource, settings: Settings) -> Plan:
    recipes: Mapping[str, Recipe] = identity_recipes(source.spans)
    if settings.names == "bfl" and checkpoint.pipeline is not None:
        raise ValueError(
            f"--names bfl: {checkpoint.path} is a pipeline, which loads diffusers' names: convert "
            f"{checkpoint.folder} alone"
        )
    if settings.names is not None:
        recipes = rename(source.spans, settings.names)
    policy = POLICIES[settings.policy] if settings.policy else find_policy(checkpoint.config, recipes)
    choices = choose(recipes, settings.include, settings.exclude, policy)
    chosen = [name for name, choice in choices.items() if choice.ternary]
    check_matches(settings.overrides, chosen)
    layers = {}
    for name in chosen:
        layer = apply(settings.overrides, name, settings.layer)
        if layer is None:
            choices[name] = Choice(False, "an override keeps it dense")
        else:
            n, *rest = recipes[name].shape
            layers[name] = replace(layer, low_rank=min(layer.low_rank, n, prod(rest)))
    _check_calibration(layers)
    if not layers:
        raise ValueError(
            f"{checkpoint.path}: none of the {len(choices)} tensors would become ternary "
            f"({_why_none(recipes, choices)}); name some with --include"
        )
    make_document({name: layer.entry(recipes[name].shape) for name, layer in layers.items()}, recipes)
    stamps = {**source.stamps}
    if settings.method in DATA_METHODS:
        stamps |= {path.absolute(): Stamp.of(path) for path in settings.calibration.files()}
    origin = find_origin(checkpoint, source.metadata, settings.base_model).to_json()
    plan = Plan(
        checkpoint=checkpoint,
        stamps={str(path): (stamp.size, stamp.mtime_ns) for path, stamp in stamps.items()},
        recipes=dict(sorted(recipes.items())),
        choices=choices,
        layers=layers,
        files=(),
        policy=policy.name,
        is_folder=checkpoint.is_folder or settings.shard_bytes is not None,
        ancillary={"encoder": settings.to_json(), **({"source": origin} if origin else {})},
        dial=_dial(settings, layers),
        calibration=settings.calibration.absolute() if settings.method in DATA_METHODS else None,
    )
    return with_layers(plan, layers, settings.shard_bytes)


def _why_none(recipes: Mapping[str, Recipe], choices: Mapping[str, Choice]) -> str:
    reasons = Counter(choices[name].reason for name, recipe in recipes.items() if len(recipe.shape) == 2)
    return f"most matrices: {reasons.most_common(1)[0][0]}" if reasons else "no matrix among them"


def _check_calibration(layers: Mapping[str, LayerSettings]) -> None:
    for name, layer in layers.items():
        if layer.method in DATA_METHODS and layer.group_size is not None:
            raise ValueError(
                f"{name!r}: method {layer.method!r} has one scale a row, but groups of {layer.group_size} are "
                "asked for: leave the group size out"
            )


def _dial(settings: Settings, layers: Mapping[str, LayerSettings]) -> Dial | None:
    if settings.ratio is None:
        return None
    fixed = frozenset(name for name in layers if matching(settings.overrides, name).sets_planes)
    return Dial(settings.ratio, fixed, settings.shard_bytes)
