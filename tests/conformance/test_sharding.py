"""Properties of the reference implementation on models in several files; conformance/README.md lists all properties."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ternfmt
from ternfmt import FormatError, Kind
from ternfmt_conformance.files.raw import plain
from ternfmt_conformance.strategies import INDEX, models, sharded_models, valid_files
from tests.conformance.test_properties import contents


@given(models().flatmap(lambda tensors: st.tuples(valid_files(tensors), sharded_models(tensors))))
@settings(max_examples=40)
def test_any_sharding_equals_one_file(tmp_path_factory: pytest.TempPathFactory, drawn: Any) -> None:
    file, shards = drawn
    folder = tmp_path_factory.mktemp("model")
    (folder / "shards").mkdir()
    (folder / "whole.safetensors").write_bytes(file)
    for name, data in shards.items():
        (folder / "shards" / name).write_bytes(data)
    ternfmt.validate(folder / "shards")
    assert contents(folder / "shards") == contents(folder / "whole.safetensors")
    assert contents(folder / "shards" / INDEX) == contents(folder / "whole.safetensors")


_opened: list[str] | None = None


def _record(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event in ("open", "os.listdir", "os.scandir"):
        _opened.append(str(arguments[0]))


@contextmanager
def recording() -> Iterator[list[str]]:
    """The files and folders that are opened meanwhile."""
    global _opened
    if not hasattr(recording, "installed"):  # an audit hook stays for good
        sys.addaudithook(_record)
        recording.installed = True  # type: ignore[attr-defined]
    _opened = opened = []
    try:
        yield opened
    finally:
        _opened = None


HOSTILE_NAMES = [
    "../secret",
    "/etc/hostname",
    "a/../../secret",
    "..",
    ".",
    "",
    "sub/x",
    "..\\secret",
    "C:secret",
    "~/x",
]


@given(
    st.dictionaries(
        st.sampled_from(["b", "w", "w_scale", "x"]),
        st.one_of(
            st.sampled_from([*HOSTILE_NAMES, "model.safetensors", "other.safetensors"]),
            st.text(st.sampled_from("./\\:~ab\x00\x7f"), max_size=6),
        ),
        min_size=1,
    )
)
@settings(max_examples=150)
def test_whatever_the_index_says_only_plain_names_in_its_folder_are_opened(
    tmp_path_factory: pytest.TempPathFactory, weight_map: dict[str, str]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "indexed" / "model"
    (folder / "sub").mkdir(parents=True, exist_ok=True)
    for place in (folder / "model.safetensors", folder / "sub" / "x", folder.parent / "secret"):
        place.write_bytes(plain().build())
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with recording() as opened:
        kind = None
        try:
            ternfmt.validate(folder)
        except FormatError as error:
            kind = error.kind
        assert kind in (None, Kind.PATH, Kind.INDEX)
    assert str(folder / INDEX) in opened
    plain_names = {str(folder / name) for name in ("model.safetensors", INDEX)}
    assert {name for name in opened if Path(name).is_absolute()} <= {str(folder), *plain_names}
