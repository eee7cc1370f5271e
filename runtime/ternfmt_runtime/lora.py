"""LoRA on ternary layers, through PEFT.

An adapter runs beside a `TernaryLinear` as beside any nn.Linear. To merge it into packed codes is
impossible; merged adapters become part of the layer's low-rank term instead, which is exact, can be
undone, and can be saved (feature ``low-rank``).
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor

from .linear import TernaryLinear

_NEEDS_DENSE_WEIGHT = ("pissa", "corda", "olora", "loftq", "lora_ga", "mica")
"""Values of ``init_lora_weights``, or what they start with, that read or change the base weight."""


class TernaryLoraLinear(Linear):  # type: ignore[misc]
    """PEFT's LoRA layer around a `TernaryLinear`."""

    def update_layer(self, adapter_name: str, r: int, lora_alpha: int, config: Any, **kwargs: Any) -> None:
        """Add an adapter.

        Raises:
            ValueError: it needs the dense weight.
        """
        what = "DoRA" if config.use_dora else None
        if str(config.init_lora_weights).startswith(_NEEDS_DENSE_WEIGHT):
            what = f"init_lora_weights={config.init_lora_weights!r}"
        if what is not None:
            raise ValueError(
                f"adapter {adapter_name!r}: {what} needs the dense weight of a ternary layer "
                f"{list(self._base.to_ternary().shape)}: dequantize the model first, or use plain LoRA"
            )
        super().update_layer(adapter_name, r, lora_alpha, config, **kwargs)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Append adapters to the low-rank term: ``up`` gets ``scaling * B`` as columns, ``down`` gets A as rows.

        Raises:
            ValueError: an adapter is no plain LoRA, has NaN (if safe), or the rank would pass K.
        """
        for adapter in check_adapters_to_merge(self, adapter_names):
            if adapter not in self.lora_A:
                continue
            if adapter in self.lora_variant:
                kind = type(self.lora_variant[adapter]).__name__
                raise ValueError(
                    f"adapter {adapter!r}: a {kind} cannot be merged into a ternary layer; leave it beside"
                )
            a, b = self.lora_A[adapter].weight.detach(), self.lora_B[adapter].weight.detach()
            if safe_merge and not (a.isfinite().all() and b.isfinite().all()):
                raise ValueError(f"NaNs detected in the merged weights. The adapter {adapter} seems to be broken")
            if not self.merged_adapters:
                self._unmerged = _low_rank(self._base)
            self._append(adapter, a, (b.float() * self.scaling[adapter]).to(b.dtype))
            if self.lora_bias[adapter]:
                assert self._base.bias is not None
                self._base.bias.data += self.lora_B[adapter].bias * self.scaling[adapter]
            self.merged_adapters.append(adapter)

    def unmerge(self) -> None:
        """Take all merged adapters out of the low-rank term."""
        if not self.merged_adapters:
            return
        base = self._base
        for adapter in self.merged_adapters:
            if self.lora_bias.get(adapter):
                assert base.bias is not None
                base.bias.data -= self.lora_B[adapter].bias * self.scaling[adapter]
        self.merged_adapters.clear()
        factors = None
        if self._unmerged is not None:
            rank, dtype = self._unmerged
            merged_down, merged_up = base.factors()
            factors = merged_down[:rank].to(dtype), merged_up[:, :rank].to(dtype).contiguous()
        base.set_low_rank(factors)

    @property
    def _base(self) -> TernaryLinear:
        base = self.get_base_layer()
        assert isinstance(base, TernaryLinear)
        return base

    def _append(self, adapter: str, down: Tensor, up: Tensor) -> None:
        base = self._base
        factors = base.factors()
        if factors:
            dtype = torch.promote_types(factors[0].dtype, down.dtype)
            down = torch.cat([factors[0].to(dtype), down.to(dtype)])
            up = torch.cat([factors[1].to(dtype), up.to(dtype)], dim=1)
        if len(down) > base.in_features:
            raise ValueError(
                f"adapter {adapter!r}: merged, the low-rank term would have rank {len(down)}; at most "
                f"K = {base.in_features} can be stored"
            )
        base.set_low_rank((down.to(base.weight.device).contiguous(), up.to(base.weight.device).contiguous()))


def _low_rank(layer: TernaryLinear) -> tuple[int, torch.dtype] | None:
    """Rank and dtype of the layer's low-rank term."""
    factors = layer.factors()
    return (len(factors[0]), factors[0].dtype) if factors else None
