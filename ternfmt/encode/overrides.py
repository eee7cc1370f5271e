"""Settings of single layers, from a JSON file.

The file is an object: glob on full tensor names -> settings. Of two rules that set the same key of a tensor the later
one wins; what one keeps dense stays dense::

    {"*": {"scale_dtype": "BF16"},
     "*.ff.net.2.weight": {"planes": 2},
     "single_transformer_blocks.0.*": {"dense": true}}

What a rule sets beats the dial (``--ratio``), which beats ``--method`` and ``--planes``. Rules choose among tensors
that become ternary; which do is up to the policy, ``--include`` and ``--exclude``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FormatError
from ..limits import GROUP_MULTIPLE, HEADER_MAX, K_MAX, PLANES_MAX
from ..strict_json import decode_utf8, parse_object
from .calibration import DATA_METHODS
from .methods import METHODS

if TYPE_CHECKING:
    from .settings import LayerSettings

SCALE_DTYPES = ("F16", "BF16", "F32")


@dataclass(frozen=True)
class Override:
    """One rule.

    Attributes:
        pattern: glob on full tensor names.
        changes: attributes of `LayerSettings` -> value; ``method`` and ``planes`` come together or not at all.
        dense: the tensors stay as they are.
        names_method: the method is stated, not only implied by the number of planes.
    """

    pattern: str
    changes: Mapping[str, Any]
    dense: bool = False
    names_method: bool = False

    @property
    def sets_planes(self) -> bool:
        """Whether the rule leaves nothing to the dial."""
        return self.dense or "planes" in self.changes


def read_overrides(path: str | Path) -> tuple[Override, ...]:
    """Read and check a file of overrides.

    Raises:
        ValueError: the file is not as stated; the message names the file, the pattern, the key and what was expected.
        OSError: the file cannot be read.
    """
    path = Path(path)
    if path.stat().st_size > HEADER_MAX:
        raise ValueError(f"{path}: expected at most {HEADER_MAX} bytes of JSON")
    try:
        rules = parse_object(decode_utf8(path.read_bytes(), str(path)), str(path), framed=False)
    except FormatError as error:
        raise ValueError(f"{path}: {error.message}; expected an object of glob -> settings") from error
    return tuple(_rule(pattern, value, f"{path}: {pattern!r}") for pattern, value in rules.items())


def check_matches(overrides: Iterable[Override], ternary: Sequence[str]) -> None:
    """Refuse a pattern that matches no tensor.

    Args:
        overrides: the rules.
        ternary: names of the tensors that become ternary.

    Raises:
        ValueError: names the pattern.
    """
    for override in overrides:
        if not any(fnmatchcase(name, override.pattern) for name in ternary):
            raise ValueError(
                f"override {override.pattern!r} matches none of the {len(ternary)} tensors that become ternary"
            )


def matching(overrides: Iterable[Override], name: str) -> Override:
    """The rules for one tensor as one rule; it changes nothing if none match."""
    changes: dict[str, Any] = {}
    dense = names_method = False
    for override in overrides:
        if fnmatchcase(name, override.pattern):
            changes |= override.changes
            dense = dense or override.dense
            names_method = names_method or override.names_method
    return Override(name, changes, dense, names_method)


def apply(overrides: Iterable[Override], name: str, default: LayerSettings) -> LayerSettings | None:
    """The settings of one tensor; None if it stays dense.

    Methods in `DATA_METHODS` solve all layers together: there a rule may change the planes, and the method stays.

    Raises:
        ValueError: a rule names another method than such a one.
    """
    override = matching(overrides, name)
    if override.dense:
        return None
    changes = dict(override.changes)
    if default.method in DATA_METHODS:
        if override.names_method:
            raise ValueError(
                f"{name!r}: an override names method {changes['method']!r}, but {default.method} solves all layers "
                "together: override 'planes' alone, or keep the tensor 'dense'"
            )
        changes.pop("method", None)
    return replace(default, **changes)


def _rule(pattern: str, value: Any, where: str) -> Override:
    keys = (*_CHECKS, "dense")
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{where}: expected an object with some of {', '.join(keys)}, got {value!r}")
    for key in value:
        if key not in keys:
            raise ValueError(f"{where}: {key!r}: expected one of {', '.join(keys)}")
    if "dense" in value:
        if value["dense"] is not True or len(value) > 1:
            raise ValueError(f"{where}: 'dense': expected true and no other key, got {value!r}")
        return Override(pattern, {}, dense=True)
    for key, found in value.items():
        is_valid, expected = _CHECKS[key]
        if not is_valid(found):
            raise ValueError(f"{where}: {key!r}: expected {expected}, got {found!r}")
    return Override(pattern, {**value, **_method_and_planes(value, where)}, names_method="method" in value)


def _method_and_planes(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Either of the two implies the other."""
    if "method" not in value and "planes" not in value:
        return {}
    method = value.get("method", "exact" if value.get("planes") == 1 else "planes")
    planes = value.get("planes", 2 if method == "planes" else 1)
    if (method == "planes") != (planes > 1):
        expected = f"2 to {PLANES_MAX}" if method == "planes" else "1"
        raise ValueError(f"{where}: 'planes': expected {expected} with method {method!r}, got {planes}")
    return {"method": method, "planes": planes}


def _is_integer(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "method": (lambda v: isinstance(v, str) and v in METHODS, f"one of {', '.join(METHODS)}"),
    "planes": (lambda v: _is_integer(v, 1, PLANES_MAX), f"1 to {PLANES_MAX}"),
    "group_size": (
        lambda v: v is None or (_is_integer(v, 1, K_MAX) and v % GROUP_MULTIPLE == 0),
        f"a multiple of {GROUP_MULTIPLE}, or null for one scale a row",
    ),
    "scale_dtype": (lambda v: isinstance(v, str) and v in SCALE_DTYPES, f"one of {', '.join(SCALE_DTYPES)}"),
}
"""Key of a rule -> (test, what it expects)."""
