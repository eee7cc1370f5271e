"""Triton's kernels on the CPU. Collected only with TRITON_INTERPRET=1; tests/kernels/test_triton.py sees to that.

Triton decides when it is imported whether kernels are compiled or interpreted, so these tests need a
process of their own.
"""

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = [] if INTERPRETED else ["test_*.py"]


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a kernel should write holds NaN, or in integers a pattern, before it runs."""
    new_empty = torch.Tensor.new_empty

    def poisoned(self: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        tensor = new_empty(self, *args, **kwargs)
        return tensor.fill_(torch.nan if tensor.is_floating_point() else 0x5A)

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
