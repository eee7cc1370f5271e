"""The bytes of a case, for people."""

from __future__ import annotations

from pathlib import Path

from .corpus import Case

HEAD_ROWS = 24
TAIL_ROWS = 4
FILES_MAX = 8
_ROW_BYTES = 16


def excerpt(case: Case, corpus_root: Path) -> str:
    """What a case is about: its file as a hex dump, the files of its folder, or its recipe."""
    if case.recipe is not None:
        return "\n".join(_recipe_lines(name, part) for name, part in case.recipe.items())
    path = corpus_root / case.path
    if not path.is_dir():
        return hex_dump(path)
    files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    parts = [f"{file.relative_to(path).as_posix()}\n{hex_dump(file)}" for file in files[:FILES_MAX]]
    if len(files) > FILES_MAX:
        parts.append(f"... and {len(files) - FILES_MAX} more files")
    return "\n\n".join(parts) or "(an empty folder)"


def hex_dump(path: Path) -> str:
    """The first and last rows of a file: offset, sixteen bytes in hex, the same as ASCII."""
    size = path.stat().st_size
    rows = -(-size // _ROW_BYTES)
    head = range(min(rows, HEAD_ROWS))
    tail = range(max(len(head), rows - TAIL_ROWS), rows)
    with path.open("rb") as stream:
        lines = [_row(stream.read(_ROW_BYTES), row) for row in head]
        if len(head) + len(tail) < rows:
            lines.append("...")
        stream.seek(tail.start * _ROW_BYTES)
        lines += [_row(stream.read(_ROW_BYTES), row) for row in tail]
    return "\n".join([*lines, f"{size} bytes"])


def _row(data: bytes, row: int) -> str:
    text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in data)
    return f"{row * _ROW_BYTES:08x}  {data.hex(' '):<{3 * _ROW_BYTES - 1}}  {text}"


def _recipe_lines(name: str, part: dict[str, object]) -> str:
    if "link" in part:
        return f"{name}: symbolic link to {part['link']}"
    if "copy" in part:
        return f"{name}: copy of {part['copy']}"
    lines = [f"{name}: {part['size']} bytes, all zero but for"]
    writes = part["writes"]
    assert isinstance(writes, list)
    for write in writes:
        data = bytes.fromhex(write["hex"])
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in data[:200])
        times = f" x {write['repeat']}" if "repeat" in write else ""
        lines.append(f"  at {write['offset']}: {data[:32].hex(' ')}{' ...' if len(data) > 32 else ''}{times}  {text}")
    return "\n".join(lines)
