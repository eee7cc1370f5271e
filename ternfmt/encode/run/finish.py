"""Put the output files, the index, the config and what else a model needs together, and publish them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...container import nbytes
from ...metadata import VERSION
from ...ratios import BF16_BYTES
from ...reader import open_model
from ..plan import Plan
from ..report.layer_report import LayerReport, Totals
from ..source.checkpoint import CONFIG_FILE
from ..source.companions import CARD, companions, place
from ..source.origin import Origin
from .card import Numbers, model_card
from .journal import read_records
from .output import Finished
from .work_folder import WorkFolder, write_json


@dataclass(frozen=True)
class Result:
    """What a conversion made.

    Attributes:
        layers: the ternary tensors, by ascending name.
        scales_in_f32: names of those whose scales F16 does not hold.
        stored_bytes: of all tensors.
        files: the output files of weights.
    """

    layers: tuple[LayerReport, ...]
    scales_in_f32: tuple[str, ...]
    stored_bytes: int
    files: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As ``finished.json`` holds it."""
        return {**vars(self), "layers": [layer.to_json() for layer in self.layers]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Result:
        """From what `to_json` gave."""
        return cls(
            tuple(LayerReport.from_json(layer) for layer in value["layers"]),
            tuple(value["scales_in_f32"]),
            value["stored_bytes"],
            tuple(value["files"]),
        )


def finish(plan: Plan, folder: WorkFolder) -> Result:
    """Publish the result of a plan whose files are all made.

    Raises:
        ValueError: a file is missing.
        FormatError: the result is not valid: a fault of this program.
        OSError: reading or writing fails.
    """
    weights = folder.out / plan.checkpoint.subfolder
    missing = [i for i, file in enumerate(plan.files, start=1) if not (weights / file.name).exists()]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(plan.files)} output files are not made yet, the first is {missing[0]}: run "
            f"--shard {missing[0]}/{len(plan.files)}, or the shards of your own count that failed"
        )
    finished = _finished_tensors(plan, folder)
    result = Result(
        layers=tuple(LayerReport.from_json(t.report) for t in finished if t.report is not None),
        scales_in_f32=tuple(t.name for t in finished if t.spilled),
        stored_bytes=sum(
            nbytes(*info) for t in finished for info in plan.stored(t.name, wide=bool(t.spilled)).values()
        ),
        files=tuple(file.name for file in plan.files),
    )
    made = weights / plan.files[0].name
    if plan.is_folder:
        made = folder.out
        _remove_all_but({weights / file.name for file in plan.files}, made)
        _complete(plan, result, made, weights)
    with open_model(weights if plan.config is not None else _entrance(plan, weights), shard=False):
        pass  # reads all headers: what is published can be opened
    folder.publish(made, result.to_json())
    return result


def _finished_tensors(plan: Plan, folder: WorkFolder) -> list[Finished]:
    """What the journals say, by ascending name."""
    finished = [
        Finished.from_json(record)
        for file in plan.files
        for record in read_records(folder.files / f"{file.name}.journal")
    ]
    return sorted(finished, key=lambda tensor: tensor.name)


def _entrance(plan: Plan, weights: Path) -> Path:
    return weights / (plan.index or plan.files[0].name)


def _remove_all_but(kept: set[Path], folder: Path) -> None:
    """Remove what a run left that was killed right here."""
    for path in folder.rglob("*"):
        if not path.is_dir() and path not in kept:
            path.unlink()


def _complete(plan: Plan, result: Result, out: Path, weights: Path) -> None:
    """Write everything but the weights."""
    for name, companion in companions(plan.checkpoint).items():
        place(companion, out / name)
    if plan.config is not None:
        write_json(weights / CONFIG_FILE, quantization_config(plan.config))
    if plan.index is not None:
        weight_map = {part: file.name for file in plan.files for name in file.tensors for part in plan.stored(name)}
        write_json(weights / plan.index, {"metadata": {"total_size": result.stored_bytes}, "weight_map": weight_map})
    if plan.checkpoint.folder is not None or plan.config is not None:
        (out / CARD).write_text(_card(plan, result), encoding="utf-8")


def _card(plan: Plan, result: Result) -> str:
    totals = Totals.of(result.layers)
    numbers = Numbers(
        tensors=len(plan.recipes),
        weights=plan.weights,
        ternary_weights=totals.weights,
        source_bytes=plan.source_bytes,
        bytes=result.stored_bytes,
        block_ratio=totals.weights * BF16_BYTES / totals.stored_bytes,
        file_ratio=plan.source_bytes / result.stored_bytes,
        snr_db=totals.snr_db,
    )
    layers = {name: (layer, plan.recipes[name].shape) for name, layer in plan.layers.items()}
    return model_card(plan.checkpoint, plan.config, Origin(**plan.ancillary.get("source", {})), layers, numbers)


def quantization_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """SPEC S-7.8: what ``config.json`` says of a ternfmt model."""
    return {**config, "quantization_config": {"quant_method": "ternfmt", "format_version": VERSION}}
