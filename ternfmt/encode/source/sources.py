"""Open the tensors of a checkpoint, whatever its files are."""

from __future__ import annotations

from collections import Counter

from ...metadata import KEY
from .checkpoint import Checkpoint
from .tensor_source import SafetensorsSource, TensorSource


def open_source(checkpoint: Checkpoint) -> TensorSource:
    """Open the files and check that they hold what they should.

    Raises:
        ValueError: they are ternfmt already, or a tensor is missing or comes twice; from torch's files, see
            `torch_source.TorchSource`.
        FormatError: a file is not safetensors.
        OSError: a file cannot be read.
    """
    source = _open(checkpoint)
    try:
        _check_index(checkpoint, source)
    except BaseException:
        source.close()
        raise
    return source


def _open(checkpoint: Checkpoint) -> TensorSource:
    if checkpoint.kind == "torch":
        from .torch_source import TorchSource  # it imports torch

        return TorchSource(checkpoint.files)
    source = SafetensorsSource(checkpoint.files)
    ternary = [header.file for header in source.headers if KEY in header.metadata]
    if ternary:
        source.close()
        raise ValueError(f"{ternary[0]} is ternfmt already; `ternfmt dequantize` it first")
    if len(source.spans) != sum(len(header.spans) for header in source.headers):
        source.close()
        twice = Counter(name for header in source.headers for name in header.spans).most_common(1)[0][0]
        files = ", ".join(header.file for header in source.headers if twice in header.spans)
        raise ValueError(f"{twice!r} comes twice: in {files}")
    return source


def _check_index(checkpoint: Checkpoint, source: TensorSource) -> None:
    """Check that each tensor of the index lies where it says; what else is checked of one, dense models break."""
    if checkpoint.index is None:
        return
    for name, shard in checkpoint.index.weight_map.items():
        span = source.spans.get(name)
        if span is None or span.file != str(checkpoint.index.path.parent / shard):
            held = "no shard holds it" if span is None else f"{span.file} does"
            raise ValueError(f"{checkpoint.index.path}: lists {name!r} in {shard!r}, but {held}")
