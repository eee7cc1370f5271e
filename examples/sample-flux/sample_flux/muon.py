"""Muon in single precision: the optimizer of `ternfmt.encode.distilled`, under the name it has here."""

from ternfmt.encode.distilled.muon import Muon, orthogonalise

__all__ = ["Muon", "orthogonalise"]
