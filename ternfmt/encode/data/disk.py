"""Look whether the disk is large enough, before hours are spent."""

from __future__ import annotations

import shutil
from pathlib import Path

_SPARE = 1.1  # over the estimate


class DiskError(ValueError):
    """The disk is too small for what is to be made."""


def check_disk(folder: Path, needed: int, what: str, instead: str = "choose another disk, or fewer samples") -> None:
    """Refuse to begin what will not fit.

    Args:
        folder: where it is to lie; it need not be there yet.
        needed: bytes.
        what: is to be written, for the message.
        instead: what to do if it does not fit.

    Raises:
        DiskError: less is free than is needed.
    """
    free = shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.is_dir())).free
    if needed * _SPARE > free:
        raise DiskError(
            f"{folder}: {what} need about {needed * _SPARE / 1e9:.1f} GB, {free / 1e9:.1f} GB are free: {instead}"
        )
