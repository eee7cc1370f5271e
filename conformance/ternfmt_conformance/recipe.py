"""Make the files that an archive cannot hold well: huge sparse files and symbolic links."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .corpus import CorpusError

_BLOCK_BYTES = 1 << 20


def make_files(recipe: Mapping[str, Mapping[str, Any]], folder: Path, corpus_root: Path) -> None:
    """Make every file of a recipe in ``folder``, which is empty.

    Raises:
        CorpusError: a name leaves the folder, or a part is not of the stated form.
        OSError: the file system cannot hold it.
    """
    for name, part in recipe.items():
        target = folder / name
        if not target.resolve().is_relative_to(folder.resolve()):
            raise CorpusError(f"recipe: {name!r} lies outside of its folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        if "link" in part:
            os.symlink(part["link"], target)
        elif "copy" in part:
            shutil.copyfile(corpus_root / part["copy"], target)
        else:
            _make_sparse(target, int(part["size"]), part["writes"])


def _make_sparse(path: Path, size: int, writes: list[Mapping[str, str]]) -> None:
    with path.open("xb") as stream:
        stream.truncate(size)
        for write in writes:
            unit = bytes.fromhex(write["hex"])
            remaining = int(write.get("repeat", "1"))
            per_block = max(1, _BLOCK_BYTES // len(unit))
            stream.seek(int(write["offset"]))
            while remaining > 0:
                count = min(remaining, per_block)
                stream.write(unit * count)
                remaining -= count
        if stream.seek(0, os.SEEK_END) != size:
            raise CorpusError(f"recipe: {path.name!r}: a write passes its size of {size} bytes")
