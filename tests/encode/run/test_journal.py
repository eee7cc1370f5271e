"""The journal, and the thread that writes it behind the data."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ternfmt.encode.run.group_commit import GroupCommit
from ternfmt.encode.run.journal import Journal, read_records

RECORDS = [{"name": "a", "n": 1}, {"name": "b", "x": 0.1}]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "journal"
    journal = Journal(path, "work")
    assert journal.records == []
    journal.append(RECORDS)
    journal.close()
    return path


def reopened(path: Path, work: str = "work") -> list[dict[str, object]]:
    journal = Journal(path, work)
    journal.close()
    return journal.records


def test_records_are_found_again(path: Path) -> None:
    assert reopened(path) == read_records(path) == RECORDS


def test_a_line_that_was_cut_is_lost_and_no_other(path: Path) -> None:
    whole = path.read_bytes()
    second = len(whole) - len(whole.splitlines(keepends=True)[-1])
    for length in range(second, len(whole)):
        path.write_bytes(whole[:length])
        assert read_records(path) == RECORDS[:1]
        journal = Journal(path, "work")
        assert journal.records == RECORDS[:1]
        journal.append(RECORDS[1:])
        journal.close()
        assert path.read_bytes() == whole


def test_what_follows_a_damaged_line_does_not_count(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(50) + b'\n{"name": "c"}\n[1]\n')
    assert reopened(path) == RECORDS


@pytest.mark.parametrize("damage", [b"", b"{", b"not json\n"])
def test_other_work_begins_anew(path: Path, damage: bytes) -> None:
    assert reopened(path, "other work") == []
    assert reopened(path, "work") == []
    path.write_bytes(damage)
    assert reopened(path) == []


def test_no_journal_has_no_records(tmp_path: Path) -> None:
    assert read_records(tmp_path / "none") == []


def test_records_follow_the_sync_of_their_data(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", "work")
    syncing, go_on = threading.Event(), threading.Event()
    seen: list[list[dict[str, object]]] = []

    def sync() -> None:
        seen.append(read_records(journal.path))
        syncing.set()
        assert go_on.wait(10)

    commit = GroupCommit(journal, sync)
    commit.add({"n": 0})
    assert syncing.wait(10)
    for n in range(1, 5):  # while the disk is busy
        commit.add({"n": n})
    go_on.set()
    commit.close()
    journal.close()
    assert seen == [[], [{"n": 0}]]
    assert read_records(journal.path) == [{"n": n} for n in range(5)]


def test_an_error_of_the_disk_reaches_who_adds_and_who_closes(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", "work")

    def sync() -> None:
        raise OSError(28, "No space left on device")

    commit = GroupCommit(journal, sync)
    commit.add({"n": 0})
    commit._thread.join()
    with pytest.raises(OSError, match="No space"):
        commit.add({"n": 1})
    with pytest.raises(OSError, match="No space"):
        commit.close()
    journal.close()
    assert read_records(journal.path) == []
