"""Which backend serves a call, and what TERNFMT_KERNEL may force."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from ternfmt_kernels import KernelError, backends, matmul, registry
from ternfmt_kernels.contract import Backend, Call
from ternfmt_kernels.reference import TORCH


def ones(call: Call, x: Tensor, codes: Sequence[Tensor], scales: Sequence[Tensor], out: Tensor) -> None:
    out.fill_(1)


def unset() -> str | None:
    raise KernelError("SETTING=1: expected 2")


BROKEN = Backend("broken", lambda: "no such device", lambda call: None, ones)
PICKY = Backend("picky", lambda: None, lambda call: "needs M <= 2" if call.m > 2 else None, ones)


@pytest.fixture(autouse=True)
def three_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BACKENDS", [BROKEN, PICKY, TORCH])
    monkeypatch.delenv("TERNFMT_KERNEL", raising=False)


def product(m: int) -> Tensor:
    codes = torch.zeros(3, 2, dtype=torch.uint8)
    return matmul(torch.ones(m, 8), [codes], [torch.ones(3)], 8, None, torch.float32)


def test_first_that_can_serve() -> None:
    assert product(2).sum() == 6  # picky
    assert product(3).sum() == 0  # torch


def test_listing() -> None:
    assert [(s.name, s.unavailable) for s in backends()] == [
        ("broken", "no such device"),
        ("picky", None),
        ("torch", None),
    ]


def test_listing_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BACKENDS", [Backend("unset", unset, lambda call: None, ones), TORCH])
    with pytest.raises(KernelError, match="SETTING=1: expected 2"):
        product(2)
    assert [s.unavailable for s in backends()] == ["SETTING=1: expected 2", None]
    monkeypatch.setenv("TERNFMT_KERNEL", "fast")
    with pytest.raises(KernelError, match=r"no such backend .*unset: SETTING=1: expected 2; torch: available"):
        product(2)


def test_override_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERNFMT_KERNEL", "torch")
    assert product(2).sum() == 0


@pytest.mark.parametrize(
    ("name", "reason"),
    [("fast", "no such backend"), ("broken", "no such device"), ("picky", "needs M <= 2")],
)
def test_override_that_cannot_be_honoured(name: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERNFMT_KERNEL", name)
    with pytest.raises(KernelError, match=f"TERNFMT_KERNEL={name}: {reason}") as error:
        product(3)
    assert "broken: no such device; picky: available; torch: available" in str(error.value)
