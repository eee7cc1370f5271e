"""Testees that are a few lines of Python, right at level R0 but for what a test makes them do."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent, indent

from ternfmt_conformance.command import Command

_HEAD = """
import json, os, sys, time

def right(request):
    kind = {"empty": "PREFIX", "json": "JSON", "a": "HEADER_LEN"}.get(os.path.basename(request["path"]).split(".")[0])
    return {"ok": True} if kind is None else {"ok": False, "error": {"class": kind}}

def is_about(name):
    return name in request.get("path", "")

def say(**value):
    print(json.dumps({"id": request["id"], **value}), flush=True)

greeting = {"protocol": 1, "implementation": {"name": "fake", "version": "1", "language": "Python"},
            "levels": ["R0"], "features": []}
"""

_LOOP = """
for line in sys.stdin:
    request = json.loads(line)
    answer = None
    if request["op"] == "start":
        answer = greeting
    elif request["op"] == "stop":
        answer = {"ok": True}
    else:
        answer = right(request)
BEHAVIOUR
    say(**answer)
    if request["op"] == "stop":
        break
"""

_ONE_SHOT = """
request = {"op": sys.argv[1], "path": sys.argv[2]}
answer = right(request)
BEHAVIOUR
if not answer["ok"]:
    print(answer["error"]["class"])
sys.exit(not answer["ok"])
"""


def fake(folder: Path, behaviour: str = "", *, before: str = "") -> Command:
    """A JSON Lines testee.

    Args:
        folder: for its script.
        behaviour: statements run for each request; may change ``answer``.
        before: statements run at start; may change ``greeting``.
    """
    return script(folder, _HEAD + dedent(before) + _LOOP.replace("BEHAVIOUR", indent(dedent(behaviour), "    ")))


def one_shot_fake(folder: Path, behaviour: str = "") -> Command:
    """A one-shot testee."""
    return script(folder, _HEAD + _ONE_SHOT.replace("BEHAVIOUR", dedent(behaviour)))


def script(folder: Path, text: str) -> Command:
    """A program that starts in a few milliseconds."""
    path = folder / "fake.py"
    path.write_text(text)
    return Command("fake", (sys.executable, "-I", "-S", str(path)))
