"""Peaks of the devices that the roofline is drawn for, as their vendor states them, without sparsity."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        name: short.
        target: what kernels are compiled for, e.g. "sm_90".
        bf16: dense tensor-core operations a second on bf16 with float32 accumulation.
        int8: on int8 with int32 accumulation.
        bandwidth: bytes a second of device memory.
        memory: bytes of device memory; vendors' GB are GiB here.
        source: of these numbers.
    """

    name: str
    target: str
    bf16: float
    int8: float
    bandwidth: float
    memory: float
    source: str

    @property
    def ridge(self) -> float:
        """Operations on bf16 in the time that one byte takes."""
        return self.bf16 / self.bandwidth


T, G, GIB = 1e12, 1e9, 2.0**30

DEVICES: tuple[Device, ...] = (
    Device("A10", "sm_86", 125 * T, 250 * T, 600 * G, 24 * GIB, "NVIDIA A10 datasheet (2021)"),
    Device(
        "L20",
        "sm_89",
        119.5 * T,
        239 * T,
        864 * G,
        48 * GIB,
        "NVIDIA L20 specifications as server vendors list them; NVIDIA publishes no datasheet of its own",
    ),
    Device(
        "RTX 4090",
        "sm_89",
        165.2 * T,
        660.6 * T,
        1008 * G,
        24 * GIB,
        "NVIDIA Ada GPU Architecture whitepaper 2.01, appendix A; bf16 with float32 accumulation runs at half rate on "
        "GeForce, int8 does not, so that int8 is worth four times there",
    ),
    Device("A100 80 GB", "sm_80", 312 * T, 624 * T, 2039 * G, 80 * GIB, "NVIDIA A100 80GB datasheet (2021), SXM"),
    Device(
        "H100",
        "sm_90",
        989.4 * T,
        1978.9 * T,
        3350 * G,
        80 * GIB,
        "NVIDIA H100 Tensor Core GPU Architecture whitepaper 1.04, table 2, SXM5",
    ),
)
