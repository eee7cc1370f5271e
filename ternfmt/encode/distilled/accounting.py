"""Memory and time of a distillation, worked out before it is begun.

Weights, gradients and optimizer states are counted from shapes. Activations are counted by running the model's own
forward pass on meta tensors, which have shapes and no values, and adding up what autograd keeps for the backward pass.
What an accelerator's libraries need on top is left to `HEADROOM`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from ...pack import packed_columns
from ..data.calls import tensors_in
from ..settings import LayerSettings
from ..torch_device import free_bytes
from .muon import STACKED, orthogonalise_flops
from .settings import DistilledSettings, SettingsError
from .student import dense_parameters

if TYPE_CHECKING:
    from ..data.model import LoadedModel

HEADROOM = 0.9
"""Share of a device's memory that may be planned with: the rest is for its libraries, fragments and temporaries."""

F32 = 4


@dataclass(frozen=True)
class Memory:
    """Bytes on the device while training.

    Attributes:
        teacher: its weights; end to end they are needed beside the student's.
        student: latent weights or packed codes, scales, dense tensors and low-rank branches.
        gradients: of everything that is trained.
        optimizer: Muon's momentum, and AdamW's two moments and count of steps.
        workspace: of Muon's iterations.
        activations: what autograd keeps, or 0 where it has not been counted.
    """

    teacher: int
    student: int
    gradients: int
    optimizer: int
    workspace: int = 0
    activations: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.teacher + self.student + self.gradients + self.optimizer + self.workspace + self.activations


@dataclass(frozen=True)
class Inventory:
    """What is trained.

    Attributes:
        shapes: ``(N, K, planes, rank)`` of each ternary tensor.
        dense: elements of each trained dense tensor, biases of ternary layers among them.
        fixed: elements of parameters that are neither.
    """

    shapes: tuple[tuple[int, int, int, int], ...]
    dense: tuple[int, ...]
    fixed: int

    @property
    def weights(self) -> int:
        """Ternary weights."""
        return sum(n * k for n, k, _, _ in self.shapes)

    def optimizer_flops(self, settings: DistilledSettings) -> int:
        """Floating-point operations of the optimizer in a step; AdamW's few are left out."""
        return sum(orthogonalise_flops(n, k) for n, k, _, _ in self.shapes) if settings.train_codes else 0

    @property
    def elements(self) -> int:
        """Parameters of the teacher."""
        return self.weights + sum(self.dense) + self.fixed

    def memory(self, settings: DistilledSettings, *, teacher_bytes: int, activations: int = 0) -> Memory:
        """Bytes while this is trained.

        Args:
            settings: ``train_codes`` matters.
            teacher_bytes: bytes of a weight of the teacher.
            activations: counted elsewhere.
        """
        branches = [rank * size for n, k, _, rank in self.shapes for size in (n, k) if rank]
        small = [n * planes for n, _, planes, _ in self.shapes] + list(self.dense) + branches
        if settings.train_codes:
            codes, trained = F32 * self.weights, self.weights
            momentum = F32 * self.weights
            stack = max((min(max(STACKED, n * k), _same(self.shapes, n, k)) for n, k, _, _ in self.shapes), default=0)
            workspace = 4 * F32 * stack
        else:
            codes, trained = sum(p * n * packed_columns(k) for n, k, p, _ in self.shapes), 0
            momentum = workspace = 0
        return Memory(
            teacher=teacher_bytes * self.elements,
            student=codes + F32 * (sum(small) + self.fixed),
            gradients=F32 * (trained + sum(small)),
            optimizer=momentum + sum(2 * F32 * size + F32 for size in small),
            workspace=workspace,
            activations=activations,
        )


def inventory(
    loaded: LoadedModel,
    layers: Mapping[str, LayerSettings],
    settings: DistilledSettings,
    dense_dtypes: Mapping[str, str],
) -> Inventory:
    """Count a model's parameters; nothing is allocated, and a meta model will do."""
    chosen = {name: linear for name, linear in loaded.linears.items() if name in layers}
    ternary = {id(linear.weight) for linear in chosen.values()}
    dense = dense_parameters(loaded.model, loaded, chosen, settings, dense_dtypes)
    sizes = [p.numel() for p in dense.values() if id(p) not in ternary]
    whole = sum(p.numel() for p in loaded.model.parameters())
    shapes = tuple(
        (linear.out_features, linear.in_features, layers[name].planes, layers[name].low_rank)
        for name, linear in chosen.items()
    )
    return Inventory(shapes, tuple(sizes), whole - sum(sizes) - sum(n * k for n, k, _, _ in shapes))


@dataclass(frozen=True)
class Activations:
    """Bytes that autograd keeps of one forward pass.

    Attributes:
        whole: for an ordinary pass.
        recomputed: where blocks keep their inputs alone and one block at a time is run again.
    """

    whole: int
    recomputed: int


def count_activations(run: Callable[[], Any], blocks: Sequence[nn.Module], parameters: Iterable[Tensor]) -> Activations:
    """Run a forward pass with gradients and add up what it keeps, each storage once.

    Args:
        run: the pass, on meta tensors or real ones.
        blocks: parts of the model that might be recomputed.
        parameters: are not counted, they are there anyhow.
    """
    known = {p.untyped_storage()._cdata for p in parameters}
    kept: list[Tensor] = []  # alive, so that no storage is freed and its address used again
    total = 0
    in_blocks: list[int] = []
    inputs: list[int] = []
    entered: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            known.add(storage._cdata)
            kept.append(tensor)
            total += storage.nbytes()
        return tensor

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        entered.append(total)
        inputs.append(sum(t.numel() * t.element_size() for _, t in tensors_in((args, kwargs))))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        in_blocks.append(total - entered.pop())

    handles = [block.register_forward_pre_hook(enter, with_kwargs=True) for block in blocks]
    handles += [block.register_forward_hook(leave) for block in blocks]
    try:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            answer = run()
    finally:
        for handle in handles:
            handle.remove()
    del answer
    if not in_blocks:
        return Activations(total, total)
    return Activations(total, total - sum(in_blocks) + sum(inputs) + max(in_blocks))


def count_flops(run: Callable[[], Any]) -> int:
    """Floating-point operations of matrix products in a forward pass, on meta tensors or real ones."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        run()
    return int(counter.get_total_flops())


def seconds(
    flops: int,
    optimizer_flops: int,
    settings: DistilledSettings,
    *,
    flops_per_second: float,
    utilisation: float,
    teacher_too: bool = True,
) -> float:
    """Time of a run.

    Args:
        flops: of a forward pass of one sample.
        optimizer_flops: of the optimizer in a step.
        settings: steps, batch, whether blocks are computed again.
        flops_per_second: what the device's sheet says for the dtype.
        utilisation: the share of it that is reached, an assumption.
        teacher_too: its forward pass is part of each step.
    """
    passes = 3 + settings.recompute + teacher_too  # the backward pass takes two
    return (flops * passes * settings.batch + optimizer_flops) * settings.steps / (flops_per_second * utilisation)


def student_bytes(loaded: LoadedModel, layers: Mapping[str, LayerSettings], settings: DistilledSettings) -> int:
    """What training takes on the device beside the teacher, but for activations."""
    dense = {name: "F32" for name in loaded.names.values() if name not in layers}
    return inventory(loaded, layers, settings, dense).memory(settings, teacher_bytes=0).total


def choose_blockwise(loaded: LoadedModel, layers: Mapping[str, LayerSettings], settings: DistilledSettings) -> bool:
    """Whether a student beside its teacher is too much for the memory there is; activations are not looked at."""
    free = free_bytes(loaded.device)
    return free is not None and student_bytes(loaded, layers, settings) > HEADROOM * free


def check_memory(
    loaded: LoadedModel, layers: Mapping[str, LayerSettings], settings: DistilledSettings, *, blockwise: bool
) -> None:
    """Refuse what does not fit even without its activations: the whole student, or block by block its largest block.

    Raises:
        SettingsError: there is less memory.
    """
    device = loaded.device
    if blockwise:
        device = loaded.block_place(settings.block_device)
        parts = {
            f"block {block.name!r}": student_bytes(loaded.alone(block), layers, settings)
            for block in loaded.blocks
            if not layers.keys().isdisjoint(block.linears)
        }
    else:
        parts = {"the whole student": student_bytes(loaded, layers, settings)}
    what, needed = max(parts.items(), key=lambda part: part[1])
    free = free_bytes(device)
    if free is not None and needed > free:
        less = "use --keep-codes, which takes a fraction, or" if settings.train_codes else "use"
        raise SettingsError(
            f"{what} takes {needed / 1e9:.3g} GB of {device} while it is trained, and activations beside, but "
            f"{free / 1e9:.3g} GB are free: {less} a device with more"
        )


def _same(shapes: Sequence[tuple[int, int, int, int]], n: int, k: int) -> int:
    """Weights of all matrices of a shape, which Muon stacks as far as `STACKED` allows."""
    return sum(a * b for a, b, _, _ in shapes if (a, b) == (n, k))
