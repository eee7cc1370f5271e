"""Which columns share a scale."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """Consecutive groups of one size.

    Attributes:
        size: columns in each group.
        count: groups in the run.
        columns: all their columns.
        groups: their indices in a row.
    """

    size: int
    count: int
    columns: slice
    groups: slice


class Groups:
    """The groups of a row of K columns: one run of whole groups, then perhaps a short one.

    Attributes:
        size: columns in each group but the last, K without groups.
        count: groups in a row, 1 without groups.
        runs: the row from left to right.
    """

    def __init__(self, k: int, group_size: int | None) -> None:
        self.size = size = min(group_size or k, k)
        whole, rest = divmod(k, size)
        end = whole * size
        self.count = whole + (rest > 0)
        self.runs = [Run(size, whole, slice(0, end), slice(0, whole))]
        if rest:
            self.runs.append(Run(rest, 1, slice(end, k), slice(whole, whole + 1)))
