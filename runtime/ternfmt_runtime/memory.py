"""What a ternary model takes on a device, and what its layers do with their activations."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ternfmt_kernels.triton_backend import configs

from .linear import TernaryLinear


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on the device while a model runs; its peak is their sum and the model's activations.

    Attributes:
        packed: codes, scales and low-rank factors of the ternary layers.
        dense: all other parameters and buffers.
        workspace: the most that one ternary layer allocates beside its output, and frees again.
    """

    packed: int
    dense: int
    workspace: int

    @property
    def total(self) -> int:
        """Weights and workspace."""
        return self.packed + self.dense + self.workspace


def device_memory(model: nn.Module, rows: int, *, arch: str = "sm_80") -> DeviceMemory:
    """The account of a model, which may be on the meta device, with the ``triton`` backend.

    Nothing else is ever allocated: loading copies codes and scales as they are, and products decode
    in registers. Biases count as dense.

    Args:
        model: holds `TernaryLinear` layers.
        rows: rows of x that the layers get: tokens, or the batch for modulation layers.
        arch: a key of `ternfmt_kernels.triton_backend.configs.ARCHS`; decides how K is split.

    Raises:
        ValueError: ``arch`` is not known.
    """
    if arch not in configs.ARCHS:
        raise ValueError(f"arch: expected one of {', '.join(configs.ARCHS)}, got {arch!r}")
    packed: dict[int, Tensor] = {}
    workspace = 0
    for module in model.modules():
        if isinstance(module, TernaryLinear):
            tensors = [*module._parameters.values(), *module._buffers.values()]
            packed |= {id(t): t for t in tensors if t is not None and t is not module.bias}
            kind: configs.Kind = "w2a8" if module.int8_activations else "w2a16"
            shape = (rows, module.out_features, module.in_features)
            workspace = max(workspace, configs.workspace_bytes(arch, kind, *shape, rank=module.low_rank or 0))
    everything = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return DeviceMemory(
        packed=sum(t.nbytes for t in packed.values()),
        dense=sum(t.nbytes for key, t in everything.items() if key not in packed),
        workspace=workspace,
    )


def use_int8_activations(model: nn.Module, enabled: bool = True) -> int:
    """Let every `TernaryLinear` of ``model`` quantise its input to int8 (W2A8), or no longer; returns how many.

    One layer: set its ``int8_activations``.
    """
    layers = [module for module in model.modules() if isinstance(module, TernaryLinear)]
    for layer in layers:
        layer.int8_activations = enabled
    return len(layers)
