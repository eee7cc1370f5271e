"""The files of a checkpoint, as transformers and diffusers resolve them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ternfmt import Model
from ternfmt.container import read_header
from ternfmt.index import FILE_SUFFIX, INDEX_SUFFIX, Source, find_source, read_index
from ternfmt.metadata import KEY


def open_checkpoint(files: Sequence[str] | None) -> Model:
    """Open the files that transformers resolved, through their index if they have one.

    Raises:
        FormatError: SPEC section 10, steps 1 to 23.
        ValueError: they are not safetensors files.
    """
    if not files or not all(file.endswith(FILE_SUFFIX) for file in files):
        raise ValueError(f"a ternfmt model is loaded from safetensors files, got {list(files or ())}")
    paths = tuple(Path(file) for file in files)
    folder = paths[0].parent
    source = Source(paths[0], paths, None, None, whole=True)
    for index in sorted(folder.glob(f"*{INDEX_SUFFIX}")) if len(paths) > 1 else ():
        if set(read_index(index).weight_map.values()) == {path.name for path in paths}:
            source = find_source(index)
    config = folder / "config.json"
    return Model(Source(source.path, source.files, source.index, config if config.exists() else None, whole=True))


def refuse_ternary(files: Sequence[str] | None) -> None:
    """Check that none of the files, which are to be quantised, is ternary already.

    Raises:
        ValueError: one is.
    """
    for file in files or ():
        if file.endswith(FILE_SUFFIX):
            with open(file, "rb") as stream:
                if KEY in read_header(stream, file).metadata:
                    raise ValueError(
                        f"{file} is ternary already, but the config.json beside it does not say so: add "
                        f'"quantization_config": {{"quant_method": "ternfmt"}} to it and load without a config'
                    )
