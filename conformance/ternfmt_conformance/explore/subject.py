"""What is explored: files, and what to ask of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..faults import changed_files, changed_models, faulty_files
from ..optional import st
from ..strategies import INDEX, models, sharded_models, valid_files

WHOLE = "model.safetensors"
SHARD = "model-00001-of-00002.safetensors"


@dataclass(frozen=True)
class Probe:
    """A read of one tensor. Numbers count from 0 and wrap, as the file may hold fewer.

    Attributes:
        op: ``unpack``, ``dequantize`` or ``matmul``.
        tensor, plane: which of them.
        rows: two row numbers, in any order.
        dtype: of the result, or of the activations.
        m: rows of the activations.
        x: their values, repeated as often as needed.
    """

    op: str
    tensor: int
    plane: int
    rows: tuple[int, int]
    dtype: str
    m: int
    x: tuple[int, ...]


@dataclass(frozen=True)
class Subject:
    """Files, and what to ask of them.

    Attributes:
        files: name -> bytes, in one folder.
        path: the file to read; empty: the folder.
        read_as, digests: of ``validate``.
        probe: what to read of the model if it is valid, or None.
    """

    files: Mapping[str, bytes]
    path: str
    read_as: str = "auto"
    digests: bool = False
    probe: Probe | None = None

    @property
    def size(self) -> tuple[int, int]:
        """What makes one subject smaller than another: bytes, then files."""
        return sum(map(len, self.files.values())), len(self.files)

    def write(self, folder: Path) -> Path:
        """Write the files into a folder, which is made; the path to ask about."""
        folder.mkdir(parents=True)
        for name, data in self.files.items():
            (folder / name).write_bytes(data)
        return folder / self.path


@st.composite
def subjects(draw: st.DrawFn, features: Collection[str], levels: Collection[str], one_shot: bool = False) -> Subject:
    """What implementations of these levels and features can be asked about.

    Args:
        draw: given by Hypothesis.
        features: those of SPEC section 5 that all of them implement.
        levels: those that all of them claim.
        one_shot: whether one of them knows ``validate PATH`` only.
    """
    kinds = ["faulty", "changed", "valid", *(["model", "changed model"] if "R3" in levels else [])]
    kind = draw(st.sampled_from(kinds))
    probes = draw(_probes(levels)) if kind in ("valid", "model") and "R2" in levels and not one_shot else None
    # Products are compared bit for bit, so they must be exact (SPEC S-12.3).
    exact = probes is not None and probes.op == "matmul"
    tensors = models([f for f in features if f != "low-rank"] if exact else features, exact)
    if kind == "model":
        return Subject(draw(tensors.flatmap(sharded_models)), draw(st.sampled_from(["", INDEX])), probe=probes)
    if kind == "changed model":
        files = draw(changed_models(features))
        return Subject(files, draw(st.sampled_from(["", *sorted(files.keys() - {"config.json"})])))
    if kind == "faulty":
        file = draw(faulty_files(features)).file
    elif kind == "changed":
        file = draw(changed_files(features))
    else:
        file = draw(tensors.flatmap(lambda held: valid_files(held, features)))
    shards = "R3" in levels
    name = draw(st.sampled_from([WHOLE, *([SHARD] if shards else [])]))
    read_as = "auto" if one_shot else draw(st.sampled_from(["auto", "whole", *(["shard"] if shards else [])]))
    digests = not one_shot and "R2" in levels and draw(st.booleans())
    return Subject({name: file}, name, read_as, digests, probes)


@st.composite
def _probes(draw: st.DrawFn, levels: Collection[str]) -> Probe:
    small = st.integers(0, 7)
    return Probe(
        draw(st.sampled_from(["unpack", "dequantize", *(["matmul"] if "R4" in levels else [])])),
        draw(small),
        draw(small),
        (draw(small), draw(small)),
        draw(st.sampled_from(["F32", "F16", "BF16"])),
        draw(st.integers(0, 5)),
        tuple(draw(st.lists(st.integers(-8, 8), min_size=1, max_size=16))),
    )
