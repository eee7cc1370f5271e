"""The layer that keeps its weight packed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ternfmt.names import DOWN_SUFFIX, UP_SUFFIX, codes_suffix, scale_suffix
from ternfmt.pack import packed_columns
from ternfmt.tensor import LowRank, Plane, TernaryTensor
from ternfmt_kernels import linear

from .arrays import to_array, to_tensor

COMPUTE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What ``compute_dtype`` follows a module-wide cast to; storage types such as float8 leave it."""


ENTRY = "ternfmt"
"""Key in ``state_dict()._metadata[module]``: shape and features of the weight, which its packed form does not tell."""

_DOWN = f"weight{DOWN_SUFFIX}"
_UP = f"weight{UP_SUFFIX}"


def _codes(plane: int) -> str:
    return f"weight{codes_suffix(plane)}"


def _scale(plane: int) -> str:
    return f"weight{scale_suffix(plane)}"


class TernaryLinear(nn.Linear):
    """``nn.Linear`` with a packed ternary weight: multiplies the codes, never expands the weight.

    The state dict has the file's tensors under the file's names. Codes are Parameters without
    gradient; scales and low-rank factors are buffers, so that they stay out of ``parameters()``,
    and keep their dtype under ``.half()``, ``.to(dtype)`` and layerwise casting. Activations may be
    float32, float16 or bfloat16; the output has their dtype, is rounded once, and ignores autocast.

    Attributes:
        weight, weight_plane2, ...: packed codes, uint8 ``[out, ceil(in/4)]``.
        weight_scale, weight_plane2_scale, ...: ``[out]``, or ``[out, ceil(in/group_size)]``.
        weight_lowrank_down, weight_lowrank_up: ``[R, in]`` and ``[out, R]``, with a low-rank term.
        bias: ``[out]`` in ``compute_dtype``, or None.
        compute_dtype: the dtype of the model around the layer; PEFT and `dequantize` go by it.
        int8_activations: quantise each row of the input to int8 first (W2A8): faster on tensor cores and on CPUs,
            and less exact. Of the model at hand, not of the file; set it here or by `use_int8_activations`.
    """

    int8_activations = False

    _is_hf_initialized = True  # transformers would draw random codes

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        planes: int = 1,
        group_size: int | None = None,
        low_rank: int | None = None,
        scale_dtype: torch.dtype = torch.float16,
        low_rank_dtype: torch.dtype = torch.bfloat16,
        compute_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """A layer of zeros. ``compute_dtype`` None is torch's default dtype."""
        nn.Module.__init__(self)
        self.in_features = in_features
        self.out_features = out_features
        self.planes = planes
        self.group_size = group_size
        self.low_rank = low_rank
        self.compute_dtype = compute_dtype or torch.get_default_dtype()
        codes_shape = (out_features, packed_columns(in_features))
        scale_shape: tuple[int, ...] = (out_features,)
        if group_size is not None:
            scale_shape = (out_features, -(-in_features // group_size))
        for p in range(planes):
            codes = torch.zeros(codes_shape, dtype=torch.uint8, device=device)
            self.register_parameter(_codes(p), nn.Parameter(codes, requires_grad=False))
            scale = torch.zeros(scale_shape, dtype=scale_dtype, device=device)
            self.register_buffer(_scale(p), scale)
        if low_rank is not None:
            down = torch.zeros((low_rank, in_features), dtype=low_rank_dtype, device=device)
            up = torch.zeros((out_features, low_rank), dtype=low_rank_dtype, device=device)
            self.register_buffer(_DOWN, down)
            self.register_buffer(_UP, up)
        self.register_parameter("bias", None)
        if bias:
            zeros = torch.zeros(out_features, dtype=self.compute_dtype, device=device)
            self.bias = nn.Parameter(zeros)

    @classmethod
    def from_ternary(
        cls,
        tensor: TernaryTensor,
        bias: nn.Parameter | None = None,
        *,
        compute_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> TernaryLinear:
        """A layer of a ternary tensor ``[out, in]``; on the CPU it shares the writable arrays.

        Raises:
            ValueError: the tensor has a rank other than 2.
        """
        if len(tensor.shape) != 2:
            raise ValueError(f"expected a weight [out, in], got shape {list(tensor.shape)}")
        low_rank = tensor.low_rank
        layer = cls(
            tensor.k,
            tensor.n,
            bias=False,
            planes=len(tensor.planes),
            group_size=tensor.group_size,
            low_rank=None if low_rank is None else len(low_rank.down),
            compute_dtype=compute_dtype,
            device="meta",
        )
        parts = {}
        for p, plane in enumerate(tensor.planes):
            parts[_codes(p)] = plane.codes
            parts[_scale(p)] = plane.scale
        if low_rank is not None:
            parts[_DOWN] = low_rank.down
            parts[_UP] = low_rank.up
        layer.load_state_dict({k: to_tensor(v).to(device=device) for k, v in parts.items()}, assign=True)
        layer.register_parameter("bias", bias)
        return layer

    def to_ternary(self) -> TernaryTensor:
        """The packed weight; shares the memory of a layer on the CPU."""
        planes = tuple(Plane(to_array(c), to_array(s)) for c, s in zip(*self._parts(), strict=True))
        factors = [to_array(factor) for factor in self.factors()]
        low_rank = LowRank(*factors) if factors else None
        return TernaryTensor((self.out_features, self.in_features), planes, self.group_size, low_rank)

    def set_low_rank(self, factors: tuple[Tensor, Tensor] | None) -> None:
        """Replace the low-rank term by ``up @ down``, given as (down, up); None takes it away."""
        for name in (_DOWN, _UP):
            self._buffers.pop(name, None)
        self.low_rank = None
        if factors is not None:
            down, up = factors
            self.low_rank = len(down)
            self.register_buffer(_DOWN, down)
            self.register_buffer(_UP, up)

    def dequantize(self) -> nn.Linear:
        """The dense layer in ``compute_dtype``, computed as S-4.6 says; shares the bias."""
        dtype = to_array(torch.empty(0, dtype=self.compute_dtype)).dtype
        weight = to_tensor(self.to_ternary().dequantize(dtype)).to(self.weight.device)
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        linear.weight = nn.Parameter(weight)
        linear.bias = self.bias
        return linear.train(self.training)

    def forward(self, input: Tensor) -> Tensor:
        """``[..., in] -> [..., out]`` in the input's dtype (S-12.1), rounded once."""
        codes, scales = self._parts()
        down, up = self.factors() or (None, None)
        sizes = (self.in_features, self.group_size)
        return linear(input, codes, scales, *sizes, self.bias, down, up, self.int8_activations)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        text = f"in_features={self.in_features}, out_features={self.out_features}"
        text += f", bias={self.bias is not None}, planes={self.planes}"
        if self.group_size is not None:
            text += f", group_size={self.group_size}"
        if self.low_rank is not None:
            text += f", low_rank={self.low_rank}"
        return f"{text}, scale_dtype={self.weight_scale.dtype}, compute_dtype={self.compute_dtype}"

    def _parts(self) -> tuple[list[Tensor], list[Tensor]]:
        """Codes and scales, a tensor a plane."""
        codes = [getattr(self, _codes(p)) for p in range(self.planes)]
        scales = [getattr(self, _scale(p)) for p in range(self.planes)]
        return codes, scales

    def factors(self) -> list[Tensor]:
        """The low-rank factors, down and up, if there are any."""
        if self.low_rank is None:
            return []
        return [getattr(self, _DOWN), getattr(self, _UP)]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if hasattr(destination, "_metadata"):  # not if the caller gave a plain dict to fill
            destination._metadata[prefix[:-1]][ENTRY] = {
                "shape": (self.out_features, self.in_features),
                "group_size": self.group_size,
                "planes": self.planes,
                "low_rank": self.low_rank,
            }

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TernaryLinear:
        """Move all tensors, cast the bias only: a scale cast to another type is another weight."""
        codes, scales = self._parts()
        fixed = {id(t) for t in (*codes, *scales, *self.factors())}

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if id(tensor) in fixed and moved.dtype != tensor.dtype:
                return tensor.to(moved.device)
            return moved

        dtype = fn(torch.empty(0, dtype=self.compute_dtype, device=self.weight.device)).dtype
        if dtype in COMPUTE_DTYPES:
            self.compute_dtype = dtype
        return super()._apply(move, recurse)  # type: ignore[no-untyped-call]
