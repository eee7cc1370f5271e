"""Cases of level R4: products, computed exactly in rational numbers."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction

from .collect import Collector, slug
from .logical import Logical, Ternary, random_codes, random_ternary, to_bytes

Numbers = Sequence[float]
Draw = Callable[[random.Random, int], Numbers]
"""Activations, so many of them."""

BLOCKED = (("scale", "NaN scale"), ("code", "forbidden code in the last row"), ("padding", "padding in the last row"))


def power_scales(rng: random.Random, count: int) -> list[float]:
    """Powers of two."""
    return [2.0 ** rng.randrange(-3, 4) for _ in range(count)]


def exact_tensor(seed: int, shape: tuple[int, int], planes: int = 1, group_size: int | None = None) -> Ternary:
    """A tensor for SPEC S-12.3: scales are powers of two."""
    rng = random.Random(seed)
    n, k = shape
    groups = 1 if group_size is None else -(-k // group_size)
    return Ternary(shape, [(random_codes(rng, n * k), power_scales(rng, n * groups)) for _ in range(planes)],
                   "F16", group_size)  # fmt: skip


def small_integers(rng: random.Random, count: int) -> list[float]:
    return [float(rng.randrange(-8, 9)) for _ in range(count)]


def large_integers(rng: random.Random, count: int) -> list[float]:
    """Of one sign, so that sums grow."""
    return [float(rng.randrange(2**16, 2**17)) for _ in range(count)]


def mixed_numbers(rng: random.Random, count: int) -> list[float]:
    """Numbers of both signs over eight binary orders, three bits each: every float dtype has them."""
    return [rng.choice((-1, 1)) * (1 + rng.randrange(4) / 4) * 2.0 ** rng.randrange(-6, 2) for _ in range(count)]


def fine_numbers(rng: random.Random, count: int) -> list[float]:
    """F32 numbers of both signs, whose every bit is in use."""
    return list(struct.unpack(f"<{count}f", struct.pack(f"<{count}f", *(rng.uniform(-2, 2) for _ in range(count)))))


def fine_tensor(seed: int, n: int, k: int, dtype: str) -> Ternary:
    """A tensor whose scales use every bit of their dtype."""
    rng = random.Random(seed)
    form = {"F32": "f", "F16": "e"}[dtype]
    scales = struct.unpack(f"<{n}{form}", struct.pack(f"<{n}{form}", *(rng.uniform(0.25, 1) for _ in range(n))))
    return Ternary((n, k), [(random_codes(rng, n * k), scales)], dtype)


def ones(_: random.Random, count: int) -> list[float]:
    return [1.0] * count


EXACT = {
    "one value": (exact_tensor(50, (1, 1)), 1, "F32"),
    "K = 3": (exact_tensor(51, (4, 3)), 2, "F32"),
    "K = 4": (exact_tensor(52, (4, 4)), 1, "F32"),
    "K = 5": (exact_tensor(53, (3, 5)), 3, "F16"),
    "K = 127, N = 9": (exact_tensor(54, (9, 127)), 5, "BF16"),
    "no activations": (exact_tensor(55, (3, 6)), 0, "F32"),
    "one row of weights, 17 of activations": (exact_tensor(56, (1, 66)), 17, "F32"),
    "groups": (exact_tensor(57, (4, 48), group_size=16), 3, "F32"),
    "groups, the last one short": (exact_tensor(58, (4, 35), group_size=16), 3, "F16"),
    "two planes": (exact_tensor(59, (5, 22), planes=2), 3, "F32"),
    "four planes": (exact_tensor(60, (5, 22), planes=4), 2, "BF16"),
    "two planes and groups": (exact_tensor(61, (4, 50), planes=2, group_size=32), 3, "F32"),
    "weights of rank 4": (Ternary((4, 2, 3, 3), exact_tensor(62, (4, 18)).planes), 3, "F32"),
    "codes under scale 0": (Ternary((2, 6), [([1, -1, 0, 1, 1, -1] * 2, [0.0, 2.0])]), 2, "F32"),
    "sums close to 2^24": (Ternary((2, 127), [([1] * 127 + [1, -1] * 63 + [1], [1.0, 0.5])]), 2, "F32"),
}
BOUNDED = {
    "mixed numbers F32": (random_ternary(70, (5, 77)), 3, "F32", mixed_numbers),
    "mixed numbers F16": (random_ternary(71, (5, 77), dtype="F32"), 3, "F16", mixed_numbers),
    "mixed numbers BF16": (random_ternary(72, (5, 77), dtype="BF16"), 3, "BF16", mixed_numbers),
    "mixed numbers, groups": (random_ternary(73, (3, 77), group_size=16), 2, "F32", mixed_numbers),
    "mixed numbers, planes": (random_ternary(74, (3, 50), planes=3), 2, "F32", mixed_numbers),
    "scales and numbers of full precision": (fine_tensor(79, 5, 33, "F32"), 3, "F32", fine_numbers),
    "scales of full precision": (fine_tensor(80, 5, 34, "F16"), 3, "BF16", mixed_numbers),
    "low-rank term": (random_ternary(75, (4, 30), rank=3), 3, "F32", mixed_numbers),
    "low-rank term F32": (random_ternary(76, (4, 30), rank=1, factor_dtype="F32"), 3, "F16", mixed_numbers),
    "low-rank term BF16, planes and groups": (
        random_ternary(77, (3, 37), 2, 16, 2, "BF16", "BF16"), 2, "BF16", mixed_numbers),
    "everything": (random_ternary(78, (2, 5, 3, 3), 2, 32, 2, "F32", "F32"), 2, "F32", mixed_numbers),
    "sums too long for 16 bits": (Ternary((2, 4095), [([1] * 4095 + [1, 1, -1] * 1365, [1.0, 1.0])]), 1, "BF16", ones),
    "sums too large for F16": (Ternary((1, 20), [([1] * 20, [2.0**14])]), 1, "F16", ones),
}  # fmt: skip
POISONED = {
    # Weight rows have a code other than 0 in every column, so that the poisoned row is poisoned wholly.
    "a NaN row after others": (Ternary((2, 5), [([1, -1, 1, 1, -1] * 2, [1.0, 2.0])]), "F32", float("nan"), 2),
    "an infinite row after others": (Ternary((3, 6), [([1, 1, -1, 1, 1, 1] * 3, [1.0] * 3)]), "F32", float("inf"), 1),
    "a NaN row between others, groups": (
        Ternary((2, 17), [([1, -1] * 17, [1.0, 2.0, 0.5, 1.0])], "F16", 16), "F16", float("nan"), 1),
    "a NaN row between others, planes": (
        Ternary((2, 7), [([1, -1] * 7, [1.0, 2.0]), ([-1, 1] * 7, [0.5, 4.0])]), "BF16", float("nan"), 1),
}  # fmt: skip


def add_products(corpus: Collector) -> None:
    """All cases of level R4."""
    for title, (tensor, m, dtype) in EXACT.items():
        draw: Draw = large_integers if "2^24" in title else small_integers
        _add(corpus, f"exact: {title}", tensor, m, dtype, draw, ["S-12.3", "S-12.1"])
    for title, (tensor, m, dtype, drawn) in BOUNDED.items():
        _add(corpus, f"bounded: {title}", tensor, m, dtype, drawn, ["S-12.2", "S-12.1"], bounded=True)
    for title, (tensor, dtype, poison, at) in POISONED.items():

        def poisoned(
            rng: random.Random, count: int, poison: float = poison, at: int = at, k: int = tensor.k
        ) -> Numbers:
            x = small_integers(rng, count)
            x[at * k : (at + 1) * k] = [poison] * k
            return x

        _add(corpus, f"poison: {title}", tensor, 3, dtype, poisoned, ["S-12.5", "S-12.1"])
    for kind, name in BLOCKED:
        x = corpus.file("products/guard.x", struct.pack("<5f", *range(5)))
        corpus.case(f"guard/matmul-{slug(name)}", f"matmul: {name}", "R4", ["S-10.4"], "matmul", {"class": kind.upper()},
                    path=f"invalid/{kind}/{slug(name)}.safetensors", tensor="w", x=x, m="1", dtype="F32")  # fmt: skip


def _add(
    corpus: Collector,
    title: str,
    tensor: Ternary,
    m: int,
    dtype: str,
    draw: Draw,
    rules: list[str],
    bounded: bool = False,
) -> None:
    name = slug(title)
    x = draw(random.Random(title), m * tensor.k)
    y, a = product(tensor, x, m)
    files = {key: corpus.file(f"products/{name}.{key}", struct.pack(f"<{m * tensor.n}d", *values))
             for key, values in (("y", y), ("a", a)) if bounded or key == "y"}  # fmt: skip
    by_feature = {"group-scale": "S-5.2", "planes": "S-5.3", "low-rank": "S-5.4"}
    expect = {**files, "terms": str(terms(tensor))} if bounded else {**files, "exact": True}
    path = corpus.file(f"valid/products/{name}.safetensors", Logical({"w": tensor}).raw().build())
    corpus.case(f"matmul/{name}", f"matmul, {title}", "R4", [*rules, *(by_feature[f] for f in tensor.features)],
                "matmul", expect, features=tensor.features, path=path, tensor="w",
                x=corpus.file(f"products/{name}.x", to_bytes(dtype, x)), m=str(m), dtype=dtype)  # fmt: skip


def terms(tensor: Ternary) -> int:
    """N of SPEC S-12.2."""
    return tensor.k + len(tensor.planes) * tensor.groups + tensor.rank + 3


def product(tensor: Ternary, x: Numbers, m: int) -> tuple[list[float], list[float]]:
    """Y and A of SPEC S-12.2, exact and rounded once; where x is not finite, what IEEE 754 gives."""
    y, a = [], []
    for row in range(m):
        values = x[row * tensor.k : (row + 1) * tensor.k]
        if all(abs(value) < float("inf") for value in values):
            exact = [_dot(tensor, [Fraction(value) for value in values], n) for n in range(tensor.n)]
            y += [float(value) for value, _ in exact]
            a += [float(bound) for _, bound in exact]
        else:
            y += [_poisoned_dot(tensor, values, n) for n in range(tensor.n)]
            a += [float("nan")] * tensor.n
    return y, a


def _dot(tensor: Ternary, x: Sequence[Fraction], n: int) -> tuple[Fraction, Fraction]:
    total, bound = Fraction(0), Fraction(0)
    k, size = tensor.k, tensor.group_size or tensor.k
    for codes, scale in tensor.planes:
        for g in range(tensor.groups):
            columns = range(g * size, min((g + 1) * size, k))
            s = Fraction(scale[n * tensor.groups + g])
            total += s * sum(codes[n * k + c] * x[c] for c in columns)
            bound += s * sum(abs(codes[n * k + c] * x[c]) for c in columns)
    if tensor.low_rank is not None:
        down, up = tensor.low_rank
        for r in range(tensor.rank):
            u, row = Fraction(up[n * tensor.rank + r]), [Fraction(value) for value in down[r * k : (r + 1) * k]]
            total += u * sum(d * value for d, value in zip(row, x, strict=True))
            bound += abs(u) * sum(abs(d * value) for d, value in zip(row, x, strict=True))
    return total, bound


def _poisoned_dot(tensor: Ternary, x: Numbers, n: int) -> float:
    k, size = tensor.k, tensor.group_size or tensor.k
    total = 0.0
    for codes, scale in tensor.planes:
        for g in range(tensor.groups):
            columns = range(g * size, min((g + 1) * size, k))
            total += scale[n * tensor.groups + g] * sum(codes[n * k + c] * x[c] for c in columns)
    return total
