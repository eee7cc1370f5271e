"""The report page: complete, self-contained, and safe whatever a tensor is called."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from ternfmt.encode.report.html_report import Summary, render
from ternfmt.encode.report.layer_report import LayerReport
from ternfmt.encode.report.svg_plot import Axis, Column, linear_axis, log_axis, plot

SUMMARY = Summary("model", "model-ternary", "exact", 1000, 130, 7.9, 7.5, 3, 1.5)
HOSTILE = [
    "</title><script>alert(1)</script>",
    '"><img/src=x/onerror=alert(1)>',
    "a&lt;b&amp;",
    "$title${layers}",
    "'`{{x}}%s\\",
]


def layer(name: str = "blocks.0.weight", planes: int = 1, snr_db: float = 7.0, **changes) -> LayerReport:
    values = {
        "name": name,
        "shape": (30, 40),
        "method": "exact" if planes == 1 else "planes",
        "group_size": None,
        "scale_dtype": "F16",
        "stored_bytes": 360 * planes,
        "squared_error": 10 ** (-snr_db / 10),
        "squared_norm": 1.0,
        "non_zero": (600,) * planes,
        "scales": ((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),) * planes,
    }
    return LayerReport(**{**values, **changes})


class Page(HTMLParser):
    """Every element with its attributes; fails where elements are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self._in_cell = False
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] == "td":
            self.rows[-1][-1] += data


def test_every_layer_is_in_the_table_and_in_each_plot() -> None:
    layers = [layer(f"blocks.{i}.{kind}.weight", 1 + i % 2, 7 + i) for i in range(12) for kind in ("q", "k")]
    text = render(SUMMARY, layers)
    page = Page(text)
    names = [row[0] for row in page.rows if row]
    assert [n for n in names if n != "blocks.*.q.weight"][:1] == ["blocks.*.k.weight"]
    assert names[2:6] == ["blocks.0.k.weight", "blocks.0.q.weight", "blocks.1.k.weight", "blocks.1.q.weight"]
    assert names[-1] == "blocks.11.q.weight", "numbers sort as numbers"
    assert sum(tag == "svg" for tag, _ in page.elements) == 3
    assert sum(attrs.get("class") == "hit" for _, attrs in page.elements) == 3 * len(layers)
    for value in ("7.90×", "7.50×", "1.5 s", "50.0%", "130 B"):
        assert value in text
    assert "1 plane<" in text
    assert "2 planes<" in text


def test_nothing_is_loaded_from_elsewhere() -> None:
    text = render(SUMMARY, [layer()])
    page = Page(text)
    assert not re.search(r"https?:|url\(|@import|//[a-z]", text)
    assert not [tag for tag, attrs in page.elements if {"src", "href"} & attrs.keys()]
    assert "default-src 'none'" in text


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(name: str) -> None:
    plain = Page(render(SUMMARY, [layer("x.weight")]))
    text = render(Summary(name, name, name, 1, 1, 1.0, 1.0, 0, 0.0), [layer(name)])
    page = Page(text)
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert [sorted(attrs) for _, attrs in page.elements] == [sorted(attrs) for _, attrs in plain.elements]
    assert name in [row[0] for row in page.rows if row]


def test_the_plots_are_well_formed_and_described() -> None:
    for svg in re.findall(r"<svg.*?</svg>", render(SUMMARY, [layer("a<b.0"), layer("a<b.1", 2)]), re.DOTALL):
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        assert "2 layers" in root.get("aria-label", "")
        assert "a<b.0" in "".join(root.itertext())


@pytest.mark.parametrize(
    "layers",
    [
        [],
        [layer(squared_error=0.0)],
        [layer(squared_error=0.0, squared_norm=0.0, scales=((0.0,) * 7,), non_zero=(0,))],
        [layer(planes=4), layer("b", scales=((0.0, 0.0, 0.0, 1e-9, 1e-3, 1.0, 1e6),))],
        [layer(group_size=64, scale_dtype="F32", method="absmean")],
    ],
    ids=["none", "no error", "zeros", "four planes", "groups"],
)
def test_unusual_layers_have_a_page(layers: list[LayerReport]) -> None:
    text = render(SUMMARY, layers)
    Page(text)
    assert "nan" not in text


def test_flux_fits_a_megabyte() -> None:
    layers = [layer(f"single_transformer_blocks.{i}.attn.add_out_proj.weight", 1 + i % 2) for i in range(494)]
    assert len(render(SUMMARY, layers)) < 1_000_000


@pytest.mark.parametrize("values", [(), (7.0,), (0.0, 0.0), (-3.2, 40.0), (7.1, 7.2), (math.inf, 5.0), (1e-6, 2e-6)])
def test_linear_ticks_are_few_and_hold_the_values(values: tuple[float, ...]) -> None:
    axis = linear_axis(values)
    assert 2 <= len(axis.ticks) <= 9
    finite = [v for v in values if math.isfinite(v)]
    assert not finite or (axis.low <= min(finite) + 1e-9 and axis.high >= max(finite) - 1e-9)


@pytest.mark.parametrize("values", [(), (0.0,), (1.0,), (0.013, 0.4), (1e-30, 1e30), (2.0, 2.0), (9.9, 10.1)])
def test_logarithmic_ticks_are_few_and_hold_the_values(values: tuple[float, ...]) -> None:
    axis = log_axis(values)
    assert 2 <= len(axis.ticks) <= 13
    positive = [v for v in values if v > 0]
    assert not positive or axis.low <= min(positive) <= max(positive) <= axis.high


def test_marks_lie_in_the_frame() -> None:
    axis = Axis(0.0, 10.0, (0.0, 10.0))
    svg = plot("x", [Column("a", 1, (-5.0, 5.0, math.inf))], axis, [("a", 1)])
    heights = [float(y) for y in re.findall(r"M[\d.]+ ([\d.]+)h0", svg)]
    assert heights == [208.0, 116.0, 24.0]
