"""The correctness gate: no speed is reported of kernels that compute something else.

Every path of ours runs on the device over all features against float64, within SPEC's bound (S-12.2), with NaN left
in the memory that results are allocated from.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..contract import error_bound
from ..linear import linear
from ..reference import quantise_rows
from .contenders import random_weight


@dataclass(frozen=True)
class Case:
    """One product.

    Attributes:
        m: rows of x.
        n: rows of the weight.
        k: columns.
        dtype: of x and the result.
        int8: x is quantised.
        planes: ternary planes.
        group_size: columns that share a scale, None for a scale a row.
        rank: of the low-rank term, 0 without.
        bias: there is one.
        strided: x is not contiguous.
    """

    m: int
    n: int
    k: int
    dtype: torch.dtype
    int8: bool
    planes: int = 1
    group_size: int | None = None
    rank: int = 0
    bias: bool = False
    strided: bool = False

    def __str__(self) -> str:
        kind = f"{'W2A8' if self.int8 else 'W2A16'} {str(self.dtype).removeprefix('torch.')}"
        features = [f"{self.planes} planes"] * (self.planes > 1) + [f"groups of {self.group_size}"] * bool(
            self.group_size
        )
        features += [f"rank {self.rank}"] * bool(self.rank) + ["bias"] * self.bias + ["strided x"] * self.strided
        return f"{kind} {self.m}x{self.n}x{self.k} {', '.join(features)}".strip()


@dataclass(frozen=True)
class Verdict:
    """Of one case.

    Attributes:
        case: in words.
        excess: largest error over its bound; at most 1 passes, infinite where something is not finite.
        error: why there is no result, None with one.
    """

    case: str
    excess: float
    error: str | None

    @property
    def passed(self) -> bool:
        """It is within the bound."""
        return self.error is None and self.excess <= 1


def cases(*, small: bool) -> Iterator[Case]:
    """Every bucket of M, ragged and even shapes, every feature; ``small`` keeps to sizes an interpreter can do."""
    rows = (1, 5, 17, 40) if small else (0, 1, 2, 8, 16, 17, 64, 200, 300, 1000)
    shapes = ((32, 128), (37, 133)) if small else ((384, 1024), (129, 515), (64, 4096))
    for m, (n, k), int8 in itertools.product(rows, shapes, (False, True)):
        yield Case(m, n, k, torch.bfloat16, int8, bias=n % 2 == 0)
    n, k = shapes[0]
    for m, int8 in itertools.product((rows[1], rows[-1]), (False, True)):
        yield Case(m, n, k, torch.float16, int8)
        yield Case(m, n, k, torch.bfloat16, int8, planes=2, strided=True)
        yield Case(m, n, k, torch.bfloat16, int8, group_size=64)
        yield Case(m, n, k, torch.bfloat16, int8, planes=2, group_size=16, rank=8, bias=True)


def run(chosen: list[Case], device: torch.device, tick: Callable[[], None]) -> list[Verdict]:
    """Judge each case; ``tick`` is called after each."""
    verdicts = []
    for seed, case in enumerate(chosen):
        verdicts.append(_judge(case, device, seed))
        tick()
    return verdicts


def _judge(case: Case, device: torch.device, seed: int) -> Verdict:
    try:
        excess = _excess(case, device, seed)
    except Exception as error:
        return Verdict(str(case), float("inf"), f"{type(error).__name__}: {error}"[:500])
    return Verdict(str(case), excess, None)


def _excess(case: Case, device: torch.device, seed: int) -> float:
    """The largest error, as a multiple of what is allowed."""
    generator = torch.Generator(device).manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, generator=generator)

    x = noise(case.k, case.m).to(case.dtype).mT if case.strided else noise(case.m, case.k).to(case.dtype)
    weights = [random_weight(case.n, case.k, device, seed=1000 * seed + p) for p in range(case.planes)]
    codes = [w.codes for w in weights]
    groups = 1 if case.group_size is None else -(-case.k // case.group_size)
    shape = (case.n,) if case.group_size is None else (case.n, groups)
    scales = [noise(*shape).abs_().add_(0.1).to(torch.float16) for _ in weights]
    bias = noise(case.n).to(case.dtype) if case.bias else None
    down = noise(case.rank, case.k).to(case.dtype) if case.rank else None
    up = noise(case.n, case.rank).to(case.dtype) if case.rank else None

    _poison(case, device)
    got = linear(x, codes, scales, case.k, case.group_size, bias, down, up, case.int8)

    exact = x.double()
    if case.int8:  # the bound holds for the activations as they were quantised
        q, x_scale = quantise_rows(x)
        exact = q.double() * x_scale.double()[:, None]
    y = torch.zeros(case.m, case.n, dtype=torch.float64, device=device)
    magnitude = torch.zeros_like(y)
    for weight, scale in zip(weights, scales, strict=True):
        columns = scale.double().view(case.n, -1).repeat_interleave(case.group_size or case.k, 1)[:, : case.k]
        values = weight.ternary().double() * columns
        y += exact @ values.T
        magnitude += exact.abs() @ values.abs().T
    if down is not None and up is not None:
        y += x.double() @ down.double().T @ up.double().T
        magnitude += x.double().abs() @ down.double().abs().T @ up.double().abs().T
    if bias is not None:
        y += bias.double()
        magnitude += bias.double().abs()
    if not got.numel():
        return 0.0
    bound = error_bound(y, magnitude, case.dtype, columns=case.k, planes=case.planes, groups=groups, rank=case.rank)
    excess = ((got.double() - y).abs() / bound.clamp(min=torch.finfo(torch.float64).tiny)).max().item()
    return excess if excess == excess else float("inf")


def _poison(case: Case, device: torch.device) -> None:
    """Leave NaN where the allocator will put results and partial sums."""
    for size in (case.m * case.n, 8 * case.m * case.n):
        torch.full((size,), float("nan"), dtype=torch.float32, device=device)
