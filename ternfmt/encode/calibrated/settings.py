"""What can be set of `calibrated`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CalibratedSettings:
    """How layers are calibrated.

    Attributes:
        samples: calibration calls, counted in single samples.
        batch: samples a call.
        damping: added to H's diagonal, in units of its mean.
        sweeps: of coordinate descent between two fits of the scales, at most.
        rounds: of descent and refit, at most; 0 leaves error feedback as it is.
        act_order: columns with the largest second moment first.
        asymmetric: aim at the teacher's outputs for the teacher's inputs; False aims at the teacher's weights.
        bias: correct the biases of linears that have one.
        block_device: where blocks are solved, if not where the model is: the model on the CPU, a block at a time on
            ``cuda``.
    """

    samples: int = 256
    batch: int = 8
    damping: float = 0.1
    sweeps: int = 2
    rounds: int = 4
    act_order: bool = True
    asymmetric: bool = True
    bias: bool = True
    block_device: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("samples", 1), ("batch", 1), ("sweeps", 1), ("rounds", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        if not 0 < self.damping < float("inf"):
            raise ValueError(f"damping: expected a number > 0, got {self.damping}")
