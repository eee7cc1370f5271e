"""What SPEC.md states in tables is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from ternfmt import Kind, limits
from ternfmt.container import DTYPES
from ternfmt.metadata import FEATURES, VERSION
from ternfmt.names import RESERVED_SUFFIXES

ROOT = Path(__file__).parents[2]
SPEC = ROOT.joinpath("SPEC.md").read_text(encoding="utf-8")


def section(number: int) -> str:
    return SPEC[SPEC.index(f"\n## {number}.") : SPEC.index(f"\n## {number + 1}.")]


def test_limits() -> None:
    stated = {}
    for name, value in re.findall(r"^\| ([A-Z_]+) \| ([^|]*) \|", section(9), re.MULTILINE):
        power, offset = re.match(r"(?:2\^)?(\d+)( - 1)?", value).groups()
        stated[name] = (2 ** int(power) if value.startswith("2^") else int(power)) - bool(offset)
    assert stated == {name: value for name, value in vars(limits).items() if name.isupper()}


def test_error_classes() -> None:
    words = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)*\b", section(10)))
    assert words - vars(limits).keys() - {"READER", "S", "A", "H", "UTF"} == {kind.value for kind in Kind}


def test_classes_are_listed_in_the_order_of_their_first_check() -> None:
    cells = re.findall(r"^\| \d+ \| ([A-Z_, ]+) \|", section(10), re.MULTILINE)
    order = list(dict.fromkeys(name for cell in cells for name in cell.split(", ")))
    by_file = {"PATH", "INDEX", "CONFIG"}
    assert set(order) == {kind.value for kind in Kind} - by_file


def test_steps_are_numbered_without_gaps() -> None:
    steps = [int(number) for number in re.findall(r"^\| (\d+) \|", section(10), re.MULTILINE)]
    assert steps == list(range(1, 26))


def test_rules_are_numbered_without_gaps() -> None:
    rules = re.findall(r"^- \*\*S-(\d+)\.(\d+)\*\*", SPEC, re.MULTILINE)
    counts: dict[str, int] = {}
    for chapter, number in rules:
        counts[chapter] = counts.get(chapter, 0) + 1
        assert int(number) == counts[chapter]
    assert list(counts) == [str(n) for n in range(1, 14)]


def test_rules_that_are_cited_exist() -> None:
    defined = set(re.findall(r"^- \*\*(S-\d+\.\d+)\*\*", SPEC, re.MULTILINE))
    for file in [SPEC, *(path.read_text(encoding="utf-8") for path in ROOT.joinpath("ternfmt").rglob("*.py"))]:
        assert set(re.findall(r"S-\d+\.\d+", file)) <= defined


def test_names_and_versions() -> None:
    features = set(re.findall(r"`([a-z-]+)`", re.search(r"wholly\s+knows\s+([^.]*)\.", section(5))[1]))
    assert features == FEATURES
    assert f'this document is `"{VERSION}"`' in SPEC
    derived = re.findall(r"`X(_\w+)`", section(6).split("S-6.2")[0])
    assert set(derived) == set(RESERVED_SUFFIXES)
    listed = set(
        re.findall(r"`([A-Z]+\d*(?:_\w+)?)`", section(1)[section(1).index("S-1.9") : section(1).index("S-1.10")])
    )
    assert listed == set(DTYPES)
