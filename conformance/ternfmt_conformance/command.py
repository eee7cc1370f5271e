"""How a testee is run: what ``--impl`` means."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import ternfmt

_PYTHON_OBJECT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Command:
    """A program.

    Attributes:
        text: as the caller named it.
        words: program and arguments.
        environment: variables beyond the runner's own.
    """

    text: str
    words: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def parse_command(text: str) -> Command:
    """A command line, or ``module:object``, which runs under the Python adapter in a process of its own.

    Raises:
        ValueError: empty, or unbalanced quotes.
    """
    if not _PYTHON_OBJECT.fullmatch(text):
        words = tuple(shlex.split(text))
        if not words:
            raise ValueError("the implementation's command is empty")
        return Command(text, words)
    # The module is looked for in the current folder first; our packages are found as they are found here.
    roots = dict.fromkeys(str(Path(path).resolve().parents[1]) for path in (__file__, ternfmt.__file__))
    search = os.pathsep.join(filter(None, (*roots, os.environ.get("PYTHONPATH", ""))))
    words = (sys.executable, "-m", "ternfmt_conformance.python_adapter", text)
    return Command(text, words, {"PYTHONPATH": search})
