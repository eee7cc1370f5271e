"""ternfmt: the open format for ternary models. See SPEC.md for the format itself."""

from .encode.quantize import quantize
from .encode.weights import WeightError
from .errors import FormatError, Kind
from .reader import Model, TensorInfo
from .reader import open_model as open
from .tensor import LowRank, Plane, TernaryTensor, concatenate_rows
from .validate import Validation, validate
from .version import __version__
from .writer import Writer, save

__all__ = [
    "FormatError",
    "Kind",
    "LowRank",
    "Model",
    "Plane",
    "TensorInfo",
    "TernaryTensor",
    "Validation",
    "WeightError",
    "Writer",
    "__version__",
    "concatenate_rows",
    "open",
    "quantize",
    "save",
    "validate",
]
