"""Write a ternfmt model as an ordinary dense checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .container import DTYPES
from .index import find_source
from .metadata import KEY
from .names import used_suffixes
from .reader import Model, StoredTensors
from .rewrite import rewrite
from .tensor import TernaryTensor
from .writer import Stored, Writer


def dequantize(
    path: str | Path,
    destination: str | Path,
    dtype: str = "BF16",
    progress: Callable[[str, int], None] | None = None,
) -> None:
    """Write dense weights (SPEC S-4.6) under the names of the ternary tensors; the rest is copied.

    Args:
        path: file, index or folder.
        destination: file for a file, folder for a folder; must not exist.
        dtype: ``F32``, ``F16`` or ``BF16``.
        progress: called with each tensor's name and stored bytes when it is done.

    Raises:
        FormatError: the model is not valid; codes and scales are checked before they are used.
        FileExistsError, FileNotFoundError, OSError: as for `ternfmt.rewrite.rewrite`.
    """
    model = Model(find_source(Path(path), shard=False))
    parts = {
        name + suffix: name
        for name, entry in model.document.entries.items()
        for suffix in used_suffixes(entry.planes, entry.low_rank is not None)
    }

    def write_file(file: Path, target: Path) -> Stored:
        tensors = StoredTensors([file])
        # A ternary tensor's dense form goes where its codes were; its other parts vanish.
        stored = {
            name: (dtype, model.document.entries[name].shape) if name in parts else (span.dtype, span.shape)
            for name, span in tensors.spans.items()
            if parts.get(name, name) == name
        }
        metadata = {k: v for k, v in tensors.headers[0].metadata.items() if k != KEY}
        with Writer(target, stored, None, metadata) as writer:
            for name in stored:
                writer.write(name, _dense(model, name, dtype))
                if progress is not None:
                    progress(name, model.tensors[name].nbytes)
        return stored

    rewrite(model.source, Path(destination), write_file, _without_quantization)


def _dense(model: Model, name: str, dtype: str) -> Any:
    tensor = model[name]
    if not isinstance(tensor, TernaryTensor):
        return tensor
    model.check(name)
    return tensor.dequantize(DTYPES[dtype])


def _without_quantization(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "quantization_config"}
