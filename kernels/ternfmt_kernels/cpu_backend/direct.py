"""A call of `linear` without torch's dispatcher and without Python: kernels/cpu/direct.c.

Every other call goes through the dispatcher and Python, which take about as long as the kernels need for one row and a
small layer. The result is the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import isa

READY = isa.module() is not None and isa.module().use_tensors(torch.Tensor, torch.nn.Parameter)
"""Whether there is native code, and this version of torch describes its tensors to it (2.13 does)."""


def linear(
    x: Tensor,
    codes: Sequence[Tensor],
    scales: Sequence[Tensor],
    k: int,
    group_size: int | None,
    bias: Tensor | None,
    int8: bool,
) -> Tensor | None:
    """The product and bias, as `ternfmt_kernels.linear` has them; None where the operator must be called.

    It must where a gradient may be wanted, where something watches or changes what operators do (compilers, tracers,
    profilers, modes, transforms), and where tensors are no plain ones of this processor, or are wrong.
    """
    if not READY or torch.compiler.is_compiling() or torch.is_grad_enabled() or _watched():
        return None
    y: Tensor | None = isa.module().linear(torch.get_num_threads(), x, codes, scales, k, group_size, bias, int8)
    return y


def _watched() -> bool:
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._get_tracing_state() is not None
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._autograd._profiler_enabled()
        or forward_ad._current_level >= 0
    )
