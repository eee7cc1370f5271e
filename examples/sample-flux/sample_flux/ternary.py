"""Ternary copies of a pipeline folder, made and measured by the `ternfmt` command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Size:
    """How much smaller the transformer became, and how far its weights moved.

    Attributes:
        block_ratio: bf16 bytes of the ternary weights / their bytes now.
        file_ratio: bytes of the transformer's file / its bytes now.
        snr_db: 10 log10 of the ternary weights' energy over the energy of their error.
    """

    block_ratio: float
    file_ratio: float
    snr_db: float


def run_ternfmt(*arguments: str | Path) -> dict[str, Any]:
    """Run `ternfmt ... --json`; return what it prints, raise SystemExit with its message if it fails."""
    command = [sys.executable, "-m", "ternfmt", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def assemble_pipeline(source: Path, transformer: Path, destination: Path) -> Size:
    """A pipeline folder with another transformer, which was converted before; an earlier result is replaced."""
    shutil.rmtree(destination, ignore_errors=True)
    shutil.copytree(source, destination, ignore=shutil.ignore_patterns("transformer"))
    shutil.copytree(transformer, destination / "transformer")
    report = run_ternfmt("inspect", transformer, "--source", source / "transformer")
    return Size(report["block_ratio"], report["file_ratio"], report["snr_db"])


def convert_pipeline(source: Path, destination: Path, *options: str) -> Size:
    """Convert a pipeline folder's transformer, every linear layer of its blocks; an earlier result is replaced."""
    shutil.rmtree(destination, ignore_errors=True)
    report = run_ternfmt("convert", source, destination, *options)
    return Size(report["block_ratio"], report["file_ratio"], report["snr_db"])
