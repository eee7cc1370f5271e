"""Patch for ``from_single_file``: quantisers get a state dict from it, and need to know the file behind it."""

from __future__ import annotations

from typing import Any

from diffusers.loaders import single_file_utils

from ternfmt.container import read_header
from ternfmt.index import FILE_SUFFIX
from ternfmt.metadata import KEY

from .diffusers_single_file import Checkpoint

_load_state_dict = single_file_utils.load_state_dict


def load_state_dict(checkpoint_file: Any, *args: Any, **kwargs: Any) -> Any:
    """Load a file as diffusers does; state dicts of ternary files know where they come from."""
    state_dict = _load_state_dict(checkpoint_file, *args, **kwargs)
    if isinstance(checkpoint_file, dict) or not _is_ternary(str(checkpoint_file)):
        return state_dict
    known = Checkpoint(state_dict)
    known.path = str(checkpoint_file)
    return known


def _is_ternary(file: str) -> bool:
    if not file.endswith(FILE_SUFFIX):
        return False
    with open(file, "rb") as stream:
        return KEY in read_header(stream, file).metadata


single_file_utils.load_state_dict = load_state_dict
