"""Typed format errors: one class of fault per SPEC section 10 row."""

from __future__ import annotations

from enum import Enum


class Kind(str, Enum):
    """The error classes of SPEC section 10, in the order their first check runs."""

    PREFIX = "PREFIX"
    HEADER_LEN = "HEADER_LEN"
    ENCODING = "ENCODING"
    JSON = "JSON"
    DUPLICATE = "DUPLICATE"
    NAME = "NAME"
    TENSOR_INFO = "TENSOR_INFO"
    OVERFLOW = "OVERFLOW"
    LAYOUT = "LAYOUT"
    SIZE = "SIZE"
    STRIPPED = "STRIPPED"
    VERSION = "VERSION"
    FEATURE = "FEATURE"
    METADATA = "METADATA"
    SCALE = "SCALE"
    CODE = "CODE"
    PADDING = "PADDING"
    PATH = "PATH"
    INDEX = "INDEX"
    CONFIG = "CONFIG"
    DIGEST = "DIGEST"

    def __str__(self) -> str:
        return self.value


class FormatError(ValueError):
    """A file that is not valid ternfmt.

    Attributes:
        kind: the error class of SPEC section 10; the only part other readers must agree on.
        location: the file and, where there is one, the tensor: ``"model.safetensors: 'x.weight'"``.
        message: expected and actual value, and what to do where something can be done.
    """

    def __init__(self, kind: Kind, location: str, message: str) -> None:
        location, message = _shortened(location), _shortened(message)
        super().__init__(f"{kind}: {location}: {message}")
        self.kind = kind
        self.location = location
        self.message = message

    def __reduce__(self) -> tuple[type[FormatError], tuple[Kind, str, str]]:
        return FormatError, (self.kind, self.location, self.message)


def _shortened(text: str) -> str:
    """A file's contents can make a message as long as the file: keep the start and the end."""
    return text if len(text) <= 800 else f"{text[:600]} ... {text[-150:]}"
