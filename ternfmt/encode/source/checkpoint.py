"""From what the user named to the weights it stands for: a file, an index, a model's folder or a whole pipeline."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from ...index import FILE_SUFFIX, INDEX_SUFFIX, Index, read_index

PIPELINE_FILE = "model_index.json"
CONFIG_FILE = "config.json"
DEFAULT_COMPONENT = "transformer"

TORCH_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
"""What ``torch.save`` writes: pickles. They are read with ``weights_only=True``, which runs no code of theirs."""

_KINDS = {"safetensors": (FILE_SUFFIX,), "torch": TORCH_SUFFIXES}
"""Kind of file -> its suffixes, the preferred kind first."""

_OTHER_FORMATS = {
    ".gguf": "GGUF, whose weights are quantised already",
    ".h5": "TensorFlow's",
    ".msgpack": "Flax's",
    ".ot": "Rust's",
    ".onnx": "ONNX",
}
_MAGIC = {
    b"GGUF": "GGUF, whose weights are quantised already: name the original checkpoint",
    b"version https://git-lfs": "a Git LFS pointer, not the weights: `git lfs pull` fetches them",
}

_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
"""Names under which diffusers and transformers look for weights."""

INDEX_NAME = re.compile(r"(?P<stem>.+)\.(?P<kind>safetensors|bin)\.index(?:\.(?P<variant>[^.]+))?\.json")
_WEIGHTS = re.compile(
    rf"(?P<stem>{'|'.join(_STEMS)})(?:\.(?P<variant>[^.]+?))?(?:-\d+-of-\d+)?\.(?P<kind>safetensors|bin)"
)
_SHARD = re.compile(r"-\d+-of-\d+\.[a-z]+\Z")


@dataclass(frozen=True)
class Checkpoint:
    """A dense checkpoint.

    Attributes:
        path: as the user named it.
        files: the files that hold the weights, by ascending name.
        kind: ``"safetensors"`` or ``"torch"``.
        stem: what output files are called: ``STEM.safetensors``, or ``STEM-00001-of-00002.safetensors`` and
            ``STEM.safetensors.index.json``.
        index: the index of the files, if they have one.
        folder: the model's folder, if it, or a pipeline, was named.
        config: the folder's ``config.json``, if it has one.
        pipeline: the pipeline's folder, if one was named; ``folder`` lies in it.
        component: the part of the pipeline that is converted.
    """

    path: Path
    files: tuple[Path, ...]
    kind: str
    stem: str
    index: Index | None = None
    folder: Path | None = None
    config: Mapping[str, Any] | None = None
    pipeline: Path | None = None
    component: str | None = None

    @property
    def is_folder(self) -> bool:
        """Whether the output is a folder; else it is a file."""
        return self.folder is not None or self.index is not None

    @property
    def subfolder(self) -> str:
        """Where in the output folder the weights and ``config.json`` go: ``""``, or the component's name."""
        return self.component or ""

    @property
    def homes(self) -> list[Path]:
        """Folders whose card and licence are this model's: its own, and that of a pipeline it is part of."""
        home = self.pipeline or self.folder or self.path.absolute().parent
        around = home.absolute().parent
        return [home, around] if (around / PIPELINE_FILE).is_file() else [home]


def find_checkpoint(path: Path, component: str | None = None) -> Checkpoint:
    """Find the weights behind a path. Reads indices and configs, no weights.

    Args:
        path: a safetensors or torch file, an index, a folder of diffusers or transformers, or a pipeline's folder.
        component: the part of a pipeline to convert; None is ``transformer``.

    Raises:
        ValueError: there are no weights, or several that could be meant, or of a format that is not read, or they
            are quantised already; says what to do.
        FormatError: an index is not one.
        OSError: a file does not exist or cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; from the Hub, `hf download` it first")
    if (path / PIPELINE_FILE).is_file():
        return _in_pipeline(path, component or DEFAULT_COMPONENT)
    if component is not None:
        raise ValueError(f"--component {component}: {path} is not the folder of a pipeline: no {PIPELINE_FILE} in it")
    if path.is_dir():
        return _in_folder(path)
    if INDEX_NAME.fullmatch(path.name):
        return _behind_index(path)
    return _one_file(path)


def _in_pipeline(path: Path, component: str) -> Checkpoint:
    parts = pipeline_components(path)
    if component not in parts or not (path / component).is_dir():
        raise ValueError(
            f"{path}: the pipeline has no {component!r}; choose one of {', '.join(parts)} with --component"
        )
    return replace(_in_folder(path / component), path=path, pipeline=path, component=component)


def pipeline_components(path: Path) -> list[str]:
    """The parts of a pipeline that ``model_index.json`` names.

    Raises:
        ValueError: it is not a JSON object.
    """
    value = _read_json(path / PIPELINE_FILE)
    return [name for name, part in value.items() if isinstance(part, list) and part[:1] not in ([], [None])]


def _in_folder(path: Path) -> Checkpoint:
    snapshots = path / "snapshots"
    if snapshots.is_dir() and path.name.startswith("models--"):
        revisions = sorted(str(folder) for folder in snapshots.iterdir())
        raise ValueError(f"{path} is the Hub's cache of a model; name a revision in it: {', '.join(revisions)}")
    config = _read_json(path / CONFIG_FILE) if (path / CONFIG_FILE).exists() else None
    _refuse_quantised(path / CONFIG_FILE, config or {})
    found = _find_weights(path)
    checkpoint = _behind_index(found) if INDEX_NAME.fullmatch(found.name) else _one_file(found)
    return replace(checkpoint, path=path, folder=path, config=config)


def _find_weights(folder: Path) -> Path:
    """The one index or file that holds a folder's weights."""
    names = sorted(entry.name for entry in folder.iterdir() if not entry.is_dir())
    _refuse_variants(folder, names)
    for suffixes in _KINDS.values():
        indices = [n for n in names if (match := INDEX_NAME.fullmatch(n)) and f".{match['kind']}" in suffixes]
        files = [n for n in names if n.endswith(suffixes)]
        # Beside the model's weights there may be others: an optimiser's state, an adapter.
        usual = [n for n in files if _WEIGHTS.fullmatch(n) and not _SHARD.search(n)]
        candidates = indices or usual or files
        if len(candidates) > 1 or any(map(_SHARD.search, candidates)):
            hint = "their index is missing" if all(map(_SHARD.search, candidates)) else "name one of them"
            raise ValueError(f"{folder}: expected one index or file of weights, got {_listed(candidates)}: {hint}")
        if candidates:
            return folder / candidates[0]
    for name in names:
        _refuse_format(folder / name)
    raise ValueError(f"{folder}: no weights in it: expected an index or a file named *{FILE_SUFFIX}")


def _refuse_variants(folder: Path, names: Sequence[str]) -> None:
    """Refuse a folder that holds the weights twice, such as in F32 and in F16."""
    held: dict[str, str] = {}
    for name in names:
        match = _WEIGHTS.fullmatch(name) or INDEX_NAME.fullmatch(name)
        if match and match["kind"] == "safetensors":
            held.setdefault(match["variant"] or "", name)
    if len(held) > 1:
        raise ValueError(
            f"{folder}: holds the weights more than once, as {_listed(list(held.values()))}: "
            "name the file or the index to convert, or keep only one of them in the folder"
        )


def _behind_index(path: Path) -> Checkpoint:
    index = read_index(path)
    files = tuple(path.parent / name for name in sorted(set(index.weight_map.values())))
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ValueError(f"{path}: lists {_listed(missing)}, not in {path.parent}: fetch what is missing")
    match = INDEX_NAME.fullmatch(path.name)
    assert match is not None
    kind = "safetensors" if match["kind"] == "safetensors" else "torch"
    return Checkpoint(path, files, kind, _output_stem(match["stem"]), index)


def _one_file(path: Path) -> Checkpoint:
    _refuse_format(path)
    if path.suffix == ".json":
        raise ValueError(f"{path}: holds no weights; name the folder, or a file named *{INDEX_SUFFIX}")
    with path.open("rb") as stream:
        start = stream.read(32)
    for magic, what in _MAGIC.items():
        if start.startswith(magic):
            raise ValueError(f"{path} is {what}")
    match = _WEIGHTS.fullmatch(path.name)
    kind = "torch" if path.name.endswith(TORCH_SUFFIXES) else "safetensors"
    return Checkpoint(path, (path,), kind, _output_stem(match["stem"] if match else path.stem))


def _output_stem(stem: str) -> str:
    """Of transformers, pickles are called ``pytorch_model`` and safetensors files ``model``."""
    return "model" if stem == "pytorch_model" else stem


def _refuse_format(path: Path) -> None:
    what = _OTHER_FORMATS.get(path.suffix)
    if what is not None:
        expected = ", ".join(f"*{suffix}" for suffix in (FILE_SUFFIX, INDEX_SUFFIX, *TORCH_SUFFIXES))
        raise ValueError(f"{path}: the format is {what}; expected one of {expected}")


def _refuse_quantised(path: Path, config: Mapping[str, Any]) -> None:
    quantization = config.get("quantization_config")
    if quantization is None:
        return
    method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
    if method == "ternfmt":
        raise ValueError(f"{path.parent} is ternfmt already; `ternfmt dequantize` it first")
    raise ValueError(f"{path}: the weights are quantised already, by {method!r}: convert the original checkpoint")


def _read_json(path: Path) -> dict[str, Any]:
    def fail(message: str) -> NoReturn:
        raise ValueError(f"{path}: expected a JSON object, {message}")

    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        fail(f"but it does not parse: {error}")
    return value if isinstance(value, dict) else fail(f"got {type(value).__name__}")


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(names[:5])
    return f"{text} and {len(names) - 5} more" if len(names) > 5 else text
