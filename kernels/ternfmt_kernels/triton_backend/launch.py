"""From a checked call to kernel launches. Imports triton: reached through `backend` only.

Nothing here waits for the device; memory allocated is the workspace (`configs.workspace_bytes`), so that
products can be captured in CUDA graphs once their kernels are compiled.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from ..contract import Call, Extras, no_autocast
from . import configs, tuning
from .activations import arrange, empty_planes, quantise
from .configs import ARCHS, Config, Kind
from .dense import dequantise, project
from .gemm import gemm, reduce

FEW = 16
"""Rows of x up to which torch computes the inner half of a low-rank term: it splits K, `project` does not."""

EXACT = {"enable_fp_fusion": False}
"""A fused multiply-add would round otherwise than the reference."""


def product(call: Call, x: Tensor, codes: Sequence[Tensor], scales: Sequence[Tensor], out: Tensor) -> None:
    """The forward product of the contract."""
    linear(call, x, codes, scales, Extras(), out)


def linear(
    call: Call, x: Tensor, codes: Sequence[Tensor], scales: Sequence[Tensor], extras: Extras, out: Tensor
) -> None:
    """Fill out ``[M, N]`` with the product of x ``[M, K]`` and what `Extras` adds."""
    if out.numel() == 0:
        return
    with _on(x.device):
        kind: Kind = "w2a8" if extras.int8 else "w2a16"
        arch = architecture(x.device)
        heavy = call.planes > 1 or call.group_size is not None or extras.rank > 0

        def run(config: Config) -> None:
            _linear(arch, configs.widened(config, heavy=heavy), call, x, codes, scales, extras, out)

        shape = (call.m, call.n, call.k)
        run(tuning.choose(arch, kind, shape, tuple(map(str, (x.dtype, call.planes, call.group_size))), run))


def _linear(
    arch: str,
    config: Config,
    call: Call,
    x: Tensor,
    codes: Sequence[Tensor],
    scales: Sequence[Tensor],
    extras: Extras,
    out: Tensor,
) -> None:
    lanes = lanes_of(codes, int8=extras.int8)
    if lanes == 8:
        codes = [c.view(torch.uint16) for c in codes]
    if extras.int8:
        planes, x_scale = quantised(x)
    else:
        planes = arranged(x, lanes)
        x_scale = planes  # not read
    width = codes[0].shape[1]
    group = 0 if call.group_size is None else call.group_size // lanes
    even = width % config.bw == 0 and (group == 0 or (group % config.bw == 0 and width % group == 0))
    partial = out
    if config.split > 1:
        partial = x.new_empty((config.split, call.m, call.n), dtype=torch.float32)
    bias, down_x, up = _extras(x, extras, ARCHS[arch].precision, unused=out)
    addition = {
        "HAS_BIAS": extras.bias is not None,
        "RANK_BLOCK": configs.RANK_BLOCK if extras.rank else 0,
        "PRECISION": ARCHS[arch].precision,
    }
    later = {"HAS_BIAS": False, "RANK_BLOCK": 0} if config.split > 1 else {}
    grid = (triton.cdiv(call.m, config.bm) * triton.cdiv(call.n, config.bn), config.split)
    _launch(
        gemm,
        grid,
        planes,
        x_scale,
        *_four(codes),
        *_four(scales),
        bias,
        up,
        down_x,
        partial,
        call.m,
        call.n,
        width,
        planes.shape[2],
        1 if group == 0 else scales[0].shape[1],
        extras.rank,
        PLANES=call.planes,
        GROUP=group,
        EVEN=even,
        **(addition | later),
        BM=config.bm,
        BN=config.bn,
        BW=config.bw,
        SPLIT=config.split,
        BAND=config.band,
        ASM=ARCHS[arch].asm and (lanes == 8 or extras.int8),
        num_warps=config.warps,
        num_stages=config.stages,
    )
    if config.split > 1:
        shape = (call.m, call.n, extras.rank)
        tile = {"BM": 16, "BN": 64, "SPLIT": config.split}
        grid = (triton.cdiv(call.n, tile["BN"]), triton.cdiv(call.m, tile["BM"]))
        _launch(reduce, grid, partial, bias, up, down_x, out, *shape, **addition, **tile)


def arranged(x: Tensor, lanes: int) -> Tensor:
    """Arrange x ``[M, K]`` as lane planes, see `activations`."""
    planes = empty_planes(x, lanes, x.dtype)
    block = min(64, planes.shape[2])
    grid = (len(x), triton.cdiv(planes.shape[2], block))
    _launch(arrange, grid, x, planes, x.shape[1], *x.stride(), planes.shape[2], LANES=lanes, BW=block)
    return planes


def quantised(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise x ``[M, K]``: int8 lane planes, and the scale of each row, float32."""
    planes = empty_planes(x, 4, torch.int8)
    scale = x.new_empty(len(x), dtype=torch.float32)
    _launch(
        quantise,
        (len(x),),
        x,
        planes,
        scale,
        x.shape[1],
        *x.stride(),
        planes.shape[2],
        BW=min(256, block_size(planes.shape[2])),
        **EXACT,
    )
    return planes, scale


def dequantised(
    codes: Sequence[Tensor], scales: Sequence[Tensor], k: int, group_size: int | None, out: Tensor
) -> Tensor:
    """Fill out ``[N, K]``, of any float dtype: planes summed in float32, rounded once (S-4.6)."""
    n = len(out)
    tile = {"BN": 8, "BK": min(512, block_size(k))}
    groups = 1 if group_size is None else scales[0].shape[1]
    grid = (triton.cdiv(n, tile["BN"]), triton.cdiv(k, tile["BK"]))
    sizes = (n, k, codes[0].shape[1], groups, group_size or k)
    with _on(out.device):
        _launch(dequantise, grid, *_four(codes), *_four(scales), out, *sizes, PLANES=len(codes), **tile, **EXACT)
    return out


def projected(x: Tensor, down: Tensor, precision: str) -> Tensor:
    """Compute x ``[M, K]`` @ down ``[R, K]``^T in float32."""
    if len(x) <= FEW:
        with no_autocast(x.device):
            return F.linear(x.float(), down.float())
    out = x.new_empty((len(x), len(down)), dtype=torch.float32)
    tile = {"BM": 32, "BR": 32, "BK": 128}
    grid = (triton.cdiv(len(x), tile["BM"]), triton.cdiv(len(down), tile["BR"]))
    _launch(project, grid, x, down, out, *x.shape, len(down), *x.stride(), PRECISION=precision, **tile)
    return out


def lanes_of(codes: Sequence[Tensor], *, int8: bool) -> int:
    """8 where the rows of codes can be read as 16-bit words, else 4."""
    words = all(size % 2 == 0 for c in codes for size in (c.shape[1], c.data_ptr(), c.storage_offset()))
    return 8 if words and not int8 else 4


@functools.cache
def architecture(device: torch.device) -> str:
    """The key of ARCHS for a device: its own, or the one whose configurations it can run."""
    if device.type == "cpu":
        return "interpreter"
    if device.type != "cuda":
        return "other"
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        name = properties.gcnArchName.split(":")[0]
        family = {"gfx90a": "gfx90a", "gfx94": "gfx942", "gfx95": "gfx942", "gfx11": "gfx1100", "gfx12": "gfx1100"}
        return next((arch for prefix, arch in family.items() if name.startswith(prefix)), "other")
    exact = f"sm_{properties.major}{properties.minor}"
    newest = {8: "sm_86", 9: "sm_90", 10: "sm_100"}.get(properties.major, "sm_120")
    return exact if exact in ARCHS else newest if properties.major >= 8 else "other"


def block_size(size: int) -> int:
    """The next power of two."""
    return 1 << (size - 1).bit_length()


def _extras(x: Tensor, extras: Extras, precision: str, unused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """bias, down @ x and up; ``unused`` stands for what there is not."""
    down_x, up = unused, unused
    if extras.low_rank is not None:
        down, up = (factor.contiguous() for factor in extras.low_rank)
        down_x = projected(x, down, precision)
    return unused if extras.bias is None else extras.bias.contiguous(), down_x, up


def _four(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Four arguments, whatever the number of planes; those past it are not read."""
    return [*tensors, *[tensors[0]] * (4 - len(tensors))]


def _launch(kernel: Any, grid: tuple[int, ...], *args: object, **options: object) -> None:
    kernel[grid](*args, **({"enable_fp_fusion": True} | options))


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Launches go to the current device of their kind."""
    return nullcontext() if device.type == "cpu" else torch.get_device_module(device).device(device)
