"""Patch for ``from_single_file``: quantisers get a state dict from it, and need to know the file behind it."""

from __future__ import annotations

from typing import Any

import diffusers
from diffusers.loaders import single_file_utils

from ternfmt.container import read_header
from ternfmt.index import FILE_SUFFIX
from ternfmt.metadata import KEY

from .diffusers_single_file import Checkpoint

_FIRST_VERSION = (0, 42)
"""Of diffusers, that calls ``maybe_update_state_dict`` in from_single_file."""

_load_state_dict = single_file_utils.load_state_dict


def load_state_dict(checkpoint_file: Any, *args: Any, **kwargs: Any) -> Any:
    """Load a file as diffusers does; state dicts of ternary files know where they come from.

    Raises:
        ValueError: the file is ternary, and diffusers too old to show it to quantisers before it is converted.
    """
    if isinstance(checkpoint_file, dict) or not _is_ternary(str(checkpoint_file)):
        return _load_state_dict(checkpoint_file, *args, **kwargs)
    if tuple(map(int, diffusers.__version__.split(".")[:2])) < _FIRST_VERSION:
        raise ValueError(
            f"{checkpoint_file}: from_single_file of a ternary file needs diffusers 0.42, this is "
            f"{diffusers.__version__}: update diffusers, or use from_pretrained with a folder"
        )
    known = Checkpoint(_load_state_dict(checkpoint_file, *args, **kwargs))
    known.path = str(checkpoint_file)
    return known


def _is_ternary(file: str) -> bool:
    if not file.endswith(FILE_SUFFIX):
        return False
    with open(file, "rb") as stream:
        return KEY in read_header(stream, file).metadata


single_file_utils.load_state_dict = load_state_dict
