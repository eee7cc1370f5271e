"""Convert a safetensors checkpoint to ternfmt, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..container import DTYPES, Span
from ..index import Source, find_source
from ..metadata import KEY, VERSION, Entry
from ..names import CODES_SUFFIXES, SCALE_SUFFIXES
from ..pack import packed_columns
from ..reader import StoredTensors
from ..rewrite import rewrite
from ..writer import Stored, Writer, make_document
from .policy import Choice, choose
from .quantize import quantize

Progress = Callable[[str, int], None]
"""Called with a tensor's name and its number of source bytes when the tensor is done."""


@dataclass(frozen=True)
class Settings:
    """How to quantise.

    Attributes:
        method: ``absmean``, ``exact`` or ``planes``.
        planes: number of planes, for method ``planes``.
        group_size: columns that share a scale, or None.
        scale_dtype: ``F16``, ``BF16`` or ``F32``; None is F16 with F32 where F16 does not reach (SPEC S-4.5).
        include, exclude: glob patterns, as for `choose`.
    """

    method: str = "exact"
    planes: int = 2
    group_size: int | None = None
    scale_dtype: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def entry(self, shape: tuple[int, ...]) -> Entry:
        """What the document will say of a tensor of this shape."""
        return Entry(shape, self.group_size, self.planes if self.method == "planes" else 1)

    def to_json(self) -> dict[str, Any]:
        """The settings as the document's ``encoder`` records them."""
        value: dict[str, Any] = {"method": self.method}
        if self.method == "planes":
            value["planes"] = self.planes
        if self.group_size is not None:
            value["group_size"] = self.group_size
        return value


@dataclass(frozen=True)
class Plan:
    """What a conversion will do.

    Attributes:
        source: the files to read.
        spans: every source tensor.
        choices: what becomes of each.
        settings: how to quantise.
    """

    source: Source
    spans: Mapping[str, Span]
    choices: Mapping[str, Choice]
    settings: Settings

    @property
    def ternary(self) -> list[str]:
        """Names of the tensors that become ternary."""
        return [name for name, choice in self.choices.items() if choice.ternary]

    @property
    def source_bytes(self) -> int:
        """Bytes of all source tensors."""
        return sum(span.end - span.begin for span in self.spans.values())

    def stored(self, name: str, wide_scales: bool = False) -> Stored:
        """Stored tensors that ``name`` becomes; ``wide_scales`` plans F32 in place of F16."""
        span = self.spans[name]
        if not self.choices[name].ternary:
            return {name: (span.dtype, span.shape)}
        entry = self.settings.entry(span.shape)
        scale_dtype = self.settings.scale_dtype or "F16"
        if wide_scales and scale_dtype == "F16":
            scale_dtype = "F32"
        codes = {name + suffix: ("U8", (entry.n, packed_columns(entry.k))) for suffix in CODES_SUFFIXES[: entry.planes]}
        scales = {name + suffix: (scale_dtype, entry.scale_shape) for suffix in SCALE_SUFFIXES[: entry.planes]}
        return {**codes, **scales}


def plan_conversion(path: str | Path, settings: Settings) -> Plan:
    """Read the source's headers and decide what becomes ternary; writes nothing.

    Raises:
        FormatError: the source is not a valid safetensors file, or is ternfmt already.
        ValueError: a pattern matches nothing, or no tensor would become ternary.
        OSError: a file cannot be read.
    """
    source = find_source(Path(path), shard=False)
    tensors = StoredTensors(source.files)
    for header in tensors.headers:
        if KEY in header.metadata:
            raise ValueError(f"{header.file} is ternfmt already; `ternfmt dequantize` it first")
    choices = choose(tensors.spans, settings.include, settings.exclude)
    plan = Plan(source, tensors.spans, choices, settings)
    if not plan.ternary:
        raise ValueError(f"{path}: none of the {len(choices)} tensors would become ternary; name some with --include")
    make_document({name: settings.entry(tensors.spans[name].shape) for name in plan.ternary}, choices)
    return plan


def convert(plan: Plan, destination: str | Path, progress: Progress | None = None) -> list[str]:
    """Quantise and write; the destination appears when it is complete.

    Memory: the largest source tensor's codes and the pages of the source that are in use.

    Args:
        plan: from `plan_conversion`.
        destination: file for a file, folder for a folder; must not exist.
        progress: called after each tensor.

    Returns:
        Names of the ternary tensors whose scales needed F32.

    Raises:
        WeightError: a weight is NaN or Inf.
        FileExistsError, FileNotFoundError, OSError: as for `ternfmt.rewrite.rewrite`.
    """
    needs_f32: set[str] = set()

    def write_file(file: Path, target: Path) -> Stored:
        # Whether a tensor's scales fit F16 shows when it is quantised, but the layout comes first. On the rare
        # tensor that does not fit, the rest of the file is only scanned for others, and the file is done again.
        while True:
            stored, found = _write_file(plan, file, target, needs_f32, progress)
            if not found:
                return stored
            needs_f32.update(found)

    rewrite(plan.source, Path(destination), write_file, _quantization_config)
    return sorted(needs_f32)


def _write_file(
    plan: Plan, file: Path, target: Path, needs_f32: set[str], progress: Progress | None
) -> tuple[Stored, set[str]]:
    """Write one file; the second result names tensors whose scales did not fit the plan."""
    tensors = StoredTensors([file])
    stored: dict[str, tuple[str, tuple[int, ...]]] = {}
    entries: dict[str, Entry] = {}
    for name, span in tensors.spans.items():
        stored.update(plan.stored(name, name in needs_f32))
        if plan.choices[name].ternary:
            entries[name] = plan.settings.entry(span.shape)
    document = make_document(entries, tensors.spans, {"encoder": plan.settings.to_json()})
    found: set[str] = set()
    writer = Writer(target, stored, document, tensors.headers[0].metadata)
    try:
        for name, span in tensors.spans.items():
            if not plan.choices[name].ternary:
                if not found:
                    writer.write(name, tensors[name])
            else:
                scale_dtype = stored[name + SCALE_SUFFIXES[0]][0]
                tensor = quantize(
                    tensors[name],
                    plan.settings.method,
                    planes=plan.settings.planes,
                    group_size=plan.settings.group_size,
                    scale_dtype=DTYPES[scale_dtype],
                    name=name,
                )
                if tensor.scale.dtype != DTYPES[scale_dtype]:
                    found.add(name)
                elif not found:
                    writer.write_tensor(name, tensor)
            if progress is not None:
                progress(name, span.end - span.begin)
        if found:
            writer.abort()
        else:
            writer.commit()
    except BaseException:
        writer.abort()
        raise
    return stored, found


def _quantization_config(config: dict[str, Any]) -> dict[str, Any]:
    """SPEC S-7.8: what ``config.json`` says of a ternfmt model."""
    return {**config, "quantization_config": {"quant_method": "ternfmt", "format_version": VERSION}}
