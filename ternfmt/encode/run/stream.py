"""One tensor from the source to its output file, a block of rows in memory at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from math import prod
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ...check import check_ternary
from ...container import DTYPES
from ...names import CODES_SUFFIXES, DOWN_SUFFIX, SCALE_SUFFIXES, UP_SUFFIX
from ...tensor import TernaryTensor
from ..report.layer_report import Measure
from ..settings import LayerSettings
from ..source.recipe import Recipe, read, row_count
from ..source.tensor_source import TensorSource
from ..weights import Array, WeightError
from .output import BlockWriter, Finished

BLOCK_WEIGHTS = 1 << 22
"""Weights that a job reads and quantises at a time (at least one row): 8 MiB of BF16."""

Tick = Callable[[int], None]
"""Called with a number of weights that are done; negative where they have to be done again."""


class Quantizer(Protocol):
    """`ternfmt.encode.quantize.quantize`, or the same on another device."""

    def __call__(
        self,
        weight: Array,
        method: str = ...,
        *,
        planes: int = ...,
        group_size: int | None = ...,
        scale_dtype: npt.DTypeLike | None = ...,
        name: str = ...,
        threads: int | None = ...,
    ) -> TernaryTensor:
        """Quantise some rows of a weight."""


def row_blocks(recipe: Recipe, source: TensorSource) -> Iterator[tuple[int, Array]]:
    """The first row of each block of an output tensor, and its rows."""
    rows = row_count(recipe.shape)
    step = max(1, BLOCK_WEIGHTS // max(1, prod(recipe.shape[1:])))
    for start in range(0, rows, step):
        yield start, read(recipe, source, start, min(start + step, rows))


def write_tensor(name: str, data: Array, output: BlockWriter, tick: Tick) -> Finished:
    """Write a dense tensor that is in memory.

    Raises:
        OSError: writing fails.
    """
    data = np.ascontiguousarray(data)
    output.write_block(name, 0, data)
    tick(data.size)
    return Finished(name, {name: _digest(data)})


def copy_tensor(name: str, recipe: Recipe, source: TensorSource, output: BlockWriter, tick: Tick) -> Finished:
    """Copy a dense tensor.

    Raises:
        SourceChangedError, OSError: reading or writing fails.
    """
    digest = hashlib.sha256()
    written = 0
    for _, block in row_blocks(recipe, source):
        data = np.ascontiguousarray(block).reshape(-1).view(np.uint8)
        digest.update(data.data)
        output.write_block(name, written, data)
        written += data.nbytes
        tick(block.size)
    return Finished(name, {name: digest.hexdigest()})


def quantize_tensor(
    name: str,
    recipe: Recipe,
    layer: LayerSettings,
    source: TensorSource,
    output: BlockWriter,
    quantizer: Quantizer,
    tick: Tick,
    solved: TernaryTensor | None = None,
) -> Finished:
    """Quantise a tensor, or write the one that was ``solved`` before.

    Rows do not depend on each other but for one thing: if F16 does not hold one of a tensor's scales, all of them
    are F32 (SPEC S-4.5), and then the tensor is done again.

    Raises:
        WeightError: a weight is NaN or Inf.
        SourceChangedError, OSError: reading or writing fails.
    """
    finished = _quantize(name, recipe, layer, False, source, output, quantizer, tick, solved)
    if finished is None:
        finished = _quantize(name, recipe, layer, True, source, output, quantizer, tick, solved)
    assert finished is not None, "F32 holds every scale"
    return finished


def _quantize(
    name: str,
    recipe: Recipe,
    layer: LayerSettings,
    wide: bool,
    source: TensorSource,
    output: BlockWriter,
    quantizer: Quantizer,
    tick: Tick,
    solved: TernaryTensor | None,
) -> Finished | None:
    """None if the scales did not fit the planned dtype."""
    stored = layer.stored(name, recipe.shape, wide=wide)
    codes_parts = [name + suffix for suffix in CODES_SUFFIXES[: layer.planes]]
    scale_parts = [name + suffix for suffix in SCALE_SUFFIXES[: layer.planes]]
    scale_dtype = DTYPES[stored[scale_parts[0]][0]]
    scales = [np.empty(stored[part][1], scale_dtype) for part in scale_parts]
    digests = [hashlib.sha256() for _ in codes_parts]
    measure = Measure(name, recipe.shape, layer)
    done = 0
    for start, block in row_blocks(recipe, source):
        if solved is None:
            tensor = _quantize_rows(name, start, block, layer, scale_dtype, quantizer)
        else:
            tensor = solved[start : start + len(block)]
        if tensor.scale.dtype != scale_dtype:
            tick(-done)
            return None
        check_ternary(tensor, f"{output.path}: {name!r}")
        for p, plane in enumerate(tensor.planes):
            scales[p][start : start + tensor.n] = plane.scale
            digests[p].update(plane.codes.data)
            output.write_block(codes_parts[p], start * plane.codes.shape[1], plane.codes)
        measure.add(block, tensor)
        tick(block.size)
        done += block.size
    digits = {part: digest.hexdigest() for part, digest in zip(codes_parts, digests, strict=True)}
    spilled = {}
    for part, scale in zip(scale_parts, scales, strict=True):
        digits[part] = _digest(scale)
        if wide:
            spilled[part] = output.spill(scale)
        else:
            output.write_block(part, 0, scale)
    if solved is not None and solved.low_rank is not None:
        for suffix, factor in ((DOWN_SUFFIX, solved.low_rank.down), (UP_SUFFIX, solved.low_rank.up)):
            expected = stored[name + suffix][1]
            if factor.shape != expected:
                raise ValueError(f"{name + suffix!r}: expected {list(expected)} as planned, got {list(factor.shape)}")
            output.write_block(name + suffix, 0, factor)
            digits[name + suffix] = _digest(factor)
    return Finished(name, digits, spilled, measure.report().to_json())


def _digest(data: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(data).reshape(-1).view(np.uint8).data).hexdigest()


def _quantize_rows(
    name: str, start: int, block: Array, layer: LayerSettings, scale_dtype: npt.DTypeLike, quantizer: Quantizer
) -> TernaryTensor:
    try:
        return quantizer(
            block,
            layer.method,
            planes=layer.planes,
            group_size=layer.group_size,
            scale_dtype=scale_dtype,
            name=name,
            threads=1,
        )
    except WeightError as error:
        raise WeightError(name, start + error.row, error.column, error.value) from None
