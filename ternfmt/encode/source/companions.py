"""The files of a model besides the weights that are converted: what the output keeps of them, and how."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...rewrite import WEIGHT_SUFFIXES
from .checkpoint import CONFIG_FILE, INDEX_NAME, Checkpoint, pipeline_components

CARD = "README.md"
KEPT_CARD = "README.source.md"
"""What the source's card is called beside the new one."""

_LICENSE_NAMES = ("license", "licence", "copying")
_PRIVATE_FOLDERS = (".git", ".cache", "__pycache__")


@dataclass(frozen=True)
class Companion:
    """A file that the output takes over.

    Attributes:
        source: where it lies; what a symbolic link points to.
        weights: large and never edited in place: linked where the file system can, so that it takes no space.
    """

    source: Path
    weights: bool


def companions(checkpoint: Checkpoint) -> dict[str, Companion]:
    """The files that a folder keeps, by path in the output (with ``/``).

    Everything but the converted weights in any form, other weights at the top, and what git and the Hub's client put
    there. Weights in a subfolder belong to a part of its own if it has a ``config.json``, and to an export of the model
    if not. Of a pipeline, its other components are kept whole; a component that is named alone takes the pipeline's
    licence along, a single file that of its folder. The source's card becomes ``README.source.md``.
    ``config.json`` of the converted model is not among them: it is written anew.

    Raises:
        FileNotFoundError: a symbolic link of the source leads nowhere.
    """
    licenses = {file.name: Companion(file.resolve(), weights=False) for file in license_files(checkpoint)}
    return licenses | {path: companion for path, companion in _files(checkpoint) if companion is not None}


def license_files(checkpoint: Checkpoint) -> list[Path]:
    """Files that state the model's licence."""
    files = (file for home in checkpoint.homes for file in sorted(home.iterdir()))
    return [file for file in files if file.name.lower().startswith(_LICENSE_NAMES) and file.is_file()]


def left_out(checkpoint: Checkpoint) -> list[str]:
    """Files of weights in the source that neither are converted nor kept, by path in the source."""
    converted = {file.resolve() for file in checkpoint.files}
    if checkpoint.index is not None:
        converted.add(checkpoint.index.path.resolve())
    return [
        path
        for path, companion in _files(checkpoint)
        if companion is None and ((checkpoint.pipeline or checkpoint.path) / path).resolve() not in converted
    ]


def place(companion: Companion, target: Path) -> None:
    """Put a copy, or for weights a hard link, at ``target``, in the place of whatever is there.

    Raises:
        OSError: the disk is full, or the source cannot be read.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # not written over: it may be a link to the source
    if companion.weights:
        with contextlib.suppress(OSError):  # another file system, or one without links
            os.link(companion.source, target)
            return
    shutil.copyfile(companion.source, target)


def _files(checkpoint: Checkpoint) -> Iterator[tuple[str, Companion | None]]:
    """Path in the output and what is to be there; None for weights that are not kept."""
    root = checkpoint.pipeline or checkpoint.folder
    if root is None:
        return
    components = set(pipeline_components(root)) if checkpoint.pipeline is not None else set()
    components.discard(checkpoint.component or "")
    config = f"{checkpoint.subfolder}/{CONFIG_FILE}".lstrip("/")
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if name not in _PRIVATE_FOLDERS)
        relative = Path(folder).relative_to(root)
        kept_whole = relative.parts[:1] and relative.parts[0] in components
        is_part = relative.parts and relative.as_posix() != checkpoint.subfolder and CONFIG_FILE in names
        for name in sorted(names):
            path = (relative / name).as_posix()
            if path == config:
                continue
            weights = name.endswith(WEIGHT_SUFFIXES) or INDEX_NAME.fullmatch(name) is not None
            if weights and not (kept_whole or is_part):
                yield path, None
                continue
            source = (Path(folder) / name).resolve()
            if not source.is_file():
                raise FileNotFoundError(f"{Path(folder) / name}: a link to {source}, which is missing: fetch it again")
            yield KEPT_CARD if path == CARD else path, Companion(source, weights)
