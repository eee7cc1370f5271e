"""The page that ``ternfmt convert --report`` writes: one file, nothing loaded from elsewhere.

The text around the numbers is `report.html`, beside this file. Every name is escaped: names come from strangers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from itertools import groupby
from string import Template

from .layer_report import SCALE_QUANTILES, LayerReport, Totals
from .svg_plot import Column, linear_axis, log_axis, plot

_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Summary:
    """What the page says of the whole conversion.

    Attributes:
        source: what was converted.
        destination: what was written.
        how: method and options in words.
        source_bytes: of all tensors of the source.
        stored_bytes: of all tensors written.
        block_ratio: BF16 bytes of the ternary weights / their bytes now.
        file_ratio: bytes of the whole checkpoint before / after.
        dense: number of tensors that stay as they are.
        seconds: what it took.
    """

    source: str
    destination: str
    how: str
    source_bytes: int
    stored_bytes: int
    block_ratio: float
    file_ratio: float
    dense: int
    seconds: float


def render(summary: Summary, layers: Iterable[LayerReport]) -> str:
    """The page as text; layers are shown in the natural order of their names."""
    layers = sorted(layers, key=lambda layer: _natural(layer.name))
    series = sorted({layer.planes for layer in layers})
    template = Template(files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(f"{summary.source} in ternary"),
        subtitle=escape(f"{summary.how}, written to {summary.destination}"),
        facts=_facts(summary, layers),
        legend="".join(
            f'<li><span class="s{p}" aria-hidden="true">{"●" if p % 2 else "■"}</span> {_planes(p)}</li>'
            for p in series
        ),
        plots="\n".join(_plots(layers)),
        kinds=_kinds(layers),
        layers=_layers(layers),
    )


def _facts(summary: Summary, layers: Sequence[LayerReport]) -> str:
    totals = Totals.of(layers)
    facts = [
        ("Block ratio", f"{summary.block_ratio:.2f}×", "ternary weights against BF16"),
        ("File ratio", f"{summary.file_ratio:.2f}×", "whole checkpoint against its source"),
        ("SNR", f"{totals.snr_db:.2f} dB", "of all ternary weights"),
        ("Sparsity", f"{totals.sparsity:.1%}", "of all codes are zero"),
        ("Bytes", _bytes(summary.stored_bytes), f"from {_bytes(summary.source_bytes)}"),
        (
            "Ternary",
            _short(totals.weights),
            f"weights in {len(layers)} tensors; {summary.dense} dense",
        ),
        ("Time", f"{summary.seconds:,.1f} s", f"{totals.weights / 1e6 / max(summary.seconds, 1e-9):,.1f} Mweights/s"),
    ]
    return "\n".join(f"<div><dt>{what}</dt><dd>{value}<small>{more}</small></dd></div>" for what, value, more in facts)


def _plots(layers: Sequence[LayerReport]) -> Iterable[str]:
    groups = [(name, len(list(group))) for name, group in groupby(_group(layer.name) for layer in layers)]
    order = f"{len(layers)} layers in the order of their names. All values are in the table below."
    errors = [Column(_label(x, f"{x.snr_db:.2f} dB"), x.planes, (x.snr_db,)) for x in layers]
    yield "<h2>Signal-to-noise ratio</h2><p>Of the stored weights against the source, in dB: higher is better.</p>"
    yield plot(f"Signal-to-noise ratio of {order}", errors, linear_axis(x.snr_db for x in layers), groups)
    zeros = [Column(_label(x, f"{_sparsity(x)} zero"), x.planes, x.sparsity) for x in layers]
    yield "<h2>Sparsity</h2><p>Share of codes that are zero, a mark for each plane.</p>"
    yield plot(f"Sparsity of {order}", zeros, linear_axis((), 0.0, 1.0), groups)
    low, first, third, high = (SCALE_QUANTILES.index(q) for q in (0.05, 0.25, 0.75, 0.95))
    scales = [
        Column(
            _label(x, "; ".join(f"scales {s[0]:.3g} to {s[-1]:.3g}, median {_median(s):.3g}" for s in x.scales)),
            x.planes,
            tuple(_median(s) for s in x.scales if _median(s) > 0),
            thin=tuple((s[low], s[high]) for s in x.scales if s[high] > 0),
            thick=tuple((s[first], s[third]) for s in x.scales if s[third] > 0),
        )
        for x in layers
    ]
    yield "<h2>Scales</h2><p>Of each plane: 5% to 95% (thin), middle half (thick), median (mark).</p>"
    shown = (scale for x in layers for plane in x.scales for scale in plane[low : high + 1])
    yield plot(f"Scales of {order}", scales, log_axis(shown), groups)


def _kinds(layers: Sequence[LayerReport]) -> str:
    kinds: dict[str, list[LayerReport]] = {}
    for layer in layers:
        kinds.setdefault(_DIGITS.sub("*", layer.name), []).append(layer)
    rows = []
    for name, members in kinds.items():
        totals = Totals.of(members)
        lowest = min(layer.snr_db for layer in members)
        planes = sum(layer.planes * layer.weights for layer in members) / totals.weights
        rows.append(
            [
                _cell(name),
                _cell(len(members)),
                _cell(f"{totals.weights / 1e6:.2f}"),
                _cell(f"{planes:.2f}"),
                _cell(f"{totals.snr_db:.2f}", totals.snr_db),
                _cell(f"{lowest:.2f}", lowest),
                _cell(f"{totals.sparsity:.3f}"),
                _cell(_bytes(totals.stored_bytes), totals.stored_bytes),
            ]
        )
    return _table(["Kind", "Layers", "Mweights", "Planes", "SNR dB", "Lowest dB", "Sparsity", "Bytes"], rows)


def _layers(layers: Sequence[LayerReport]) -> str:
    rows = [
        [
            _cell(layer.name),
            _cell("×".join(map(str, layer.shape)), layer.weights),
            _cell(layer.planes),
            _cell(f"{layer.snr_db:.2f}", layer.snr_db),
            _cell(_sparsity(layer), layer.sparsity[0]),
            _cell(f"{_median(layer.scales[0]):.4g}"),
            _cell(f"{layer.scales[0][0]:.4g}"),
            _cell(f"{layer.scales[0][-1]:.4g}"),
            _cell(_bytes(layer.stored_bytes), layer.stored_bytes),
            _cell(f"{layer.method}, {layer.scale_dtype}" + _groups(layer), layer.group_size or 0),
        ]
        for layer in layers
    ]
    heads = ["Layer", "Shape", "Planes", "SNR dB", "Sparsity", "Median scale", "Least", "Largest", "Bytes", "Stored as"]
    return _table(heads, rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col"><button type="button">{text}</button></th>' for text in heads)
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _cell(text: object, key: float | None = None) -> str:
    """A cell; ``key`` is what it sorts by where that is not its text."""
    # JavaScript spells infinity otherwise.
    attribute = "" if key is None else f' data-key="{str(key).replace("inf", "Infinity")}"'
    return f"<td{attribute}>{escape(str(text))}</td>"


def _label(layer: LayerReport, text: str) -> str:
    return f"{layer.name}\n{'×'.join(map(str, layer.shape))}, {_planes(layer.planes)}: {text}"


def _sparsity(layer: LayerReport) -> str:
    return " + ".join(f"{share:.3f}" for share in layer.sparsity)


def _groups(layer: LayerReport) -> str:
    return f", groups of {layer.group_size}" if layer.group_size else ""


def _median(quantiles: Sequence[float]) -> float:
    return quantiles[SCALE_QUANTILES.index(0.5)]


def _planes(count: int) -> str:
    return "1 plane" if count == 1 else f"{count} planes"


def _bytes(count: int) -> str:
    return f"{count} B" if count < 1000 else f"{_short(count)}B"


def _short(count: int) -> str:
    """Three digits and a prefix: ``11.83 G``."""
    value = float(count)
    for prefix in ("", "k", "M", "G"):
        if value < 1000:
            return f"{value:.2f} {prefix}"
        value /= 1000
    return f"{value:.2f} T"


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts ``blocks.2`` before ``blocks.10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in _DIGITS.split(name)]


def _group(name: str) -> str:
    """What stands before the first number: ``transformer_blocks``."""
    return _DIGITS.split(name, maxsplit=1)[0].rstrip("._")
