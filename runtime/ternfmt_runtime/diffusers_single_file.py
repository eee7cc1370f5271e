"""``from_single_file``: ternary files under the names of a model's original code (BFL, ComfyUI)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ternfmt import Model, TernaryTensor
from ternfmt.check import check_ternary
from ternfmt.names import SCALE_SUFFIXES, used_suffixes

from .diffusers_load import misfit
from .linear import TernaryLinear
from .load import LoadError
from .row_ids import RowIds, is_stand_in
from .swap import places, swap


class Checkpoint(dict[str, Tensor]):
    """A state dict that knows its file."""

    path: str


class SingleFile:
    """A file whose tensors diffusers renames, splits and joins before it loads them.

    Attributes:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._rows = RowIds()

    @classmethod
    def of(cls, state_dict: dict[str, Tensor]) -> SingleFile | None:
        """The file behind a state dict, if it is ternary; None if it is dense.

        Raises:
            ValueError: ternary tensors without a file that describes them.
        """
        if isinstance(state_dict, Checkpoint):
            return cls(state_dict.path)
        for name in state_dict:
            if f"{name}{SCALE_SUFFIXES[0]}" in state_dict:
                raise ValueError(
                    f"{name!r} is ternary, but nothing says what its shape is: give from_single_file the path of the "
                    "safetensors file, with its metadata, in place of a state dict"
                )
        return None

    def stand_ins(self, state_dict: dict[str, Tensor], file: Model) -> dict[str, Tensor]:
        """The state dict with row ids in place of ternary tensors."""
        for name, entry in file.document.entries.items():
            for suffix in used_suffixes(entry.planes, entry.low_rank is not None):
                del state_dict[name + suffix]
            tensor = file[name]
            assert isinstance(tensor, TernaryTensor)
            state_dict[name] = self._rows.stand_in(tensor)
        return state_dict

    def place(self, model: nn.Module, state_dict: dict[str, Tensor], compute_dtype: torch.dtype | None) -> None:
        """Put ternary layers where the converted state dict has row ids, and take those out of it.

        Raises:
            LoadError: a ternary tensor does not fit the model.
            FormatError: SCALE, CODE or PADDING.
        """
        held, problems = places(model), []
        for name in [name for name, value in state_dict.items() if is_stand_in(value)]:
            try:
                tensor = self._rows.resolve(state_dict.pop(name))
                reason = misfit(model, name, tensor.shape, held)
            except ValueError as error:
                reason = str(error)
            if reason is not None:
                problems.append(f"{name!r}: ternary, but {reason}")
                continue
            check_ternary(tensor, f"{self.path}: {name!r}")
            linear = model.get_submodule(name.removesuffix(".weight"))
            assert isinstance(linear, nn.Linear)
            dtype = compute_dtype or linear.weight.dtype
            swap(held, linear, TernaryLinear.from_ternary(tensor, linear.bias, compute_dtype=dtype))
        if problems:
            raise LoadError(self.path, problems)
