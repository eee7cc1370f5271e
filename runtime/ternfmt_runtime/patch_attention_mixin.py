"""Patch for ``fuse_qkv_projections`` of diffusers models, which joins dense weights only."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention import AttentionMixin, AttentionModuleMixin

from .fuse_qkv import fuse_projections

_fuse_qkv_projections = AttentionMixin.fuse_qkv_projections


def fuse_qkv_projections(self: Any) -> None:
    """Fuse the model's projections; ternary ones come first, and diffusers skips what is fused."""
    for module in self.modules():
        if isinstance(module, AttentionModuleMixin) and module._supports_qkv_fusion and not module.fused_projections:
            fuse_projections(module)
    _fuse_qkv_projections(self)


AttentionMixin.fuse_qkv_projections = fuse_qkv_projections
