"""The model whose weights become ternary, in memory, and which of its modules hold them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..plan import Plan
from ..torch_device import torch_device
from .blocks import Block, find_blocks, place_of


class ModelError(ValueError):
    """A checkpoint cannot be run as a model, or its tensors are not what the model has."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """The model whose weights become ternary: full precision, eval(), no gradients.

    Attributes:
        model: the diffusers transformer or transformers model, on ``device``.
        linears: ternary tensor's name in the checkpoint -> its linear, in the order of registration.
        names: parameter's or buffer's name in ``model`` -> the tensor's name in the checkpoint.
        blocks: repeated blocks in the order of registration, which is that of execution in known architectures.
        device: where it is.
    """

    model: nn.Module
    linears: Mapping[str, nn.Linear]
    names: Mapping[str, str]
    blocks: tuple[Block, ...]
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """In which it computes."""
        return place_of(self.model)[1]

    def block_place(self, name: str | None) -> torch.device:
        """Where blocks are worked on: the device of this name, or where the model is."""
        return self.device if name is None else torch.device(name)

    def alone(self, block: Block) -> LoadedModel:
        """A block as a model of its own, without blocks."""
        prefix = f"{block.name}."
        names = {name.removeprefix(prefix): of for name, of in self.names.items() if name.startswith(prefix)}
        return replace(self, model=block.module, linears=block.linears, names=names, blocks=())


def make_loaded(model: nn.Module, tensor_names: Collection[str], names: Mapping[str, str] | None = None) -> LoadedModel:
    """Prepare a model in memory: evaluation mode, no gradients, and no cache of keys and values.

    Args:
        model: the model; changed in place.
        tensor_names: the ternary tensors, by their names in the checkpoint.
        names: name in the model -> name in the checkpoint; None says that they are the same.

    Raises:
        ModelError: a tensor is not the weight of an `nn.Linear` of the model.
    """
    names = dict(names) if names is not None else {name: name for name in model.state_dict()}
    model.eval().requires_grad_(False)
    config: Any = getattr(model, "config", None)
    if getattr(config, "use_cache", False):
        config.use_cache = False  # a block that is run twice would see its first run's keys
    wanted = set(tensor_names)
    linears = {
        names[f"{path}.weight"]: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and names.get(f"{path}.weight") in wanted
    }
    missing = [name for name in tensor_names if name not in linears]
    if missing:
        raise ModelError(
            f"{type(model).__name__}: {len(missing)} ternary tensors are not the weight of an nn.Linear in it: "
            f"{', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}: "
            "keep them dense with --exclude, or use a method that needs no calibration"
        )
    return LoadedModel(model, linears, names, find_blocks(model, linears), place_of(model)[0])


def load_model(
    plan: Plan, *, device: str = "cpu", dtype: torch.dtype | None = None, trust_remote_code: bool = False
) -> LoadedModel:
    """Load the plan's checkpoint with diffusers or transformers.

    Args:
        plan: what is converted: a model's folder, or a component of a pipeline's.
        device: where to.
        dtype: in which it computes; None is the checkpoint's on an accelerator, and float32 on the CPU.
        trust_remote_code: run Python files that lie in the folder.

    Raises:
        ModelError: the checkpoint is a bare file, its class is unknown here, or its tensors are not the model's.
        ValueError: there is no such device.
        ImportError: diffusers or transformers is not installed.
    """
    place = torch_device(device)
    checkpoint = plan.checkpoint
    if checkpoint.folder is None or checkpoint.config is None:
        raise ModelError(
            f"{checkpoint.path}: expected the folder of a model or a pipeline, with config.json: "
            "a bare file does not say which model to run"
        )
    renamed = [n for n, r in plan.recipes.items() if len(r.parts) != 1 or r.parts[0].tensor != n]
    if renamed:
        raise ModelError(f"{checkpoint.path}: tensors are renamed ({renamed[0]}, ...): calibrate without --names")
    if dtype is None:
        dtype = torch.float32 if place.type == "cpu" else _checkpoint_dtype(plan)
    model = _from_folder(plan, dtype, trust_remote_code)
    return make_loaded(model.to(place), plan.ternary, _names(model, plan))


def dtype_argument(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """How this version of diffusers is told a dtype; 0.42 has renamed it."""
    import diffusers

    major, minor = map(int, diffusers.__version__.split(".")[:2])
    return {"dtype" if (major, minor) >= (0, 42) else "torch_dtype": dtype}


def is_diffusers(plan: Plan) -> bool:
    """Whether the checkpoint is a model of diffusers; else it is one of transformers."""
    return "_class_name" in (plan.checkpoint.config or {})


def _from_folder(plan: Plan, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    checkpoint = plan.checkpoint
    config = checkpoint.config or {}
    if is_diffusers(plan):
        import diffusers

        cls = getattr(diffusers, str(config["_class_name"]), None)
        if cls is None:
            raise ModelError(
                f"{checkpoint.folder}: diffusers {diffusers.__version__} has no class {config['_class_name']!r}"
            )
        return cls.from_pretrained(checkpoint.folder, **dtype_argument(dtype))
    import transformers

    architectures = config.get("architectures") or [None]
    cls = getattr(transformers, str(architectures[0]), None) or transformers.AutoModel
    try:
        return cls.from_pretrained(checkpoint.folder, dtype=dtype, trust_remote_code=trust_remote_code)
    except (ValueError, KeyError) as error:
        raise ModelError(f"{checkpoint.folder}: transformers cannot load it: {error}") from error


def _checkpoint_dtype(plan: Plan) -> torch.dtype:
    dtypes = {"F16": torch.float16, "BF16": torch.bfloat16}
    return dtypes.get(plan.recipes[plan.ternary[0]].dtype, torch.float32)


def _names(model: nn.Module, plan: Plan) -> dict[str, str]:
    """Name in the model -> name in the checkpoint; a prefix may stand before all names of one of the two."""
    prefix = getattr(model, "base_model_prefix", "") or "model"
    names = {}
    for name, value in model.state_dict().items():
        for candidate in (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}"):
            recipe = plan.recipes.get(candidate)
            if recipe is not None and tuple(recipe.shape) == tuple(value.shape):
                names[name] = candidate
                break
    return names
