"""Shards, index, folders and config: SPEC section 7."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import ternfmt
from ternfmt import FormatError, Kind
from ternfmt.index import _equals
from ternfmt.strict_json import NonInteger
from ternfmt_conformance.files.bad_models import MODEL_CASES, ONE, TWO, ModelCase, two_shards
from ternfmt_conformance.files.raw import DROP, declare, document, entry, features, plain, put


@pytest.mark.parametrize("case", MODEL_CASES, ids=lambda case: f"{case.kind}: {case.name}")
def test_fault_is_refused_with_its_class(case: ModelCase, tmp_path: Path) -> None:
    path = case.write(tmp_path)
    model = two_shards()
    case.mutate(model)
    with pytest.raises(FormatError) as caught:
        ternfmt.validate(path, strict_links=model.strict_links)
    assert caught.value.kind is case.kind, str(caught.value)


def test_case_names_are_unique() -> None:
    assert len({case.name for case in MODEL_CASES}) == len(MODEL_CASES)


@pytest.mark.parametrize("strict_links", [False, True])
@pytest.mark.parametrize("name", [".", "model.safetensors.index.json"])
def test_the_model_without_faults_is_valid(tmp_path: Path, strict_links: bool, name: str) -> None:
    two_shards().write(tmp_path)
    result = ternfmt.validate(tmp_path / name, strict_links=strict_links)
    assert (result.files, result.ternary, result.dense) == (2, 1, 1)


def test_sharding_changes_no_value(tmp_path: Path) -> None:
    (tmp_path / "whole.safetensors").write_bytes(plain().build())
    (tmp_path / "shards").mkdir()
    two_shards().write(tmp_path / "shards")
    with (
        ternfmt.open(tmp_path / "whole.safetensors") as whole,
        ternfmt.open(tmp_path / "shards") as shards,
    ):
        assert list(whole) == list(shards)
        assert whole["w"].dequantize().tobytes() == shards["w"].dequantize().tobytes()
        np.testing.assert_array_equal(whole["b"], shards["b"])


def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    model = two_shards()
    model.links = {ONE: "blobs/one", TWO: "blobs/two"}
    assert ternfmt.validate(model.write(tmp_path)).files == 2


def test_the_index_may_be_a_symbolic_link(tmp_path: Path) -> None:
    two_shards().write(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    (tmp_path / "blobs").mkdir()
    index.rename(tmp_path / "blobs" / "index")
    index.symlink_to(tmp_path / "blobs" / "index")
    assert ternfmt.validate(index, strict_links=True).files == 2


def test_an_index_may_have_white_space_and_unknown_keys(tmp_path: Path) -> None:
    model = two_shards()
    model.index.update(note=[1.5, {"x": None}])
    model.index["metadata"].update(total_parameters=12)
    model.index_bytes = lambda raw: b" \n\t\r" + raw + b"\n\n"
    assert ternfmt.validate(model.write(tmp_path)).files == 2


def test_an_index_may_leave_out_its_metadata(tmp_path: Path) -> None:
    model = two_shards()
    del model.index["metadata"]
    assert ternfmt.validate(model.write(tmp_path)).files == 2


@pytest.mark.parametrize("total_size", ["16", "16.0", "1.6e1"])
def test_total_size_is_compared_as_a_number(tmp_path: Path, total_size: str) -> None:
    model = two_shards()
    model.index_texts.append(("16", total_size))
    assert ternfmt.validate(model.write(tmp_path)).files == 2


@pytest.mark.parametrize("digits", ["0", "16", "1.6", "0.016", "160", "1600.0", "0.00", "10.16"])
@pytest.mark.parametrize("exponent", ["", "e0", "e1", "E+2", "e-1", "e-2", "e03"])
@pytest.mark.parametrize("sign", ["", "-"])
def test_total_size_has_its_exact_value(sign: str, digits: str, exponent: str) -> None:
    number = NonInteger(sign + digits + exponent)
    value = Fraction(number)
    for total in {0, 1, 16, 160, 1016, abs(int(value)), abs(int(value)) + 1}:
        assert _equals(number, total) == (value == total)


@pytest.mark.parametrize("name", ["other.safetensors.index.json", "other.safetensors"])
def test_only_files_are_candidates(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(plain().build())
    (tmp_path / name).mkdir()
    assert ternfmt.validate(tmp_path).ternary == 1


@pytest.mark.parametrize("config", [DROP, {}, {"quantization_config": {"quant_method": "ternfmt"}}])
def test_a_config_may_say_less(tmp_path: Path, config) -> None:
    model = two_shards()
    model.config = config
    assert ternfmt.validate(model.write(tmp_path)).files == 2


def test_a_config_may_hold_what_json_does_not_have(tmp_path: Path) -> None:
    model = two_shards()
    model.config["rope"] = float("inf")
    assert ternfmt.validate(model.write(tmp_path)).files == 2


def test_config_is_looked_at_only_in_a_folder(tmp_path: Path) -> None:
    model = two_shards()
    model.config["quantization_config"] = {"quant_method": "gptq"}
    model.open = "model.safetensors.index.json"
    assert ternfmt.validate(model.write(tmp_path)).files == 2


def test_shards_may_describe_more_than_they_hold_and_less_than_all(tmp_path: Path) -> None:
    model = two_shards()
    model.shards["c.safetensors"] = dense = plain()
    dense.tensors = {"c": dense.tensors["b"]}
    dense.document = {"version": "1.0", "required": [], "tensors": {}}
    model.index["weight_map"]["c"] = "c.safetensors"
    model.index["metadata"]["total_size"] += 8
    assert ternfmt.validate(model.write(tmp_path)).dense == 2


def test_a_shard_alone_gives_the_tensors_it_holds_whole(tmp_path: Path) -> None:
    two_shards().write(tmp_path)
    with ternfmt.open(tmp_path / ONE) as model:
        assert list(model) == ["b"]
    with ternfmt.open(tmp_path / TWO) as model:
        assert list(model) == []


def test_a_shard_alone_is_still_checked(tmp_path: Path) -> None:
    model = two_shards()
    next(case for case in MODEL_CASES if case.name == "forbidden code").mutate(model)
    model.write(tmp_path)
    with pytest.raises(FormatError) as caught:
        ternfmt.validate(tmp_path / ONE)
    assert caught.value.kind is Kind.CODE


def test_the_caller_may_say_whether_a_file_is_a_shard(tmp_path: Path) -> None:
    two_shards().write(tmp_path)
    with pytest.raises(FormatError) as caught:
        ternfmt.open(tmp_path / ONE, shard=False)
    assert caught.value.kind is Kind.SCALE
    part = (tmp_path / ONE).rename(tmp_path / "part.safetensors")
    with pytest.raises(FormatError):
        ternfmt.open(part)
    assert list(ternfmt.open(part, shard=True)) == ["b"]


@pytest.mark.parametrize(
    ("name", "is_shard"),
    [
        ("model-00001-of-00002.safetensors", True),
        ("-00001-of-00002.safetensors", True),
        ("model-0001-of-0002.safetensors", False),
        ("model-000001-of-000002.safetensors", False),
        ("model-00001-of-00002.safetensors.safetensors", False),
        ("model-00001-of-00002.SAFETENSORS", False),
        ("model-\u0661\u0661\u0661\u0661\u0661-of-00002.safetensors", False),
        ("model.safetensors", False),
    ],
)
def test_a_shard_is_told_by_its_name(tmp_path: Path, name: str, is_shard: bool) -> None:
    raw = plain()
    declare("v", shape=[1, 1], encoding="int2")(raw)  # described, but absent
    path = tmp_path / name
    path.write_bytes(raw.build())
    if is_shard:
        assert list(ternfmt.open(path)) == ["b", "w"]
    else:
        with pytest.raises(FormatError):
            ternfmt.open(path)


@pytest.mark.parametrize(
    ("keys", "is_valid"),
    [
        ({"shape": [1, 2**24 - 1]}, True),
        ({"shape": [1, 2**24]}, False),
        ({"shape": [1, 2**12, 2**12]}, False),
        ({"shape": [2**53 - 1, 1]}, True),
        ({"shape": [2**53, 1]}, False),
        ({"shape": [2**30, 2**23]}, False),
        ({"shape": [0, 5]}, False),
        ({"shape": [2, 0]}, False),
        ({"shape": [2, 3, 2], "low_rank": 6}, True),
        ({"shape": [2, 3, 2], "low_rank": 7}, False),
    ],
)
def test_entries_are_checked_also_where_their_tensors_are_absent(tmp_path: Path, keys, is_valid: bool) -> None:
    raw = plain()
    raw.document["required"] = ["low-rank"]
    declare("v", encoding="int2", **keys)(raw)
    path = tmp_path / ONE
    path.write_bytes(raw.build())
    if is_valid:
        assert list(ternfmt.open(path)) == ["b", "w"]
    else:
        with pytest.raises(FormatError) as caught:
            ternfmt.open(path)
        assert caught.value.kind is Kind.METADATA


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_a_shards_scales_are_of_one_dtype_also_without_the_first(tmp_path: Path, dtype: str) -> None:
    raw = features()
    entry(planes=3)(raw)
    raw.tensors = {}
    put("w_plane2_scale", "F16", [2, 2])(raw)
    put("w_plane3_scale", dtype, [2, 2])(raw)
    path = tmp_path / ONE
    path.write_bytes(raw.build())
    if dtype == "F16":
        assert list(ternfmt.open(path)) == []
    else:
        with pytest.raises(FormatError) as caught:
            ternfmt.open(path)
        assert caught.value.kind is Kind.SCALE


@pytest.mark.parametrize("longest", [249, 250])
def test_derived_names_are_checked_also_where_they_are_absent(tmp_path: Path, longest: int) -> None:
    raw = plain()
    declare("v" * longest, shape=[1, 1], encoding="int2")(raw)
    path = tmp_path / ONE
    path.write_bytes(raw.build())
    if longest == 249:
        assert list(ternfmt.open(path)) == ["b", "w"]
    else:
        with pytest.raises(FormatError) as caught:
            ternfmt.open(path)
        assert caught.value.kind is Kind.NAME


def test_a_shard_may_have_digests_of_absent_tensors(tmp_path: Path) -> None:
    raw = plain()
    document(digests={"tensors": {"v": "0" * 64}})(raw)
    path = tmp_path / ONE
    path.write_bytes(raw.build())
    result = ternfmt.validate(path, digests=True)
    assert (result.digests_checked, result.uncovered) == (0, 3)


def test_a_folder_with_one_file_needs_no_index(tmp_path: Path) -> None:
    (tmp_path / "any.safetensors").write_bytes(features().build())
    assert ternfmt.validate(tmp_path).ternary == 1


def test_absent_files_are_the_operating_systems_error(tmp_path: Path) -> None:
    for name in ("x.safetensors", "x.safetensors.index.json", "x"):
        with pytest.raises(FileNotFoundError):
            ternfmt.open(tmp_path / name)
