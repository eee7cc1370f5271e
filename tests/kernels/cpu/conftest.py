"""The backend ``cpu`` on every instruction set of this machine."""

from __future__ import annotations

import pytest

from ternfmt_kernels.cpu_backend import isa


@pytest.fixture(params=isa.available())
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The instruction set that the test runs on."""
    monkeypatch.setenv("TERNFMT_KERNEL", "cpu")
    monkeypatch.setenv(isa.VARIABLE, request.param)
    return request.param


@pytest.fixture
def threads() -> object:
    """torch.set_num_threads, undone after the test."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
