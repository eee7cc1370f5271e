"""conformance/README.md's commands run, in order, in one empty folder, and its table names tests that exist.

A block that starts with a comment `# NAME` or `// NAME` is a file of that name. In ```console blocks, lines with
`$ ` are commands; the lines below one are its output, where `...` stands for any text, also of several lines.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "conformance" / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"(?:#|//) (\S+\.\w+)\n")
LINK = re.compile(r"\]\(([^)#:]+)\)")
ROW = re.compile(r"^\| (\d+) \| .* \| (`.*`) \|$", re.MULTILINE)

# The installed commands, without depending on PATH.
PRELUDE = f'set -euo pipefail; ternfmt() {{ "{sys.executable}" -m ternfmt "$@"; }}\n'


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    commands = tmp_path / "commands"
    commands.mkdir()
    (commands / "python3").symlink_to(sys.executable)
    roots = [str(ROOT / root) for root in ("", "kernels", "runtime", "conformance")]
    path = os.pathsep.join([str(commands), os.environ["PATH"]])
    # A symbolic link to a virtual environment's Python does not find its packages by itself.
    return {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": os.pathsep.join([*roots, *filter(None, sys.path)]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


@pytest.mark.slow
def test_commands_run_in_order(tmp_path: Path, environment: dict[str, str]) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "vectors").symlink_to(ROOT / "conformance" / "vectors")
    commands = 0
    for match in BLOCK.finditer(TEXT):
        language, code = match.groups()
        name = FILE_NAME.match(code)
        if name:
            (folder / name[1]).write_text(code, encoding="utf-8")
        for command, expected in parts(code) if language == "console" else ():
            if command.startswith("node ") and shutil.which("node") is None:
                continue
            commands += 1
            done = subprocess.run(
                ["bash", "-c", PRELUDE + command], capture_output=True, text=True, env=environment, cwd=folder
            )
            line = TEXT.count("\n", 0, match.start()) + 1
            where = f"README.md, block at line {line}: $ {command}\n{done.stdout}{done.stderr}"
            assert done.returncode == 0, where
            assert matches(expected, done.stdout), where
    assert commands >= 10


def parts(block: str) -> Iterator[tuple[str, str]]:
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        yield command, expected


def matches(expected: str, output: str) -> bool:
    lines = "".join(line.rstrip() + "\n" for line in output.splitlines())
    return re.fullmatch(re.escape(expected).replace(r"\.\.\.", "(?:.|\n)*"), lines) is not None


def test_every_property_is_held_by_a_test_that_exists() -> None:
    rows = ROW.findall(TEXT)
    assert [int(number) for number, _ in rows] == list(range(1, 28))
    for number, cell in rows:
        for name in re.findall(r"`([^`]+)`", cell):
            file, _, function = name.partition("::")
            tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
            defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert function in defined, f"property {number}: {name}"


@pytest.mark.parametrize("target", sorted(set(LINK.findall(TEXT))))
def test_links_lead_somewhere(target: str) -> None:
    assert (README.parent / target).exists()


def test_outcomes_are_all_explained() -> None:
    from ternfmt_conformance.outcome import Outcome

    assert all(outcome.value in TEXT for outcome in Outcome)
