"""The rules of SPEC.md, by number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_SECTION = re.compile(r"^## +(.*)$")
_RULE = re.compile(r"^- \*\*(S-\d+\.\d+)\*\* ")


@dataclass(frozen=True)
class Rule:
    """A rule.

    Attributes:
        id: ``S-1.6``.
        section: title of its section.
        text: its Markdown, tables and examples up to the next rule included.
    """

    id: str
    section: str
    text: str

    @property
    def summary(self) -> str:
        """Its first words, on one line, without Markdown."""
        text = _RULE.sub("", self.text).replace("`", "")
        line = " ".join(re.sub(r"\*+(\w[\w ]*)\*+", r"\1", text).split())
        return line if len(line) <= 100 else f"{line[:99].rsplit(' ', 1)[0]} …"


def parse_rules(spec: str) -> Mapping[str, Rule]:
    """Every rule of a specification's Markdown, in its order."""
    rules: dict[str, Rule] = {}
    section, number, lines = "", "", list[str]()

    def finish() -> None:
        if number:
            rules[number] = Rule(number, section, "\n".join(lines).strip())

    for line in spec.splitlines():
        heading, rule = _SECTION.match(line), _RULE.match(line)
        if heading or rule:
            finish()
            number, lines = "", []
        if heading:
            section = heading[1]
        if rule:
            number = rule[1]
        lines.append(line)
    finish()
    return rules


def rule_order(number: str) -> tuple[int, ...]:
    """Sorts rules by section and number, ``S-1.9`` before ``S-1.10``."""
    return tuple(map(int, number.removeprefix("S-").split(".")))
