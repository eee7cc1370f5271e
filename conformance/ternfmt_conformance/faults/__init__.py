"""Hypothesis strategies: files with one fault each and the class a reader must report; files with any fault at all."""

from __future__ import annotations

from collections.abc import Collection

from ..driver import SPEC_FEATURES
from ..optional import st
from ..strategies import models, raw_files, valid_files
from .container import CONTAINER_FAULTS
from .edits import change_file
from .fault import Fault, Faulty
from .metadata import METADATA_FAULTS
from .sharded import changed_models
from .tensors import TENSOR_FAULTS

__all__ = ["FAULTS", "Fault", "Faulty", "changed_files", "changed_models", "faulty_files"]

_GROUPS = (CONTAINER_FAULTS, METADATA_FAULTS, TENSOR_FAULTS)

FAULTS = (*CONTAINER_FAULTS, *METADATA_FAULTS, *TENSOR_FAULTS)
"""Every single fault that `faulty_files` makes."""


@st.composite
def faulty_files(draw: st.DrawFn, features: Collection[str] = SPEC_FEATURES) -> Faulty:
    """Files that are valid but for one fault.

    Args:
        draw: given by Hypothesis.
        features: those of SPEC section 5 that the file may use.
    """
    # The fault comes first, so that it stays the same while the rest shrinks.
    fault = draw(st.sampled_from(_GROUPS).flatmap(st.sampled_from))
    raw = draw(models(features).flatmap(raw_files).filter(fault.applies))
    fault.make(draw, raw)
    return Faulty(raw.build(), fault.kind, fault.rule, fault.name)


@st.composite
def changed_files(draw: st.DrawFn, features: Collection[str] = SPEC_FEATURES) -> bytes:
    """Valid files with a few bytes replaced; what that breaks, if anything, is not known.

    Args:
        draw: given by Hypothesis.
        features: those of SPEC section 5 that the file may use or list.
    """
    file = draw(models(features).flatmap(lambda tensors: valid_files(tensors, features)))
    return draw(change_file(file))
