"""Patch for the attention of older diffusers models, whose ``fuse_projections`` joins dense weights only."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_processor import Attention

from .fuse_qkv import fuse_projections

_fuse_projections = Attention.fuse_projections


def fuse(self: Any, fuse: bool = True) -> None:
    """Fuse the projections, ternary or dense."""
    if not fuse_projections(self):
        _fuse_projections(self, fuse)


Attention.fuse_projections = fuse
