"""What a method that looks at the whole model has found, kept on disk until the output files are written.

A rule like `exact` needs a row at a time and works while weights stream by. `calibrated` and `distilled` solve a part
of the model at a time, a block or all of it; what they find waits here, so that an interrupted run loses the part it
was at and no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ...reader import open_model
from ...tensor import Array, TernaryTensor
from ...writer import save

Solved = TernaryTensor | Array
"""A ternary tensor, or a dense one that replaces the source's."""


class Solution(Mapping[str, Solved]):
    """Solved tensors by name, in one ternfmt file a part.

    Attributes:
        folder: holds ``PART.safetensors`` for each finished part.
    """

    def __init__(self, folder: Path) -> None:
        """Open the folder, which is made if need be."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._parts: dict[str, str] = {}
        for path in sorted(folder.glob("*.safetensors")):
            self._index(path.stem)

    def parts(self) -> set[str]:
        """The parts that are solved."""
        return set(self._parts.values())

    def add(self, part: str, tensors: Mapping[str, Solved]) -> None:
        """Keep a part: its file is there whole or not at all.

        Raises:
            ValueError: a tensor belongs to another part already.
            OSError: writing fails.
        """
        for name in tensors:
            if self._parts.get(name, part) != part:
                raise ValueError(f"{name!r} is in part {self._parts[name]!r} already, not {part!r}")
        save(self._path(part), tensors)
        self._index(part)

    def __getitem__(self, name: str) -> Solved:
        """Read a tensor.

        Raises:
            KeyError: it is in no part.
        """
        with open_model(self._path(self._parts[name])) as model:
            found = model[name]
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def _path(self, part: str) -> Path:
        return self.folder / f"{part}.safetensors"

    def _index(self, part: str) -> None:
        with open_model(self._path(part)) as model:
            self._parts.update(dict.fromkeys(model, part))
