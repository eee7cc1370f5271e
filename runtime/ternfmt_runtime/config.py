"""`TernaryConfig`: how diffusers and transformers are told that a model is ternary, or to be made so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from ternfmt import FormatError, Kind, Model
from ternfmt.encode.methods import METHODS
from ternfmt.limits import GROUP_MULTIPLE, PLANES_MAX
from ternfmt.metadata import VERSION

from .linear import COMPUTE_DTYPES
from .plugins import join_in

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in COMPUTE_DTYPES}


class QuantMethod(str, Enum):
    """What ``quant_method`` is; diffusers asks for its ``.value``, both libraries use it as a string."""

    TERNFMT = "ternfmt"


def _mixins() -> tuple[type, ...]:
    """The base class that each installed library expects of a quantisation config."""
    modules = {
        "diffusers": "diffusers.quantizers.quantization_config",
        "transformers": "transformers.utils.quantization_config",
    }
    return tuple(
        import_module(module).QuantizationConfigMixin
        for library, module in modules.items()
        if find_spec(library) is not None
    )


_Mixins: Any = type("_Mixins", _mixins(), {})


@dataclass(kw_only=True, repr=False)
class TernaryConfig(_Mixins):  # type: ignore[misc]
    """The ``quantization_config`` of a ternary model, for diffusers and transformers alike.

    Given for a dense model it says how to quantise it. For a model that is ternary already the file
    says what it is, and a config that states something else is an error.

    Attributes:
        method: ``"exact"``, ``"absmean"`` or ``"planes"``, as for `ternfmt.quantize`.
        planes: planes that add up, 2 to 4, with method ``"planes"``; None is 2.
        group_size: columns that share a scale, a multiple of 16; None for one scale a row.
        modules_to_not_convert: modules that stay dense. A name stands for every module whose dotted
            name contains it: ``"norm1"`` for ``transformer_blocks.0.norm1.linear``. Or a shell
            pattern for the whole name: ``"transformer_blocks.0.*"``.
        compute_dtype: dtype of what PEFT adds and `dequantize` gives; None is the model's.
        format_version: ``"major.minor"`` of the files beside this config; None if there are none yet.
        quant_method: ``"ternfmt"``.
    """

    method: str = "exact"
    planes: int | None = None
    group_size: int | None = None
    modules_to_not_convert: list[str] | None = None
    compute_dtype: torch.dtype | None = None
    format_version: str | None = None
    quant_method: QuantMethod = QuantMethod.TERNFMT

    def __post_init__(self) -> None:
        self.quant_method = QuantMethod(self.quant_method)
        if isinstance(self.compute_dtype, str):
            self.compute_dtype = _DTYPES.get(self.compute_dtype.removeprefix("torch."), self.compute_dtype)
        if self.compute_dtype not in (None, *COMPUTE_DTYPES):
            raise ValueError(f"compute_dtype: expected one of {', '.join(_DTYPES)}, got {self.compute_dtype!r}")
        if self.method not in METHODS:
            raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {self.method!r}")
        if self.planes is not None and self.method != "planes":
            raise ValueError(f'planes={self.planes} needs method="planes", got {self.method!r}')
        if self.planes is not None and not 2 <= self.planes <= PLANES_MAX:
            raise ValueError(f"planes: expected 2 to {PLANES_MAX}, got {self.planes}")
        if self.group_size is not None and (self.group_size < 1 or self.group_size % GROUP_MULTIPLE):
            raise ValueError(f"group_size: expected a multiple of {GROUP_MULTIPLE}, got {self.group_size}")

    @classmethod
    def from_dict(
        cls, config_dict: Mapping[str, Any], return_unused_kwargs: bool = False, **kwargs: Any
    ) -> TernaryConfig | tuple[TernaryConfig, dict[str, Any]]:
        """The config that config.json states; keys that this version does not know are ignored."""
        known = {field.name for field in fields(cls)}
        stated = {**config_dict, **kwargs}
        config = cls(**{key: value for key, value in stated.items() if key in known})
        unused = {key: value for key, value in kwargs.items() if key not in known}
        return (config, unused) if return_unused_kwargs else config

    def to_dict(self) -> dict[str, Any]:
        """What config.json states: method and version, and settings other than the default ones."""
        value: dict[str, Any] = {"quant_method": self.quant_method.value}
        value["format_version"] = self.format_version or VERSION
        for field in fields(self):
            setting = getattr(self, field.name)
            if field.name not in value and setting != field.default:
                value[field.name] = setting
        if self.compute_dtype is not None:
            value["compute_dtype"] = str(self.compute_dtype).removeprefix("torch.")
        return value

    def to_diff_dict(self) -> dict[str, Any]:
        """The same: defaults are left out already."""
        return self.to_dict()

    def keeps_dense(self, module: str) -> bool:
        """Whether ``modules_to_not_convert`` covers the module of this dotted name."""
        return any(
            f".{kept}." in f".{module}." or fnmatchcase(module, kept) for kept in self.modules_to_not_convert or ()
        )

    def check(self, file: Model) -> None:
        """Check that the file is what the config states (SPEC S-7.8).

        Raises:
            FormatError: CONFIG; names the file, the module, and both values.
        """
        for header, document in zip(file.stored.headers, file.documents, strict=True):
            if self.format_version not in (None, document.version):
                _fail(header.file, "format_version", self.format_version, document.version)
        for info in file.tensors.values():
            if not info.ternary:
                continue
            where = f"{info.file}: {info.name!r}"
            if self.keeps_dense(info.name.removesuffix(".weight")):
                _fail(where, "modules_to_not_convert", self.modules_to_not_convert, "ternary")
            if self.planes not in (None, info.planes):
                _fail(where, "planes", self.planes, info.planes)
            if self.group_size not in (None, info.group_size):
                _fail(where, "group_size", self.group_size, info.group_size)


def _fail(where: str, key: str, stated: object, actual: object) -> None:
    raise FormatError(
        Kind.CONFIG,
        where,
        f"quantization_config states {key} {stated!r}, the file has {actual!r}. The file is right: "
        f"remove {key!r} from the quantization_config",
    )


join_in()  # now also with the libraries that found this module unfinished while it was importing them
