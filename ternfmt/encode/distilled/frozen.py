"""A ternary linear layer whose codes stay, packed: a sixteenth of F32 latent weights. The rest is trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...tensor import TernaryTensor
from .layer import TernaryLayer


class FrozenLinear(TernaryLayer):
    """A ternary layer whose codes stay.

    Attributes:
        packed: the codes, uint8 ``[P, N, ceil(K/4)]``.
    """

    packed: Tensor

    def __init__(
        self,
        tensor: TernaryTensor,
        bias: Tensor | None = None,
        *,
        low_rank: tuple[Tensor, Tensor] | None = None,
        scale_dtype: str | None = None,
        device: torch.device | None = None,
    ) -> None:
        """Take a tensor's codes and scales; a low-rank branch only if it is given as ``(down, up)``."""
        scale = torch.from_numpy(np.stack([p.scale.astype(np.float32) for p in tensor.planes])).to(device)
        super().__init__(scale, bias, low_rank, scale_dtype)
        self.columns = tensor.k
        self.register_buffer("packed", torch.from_numpy(np.stack([p.codes for p in tensor.planes])).to(device))

    def codes(self) -> Tensor:
        """The codes, unpacked."""
        return torch.stack([unpack(plane, self.columns, torch.int8) for plane in self.packed])

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to ``[..., K]``."""
        scale = self.scale().to(x.dtype)
        y = torch.zeros((), device=x.device, dtype=x.dtype) if self.bias is None else self.bias
        for plane, row in zip(self.packed, scale, strict=True):
            y = y + _Product.apply(x, plane, self.columns) * row  # type: ignore[no-untyped-call]
        return self.with_branch(x, y)


class _Product(torch.autograd.Function):
    """``x @ t.T`` for packed codes, which are unpacked for the product and again for its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, columns: int) -> Tensor:
        ctx.save_for_backward(codes)
        ctx.columns = columns
        return nn.functional.linear(x, unpack(codes, columns, x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        (codes,) = ctx.saved_tensors
        return gradient @ unpack(codes, ctx.columns, gradient.dtype), None, None


def unpack(codes: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
    """Packed codes ``[N, ceil(K/4)]`` as numbers ``[N, K]`` (SPEC section 3)."""
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=codes.device)
    lanes = (codes[..., None] >> shifts) & 3
    lanes = (lanes & 1).to(torch.int8) - (lanes & 2).to(torch.int8)
    return lanes.flatten(-2)[:, :columns].to(dtype)
