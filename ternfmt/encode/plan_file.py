"""A plan as a file: what every machine needs to make its share of a conversion."""

from __future__ import annotations

import json
from pathlib import Path

from .plan import Plan
from .run.work_folder import write_json

VERSION = 1
"""Of the form of a plan file. One of another version is refused."""


def write_plan(path: Path, plan: Plan, destination: Path) -> None:
    """Write a plan; source and destination are recorded as absolute paths, which every machine must see.

    Raises:
        OSError: the file cannot be written.
    """
    write_json(path, {"ternfmt_plan": VERSION, "destination": str(destination.absolute()), **plan.to_json()})


def read_plan(path: Path) -> tuple[Plan, Path]:
    """The plan and its destination.

    Raises:
        ValueError: the file is not a plan, or of another version.
        OSError: it cannot be read, or the source is not there.
    """
    try:
        value = json.loads(path.read_bytes())
        version = value["ternfmt_plan"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected a plan that `ternfmt convert --plan` wrote: {error!r}") from None
    if version != VERSION:
        raise ValueError(f"{path}: a plan of version {version!r}; this ternfmt knows version {VERSION}")
    try:
        return Plan.from_json(value), Path(value["destination"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a whole plan: {error!r}") from None
