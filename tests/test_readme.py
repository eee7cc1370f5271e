"""README.md's examples run, in order, in one empty folder; other pages use `run_page` too.

- ```python blocks share one namespace, as if typed into one session. A ```text block right after
  one is what it prints.
- In ```console blocks, lines with `$ ` are commands; the lines below one are its output, where a
  line `...` stands for any number of lines.
- Other blocks (```sh: set-up that needs a checkout and the network) are not run.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)\)")

# The installed command, without depending on PATH.
PRELUDE = f'set -euo pipefail; ternfmt() {{ "{sys.executable}" -m ternfmt "$@"; }}\n'
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(str(ROOT / root) for root in ("", "kernels", "runtime")),
    "COLUMNS": "100",
}


def test_examples_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_page(README) >= {"python", "text", "console"}


def run_page(page: Path) -> set[str]:
    """Run a page's blocks in the current folder; return the languages that came up."""
    text = page.read_text(encoding="utf-8")
    namespace: dict[str, Any] = {}
    printed: str | None = None
    languages = set()
    for match in BLOCK.finditer(text):
        language, code = match.groups()
        line = text.count("\n", 0, match.start()) + 1
        languages.add(language)
        if language == "text" and printed is not None:
            assert printed == code, f"{page.name}, line {line}"
        printed = run_python(code, page, line, namespace) if language == "python" else None
        if language == "console":
            run_console(code, f"{page.name}, line {line}")
    return languages


def run_python(code: str, page: Path, line: int, namespace: dict[str, Any]) -> str:
    """Run a block; return what it prints."""
    source = "\n" * line + code  # tracebacks then give the page's line numbers
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(source, str(page), "exec"), namespace)
    return output.getvalue()


def run_console(block: str, place: str) -> None:
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, *expected = part.rstrip("\n").split("\n")
        done = subprocess.run(["bash", "-c", PRELUDE + command], capture_output=True, text=True, env=ENVIRONMENT)
        where = f"{place}: $ {command}\n{done.stdout}{done.stderr}"
        assert done.returncode == 0, where
        pattern = "".join("(.*\n)*?" if shown == "..." else re.escape(shown) + "[ ]*\n" for shown in expected)
        if expected:
            assert re.fullmatch(pattern, done.stdout), where


@pytest.mark.parametrize("block", ["$ echo a\nb\n", "$ echo a; echo b\na\n", "$ echo a\n...\nb\n", "$ false\n"])
def test_a_console_block_that_is_out_of_date_fails(block):
    with pytest.raises(AssertionError):
        run_console(block, "here")


def test_a_console_block_may_leave_lines_out():
    run_console("$ printf 'a\\nb\\nc\\n'\na\n...\nc\n$ true\n", "here")


@pytest.mark.parametrize("target", sorted(set(LINK.findall(TEXT))))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists()
