"""The file of per-layer overrides: what it may say, and which rule wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from ternfmt.encode.overrides import Override, apply, check_matches, matching, read_overrides
from ternfmt.encode.settings import LayerSettings


def read(tmp_path: Path, text: str) -> tuple[Override, ...]:
    path = tmp_path / "rules.json"
    path.write_text(text)
    return read_overrides(path)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ('{"planes": 1}', LayerSettings("exact", 1)),
        ('{"planes": 2}', LayerSettings("planes", 2)),
        ('{"method": "planes"}', LayerSettings("planes", 2)),
        ('{"method": "planes", "planes": 4}', LayerSettings("planes", 4)),
        ('{"method": "absmean"}', LayerSettings("absmean", 1)),
        ('{"method": "absmean", "planes": 1}', LayerSettings("absmean", 1)),
        ('{"group_size": 64}', LayerSettings("planes", 3, 64)),
        ('{"scale_dtype": "F32"}', LayerSettings("planes", 3, None, "F32")),
    ],
)
def test_a_rule_changes_what_it_names(tmp_path: Path, rule: str, expected: LayerSettings) -> None:
    overrides = read(tmp_path, f'{{"a.*": {rule}}}')
    assert apply(overrides, "a.weight", LayerSettings("planes", 3)) == expected
    assert apply(overrides, "b.weight", LayerSettings("planes", 3)) == LayerSettings("planes", 3)


def test_null_takes_groups_away(tmp_path: Path) -> None:
    overrides = read(tmp_path, '{"a": {"group_size": null}}')
    assert apply(overrides, "a", LayerSettings(group_size=128)) == LayerSettings()


def test_later_keys_win_and_others_add_up(tmp_path: Path) -> None:
    overrides = read(
        tmp_path, '{"*": {"planes": 2, "scale_dtype": "BF16"}, "a": {"planes": 1}, "[a]": {"group_size": 16}}'
    )
    assert apply(overrides, "a", LayerSettings()) == LayerSettings("exact", 1, 16, "BF16")
    assert apply(overrides, "b", LayerSettings()) == LayerSettings("planes", 2, None, "BF16")


@pytest.mark.parametrize(
    "text", ['{"a": {"dense": true}, "*": {"planes": 2}}', '{"*": {"planes": 2}, "a": {"dense": true}}']
)
def test_dense_wins_in_any_order(tmp_path: Path, text: str) -> None:
    overrides = read(tmp_path, text)
    assert apply(overrides, "a", LayerSettings()) is None
    assert apply(overrides, "b", LayerSettings()) is not None


def test_the_dial_has_no_say_where_a_rule_names_method_planes_or_dense(tmp_path: Path) -> None:
    overrides = read(
        tmp_path,
        '{"a": {"planes": 1}, "b": {"method": "exact"}, "c": {"dense": true}, "d": {"group_size": 16}}',
    )
    assert [matching(overrides, name).sets_planes for name in "abcde"] == [True, True, True, False, False]


def test_every_pattern_must_match(tmp_path: Path) -> None:
    overrides = read(tmp_path, '{"a.*": {"planes": 2}, "typo.*": {"planes": 2}}')
    check_matches(overrides[:1], ["a.weight", "b.weight"])
    with pytest.raises(ValueError, match=r"'typo\.\*' matches none of the 2 tensors that become ternary"):
        check_matches(overrides, ["a.weight", "b.weight"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"rules\.json: .*expected an object of glob -> settings"),
        ("[]", r"rules\.json: .*expected an object"),
        ('{"a": {}, "a": {}}', r"rules\.json: key 'a' occurs twice"),
        ('{"a": 2}', r"rules\.json: 'a': expected an object with some of method, planes, .*, got 2"),
        ('{"a": {}}', r"'a': expected an object with some of"),
        ('{"a": {"plane": 2}}', r"'a': 'plane': expected one of method, planes"),
        ('{"a": {"planes": 5}}', r"'a': 'planes': expected 1 to 4, got 5"),
        ('{"a": {"planes": 2.0}}', r"'planes': expected 1 to 4, got"),
        ('{"a": {"planes": true}}', r"'planes': expected 1 to 4, got True"),
        ('{"a": {"method": "magic"}}', r"'method': expected one of absmean, exact, planes, got 'magic'"),
        ('{"a": {"method": ["exact"]}}', r"'method': expected one of"),
        ('{"a": {"method": "exact", "planes": 2}}', r"'planes': expected 1 with method 'exact', got 2"),
        ('{"a": {"method": "planes", "planes": 1}}', r"'planes': expected 2 to 4 with method 'planes', got 1"),
        ('{"a": {"group_size": 24}}', r"'group_size': expected a multiple of 16"),
        ('{"a": {"group_size": 0}}', r"'group_size': expected a multiple of 16"),
        ('{"a": {"scale_dtype": "f16"}}', r"'scale_dtype': expected one of F16, BF16, F32, got 'f16'"),
        ('{"a": {"dense": false}}', r"'dense': expected true and no other key"),
        ('{"a": {"dense": true, "planes": 1}}', r"'dense': expected true and no other key"),
    ],
)
def test_a_faulty_file_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_overrides(tmp_path / "none.json")


@pytest.mark.parametrize("method", ["calibrated", "distilled"])
def test_where_layers_are_solved_together_planes_change_and_the_method_stays(tmp_path: Path, method: str) -> None:
    overrides = read(tmp_path, '{"a": {"planes": 2}, "b": {"dense": true}, "c": {"method": "exact"}}')
    assert apply(overrides, "a", LayerSettings(method)) == LayerSettings(method, 2)
    assert apply(overrides, "b", LayerSettings(method)) is None
    with pytest.raises(ValueError, match=f"'c': an override names method 'exact', but {method} solves all layers"):
        apply(overrides, "c", LayerSettings(method))
