"""The least time that a product can take: what bytes and operations allow, on paper.

After S. Williams, A. Waterman, D. Patterson, "Roofline: An Insightful Visual Performance Model", CACM 52(4), 2009:
a kernel takes at least the time of its operations at peak and at least the time of its compulsory bytes at full
bandwidth, whichever is longer. Nothing here is measured, and no kernel reaches it; a claim beyond it is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from . import flux
from .devices import DEVICES, Device


@dataclass(frozen=True)
class Method:
    """A way to multiply by a weight.

    Attributes:
        name: as in the tables.
        engine: the tensor-core type it multiplies in.
        weight_bits: of a weight in device memory.
        x_bytes: of an activation as the product reads it.
        prepared: bytes that preparing an activation moves before: quantised or permuted in a kernel of its own.
        scales: there is a scale of 2 bytes for each row of the weight.
    """

    name: str
    engine: Literal["bf16", "int8"]
    weight_bits: int
    x_bytes: int
    prepared: int
    scales: bool


BF16 = Method("bf16", "bf16", 16, 2, 0, scales=False)
INT8 = Method("int8", "int8", 8, 1, 3, scales=True)
W2A16 = Method("W2A16", "bf16", 2, 2, 4, scales=True)
W2A8 = Method("W2A8", "int8", 2, 1, 3, scales=True)
METHODS: tuple[Method, ...] = (BF16, INT8, W2A16, W2A8)
"""bf16 is cuBLAS; int8 is W8A8, weights quantised per row and activations per token. Ours read bf16 activations and
write them permuted (2 + 2 bytes) or quantised and permuted (2 + 1) before the product."""

RESULT_BYTES = 2


@dataclass(frozen=True)
class Limit:
    """Of one product.

    Attributes:
        operations: a multiply-accumulate counts two.
        moved: bytes that must cross the memory bus: each operand once.
        seconds: at least.
        bound: by what.
    """

    operations: int
    moved: int
    seconds: float
    bound: Literal["operations", "bytes"]


def weight_bytes(method: Method, n: int, k: int) -> int:
    """Of a weight ``[n, k]`` in device memory."""
    return n * -(-k * method.weight_bits // 8) + (2 * n if method.scales else 0)


def limit(method: Method, device: Device, m: int, n: int, k: int) -> Limit:
    """Of x ``[m, k]`` times a weight ``[n, k]``."""
    operations = 2 * m * n * k
    product = weight_bytes(method, n, k) + m * k * method.x_bytes + m * n * RESULT_BYTES
    prepared = m * k * method.prepared
    at_peak = operations / (device.bf16 if method.engine == "bf16" else device.int8)
    at_bandwidth = product / device.bandwidth
    return Limit(
        operations=operations,
        moved=product + prepared,
        seconds=max(at_peak, at_bandwidth) + prepared / device.bandwidth,
        bound="operations" if at_peak >= at_bandwidth else "bytes",
    )


@dataclass(frozen=True)
class Step:
    """Of one step of FLUX.1 at 1024 x 1024, batch 1.

    Attributes:
        linears: seconds of the 494 linears of the blocks, at least.
        attention: seconds of attention's products in bf16, at least.
        moved: bytes of the linears.
    """

    linears: float
    attention: float
    moved: int

    @property
    def seconds(self) -> float:
        """Of both."""
        return self.linears + self.attention


def step(method: Method, device: Device) -> Step:
    """All layers, one after the other, each at its own M."""
    limits = [(layer, limit(method, device, layer.m, layer.n, layer.k)) for layer in flux.LAYERS]
    return Step(
        linears=sum(layer.count * found.seconds for layer, found in limits),
        attention=flux.ATTENTION_OPERATIONS / device.bf16,
        moved=sum(layer.count * found.moved for layer, found in limits),
    )


def resident(method: Method) -> int:
    """Bytes of FLUX.1's weights in device memory: the blocks' linears as ``method`` keeps them, the rest in bf16."""
    blocks = sum(layer.count * weight_bytes(method, layer.n, layer.k) for layer in flux.LAYERS)
    return blocks + 2 * (flux.PARAMETERS - flux.weights())


def best_rows(device: Device, n: int, k: int) -> int:
    """The M above which W2A16 can no longer beat bf16 by a tenth, on paper."""
    low, high = 1, 1 << 20
    while low < high:
        middle = (low + high) // 2
        gain = limit(BF16, device, middle, n, k).seconds / limit(W2A16, device, middle, n, k).seconds
        low, high = (middle + 1, high) if gain >= 1.1 else (low, middle)
    return low - 1


__all__ = ["DEVICES", "METHODS", "Limit", "Method", "Step", "best_rows", "limit", "resident", "step", "weight_bytes"]
