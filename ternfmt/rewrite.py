"""Rewrite a model file by file: the frame that dequantize and canonicalize share.

A file becomes a file, a folder (or an index) becomes a folder with the same file names. The destination appears
only when it is complete.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .container import nbytes
from .index import INDEX_SUFFIX, Source
from .writer import Stored, sync_folder

WEIGHT_SUFFIXES = (
    ".safetensors",
    INDEX_SUFFIX,
    ".bin",
    ".bin.index.json",
    ".pt",
    ".pth",
    ".ckpt",
    ".gguf",
    ".h5",
    ".msgpack",
    ".onnx",
    ".ot",
)
"""Files that hold or index weights; everything else in a folder is copied."""

WriteFile = Callable[[Path, Path], Stored]
"""Reads a source file, writes the destination file, returns what it stored there."""

EditConfig = Callable[[dict[str, Any]], dict[str, Any]]
"""From the source's ``config.json`` to the destination's."""


def rewrite(source: Source, destination: Path, write_file: WriteFile, edit_config: EditConfig | None = None) -> None:
    """Write every file of ``source`` anew at ``destination``.

    Args:
        source: the files to read.
        destination: file for a file, folder for a folder or an index; must not exist.
        write_file: called for each file, in ascending order of names.
        edit_config: applied to a folder's ``config.json``; None copies it.

    Raises:
        FileExistsError: the destination exists.
        FileNotFoundError: the folder that is to hold it does not.
        OSError: the disk is full or failing.
    """
    check_destination(destination)
    if source.index is None and not source.path.is_dir():
        write_file(source.files[0], destination)
        return
    partial = destination.with_name(f"{destination.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir()
    try:
        weight_map: dict[str, str] = {}
        total_size = 0
        for file in source.files:
            stored = write_file(file, partial / file.name)
            weight_map.update(dict.fromkeys(stored, file.name))
            total_size += sum(nbytes(dtype, shape) for dtype, shape in stored.values())
        if source.index is not None:
            index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
            _write_json(partial / source.index.path.name, index)
        if source.path.is_dir():
            _copy_other_files(source.path, partial)
        config = partial / "config.json"
        if edit_config is not None and config.is_file():
            _write_json(config, edit_config(json.loads(config.read_bytes())))
        sync_folder(partial)
        os.rename(partial, destination)
        sync_folder(destination.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def check_destination(destination: Path) -> None:
    """Refuse a destination before work is spent on it.

    Raises:
        FileExistsError, FileNotFoundError: as for `rewrite`.
    """
    if destination.exists():
        raise FileExistsError(f"{destination} exists: remove it, or choose another name")
    if not destination.parent.is_dir():
        raise FileNotFoundError(f"{destination.parent} is not a folder: create it first")


def _copy_other_files(source: Path, destination: Path) -> None:
    def skip(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if name.endswith(WEIGHT_SUFFIXES) or name in (".git", ".cache", "__pycache__")]

    shutil.copytree(source, destination, ignore=skip, ignore_dangling_symlinks=True, dirs_exist_ok=True)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
