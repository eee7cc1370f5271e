"""From a checked call to one call of the native code, which gets addresses of tensors as they are.

Every address goes with the bytes that may be read behind it, so that the native code can check sizes of its own. Only
what lies at an address that is no multiple of its type's size is copied, and a bias or factor that is not contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contract import Call, Extras, no_autocast
from . import isa

_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


def product(call: Call, x: Tensor, codes: Sequence[Tensor], scales: Sequence[Tensor], out: Tensor) -> None:
    """The forward product of the contract."""
    linear(call, x, codes, scales, Extras(), out)


def linear(
    call: Call, x: Tensor, codes: Sequence[Tensor], scales: Sequence[Tensor], extras: Extras, out: Tensor
) -> None:
    """Fill out ``[M, N]`` with the product of x ``[M, K]`` and what `Extras` adds.

    The inner half of a low-rank term is torch's, in float32; the outer half is added with the bias, in float32,
    before the one rounding.
    """
    x, out = _aligned(x.detach()), out.detach()
    scales = [_aligned(scale) for scale in scales]
    bias = low_rank = None
    if extras.bias is not None:
        vector = _aligned(extras.bias.detach().contiguous())
        bias = (*_memory(vector), _NAMES[vector.dtype])
    if extras.low_rank is not None:
        down, up = (factor.detach() for factor in extras.low_rank)
        with no_autocast(x.device):
            inner = F.linear(x.float(), down.float()).contiguous()
        up = _aligned(up.contiguous())
        low_rank = (extras.rank, *_memory(inner), *_memory(up), _NAMES[up.dtype])
    isa.module().matmul(
        isa.selected(),
        extras.int8,
        torch.get_num_threads(),
        (*_memory(x), _NAMES[x.dtype], *x.shape, *x.stride()),
        (
            call.n,
            call.group_size or 0,
            codes[0].shape[1],
            tuple(map(_memory, codes)),
            _NAMES[call.scale_dtype],
            tuple(map(_memory, scales)),
        ),
        bias,
        low_rank,
        (*_memory(out), _NAMES[out.dtype]),
    )


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor, or a copy where its address, of `torch.frombuffer` for example, is no multiple of an element."""
    return tensor.clone() if tensor.data_ptr() % tensor.itemsize else tensor


def _memory(tensor: Tensor) -> tuple[int, int]:
    """Address of the first element, and bytes from there to the end of what the tensor may read."""
    storage = tensor.untyped_storage()
    return tensor.data_ptr(), int(storage.nbytes() - tensor.storage_offset() * tensor.itemsize)
