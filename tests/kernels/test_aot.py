"""Shipped kernels compile for hardware that is not here, and what comes out is as promised.

A subset of `python -m ternfmt_kernels.bench aot --check`, whose whole table is kernels/bench/RESULTS-aot.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

from ternfmt_kernels.bench import aot, aot_report, gemlite_peer
from ternfmt_kernels.bench.arch import ARCHS, arch, occupancy
from ternfmt_kernels.bench.assembly import KINDS, Kind, Mix
from ternfmt_kernels.bench.build import Reading
from ternfmt_kernels.bench.variants import Tile

COMMITTED = Path(__file__).parents[2] / "kernels" / "bench" / "RESULTS-aot.json"

SUBSET = ("gemm w2a16 bf16 64x128x128 w*", "gemm w2a8 i8 64x64x* planes=2 *", "quantise bf16*")


def compile_subset(target: str, *patterns: str) -> list[dict[str, Any]]:
    """In a process of its own: tests beside this one may have put triton into its interpreter."""
    command = [
        sys.executable,
        "-m",
        "ternfmt_kernels.bench",
        "aot",
        "--target",
        target,
        "--no-peer",
        "--check",
        "--json",
        "-",
    ]
    for pattern in patterns:
        command += ["--only", pattern]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    return rows


@pytest.mark.parametrize(
    ("target", "matrix"), [("sm_80", ("HMMA", "IMMA")), ("sm_90", ("HGMMA", "IGMMA")), ("gfx942", ("v_mfma",))]
)
def test_compiled_code(target: str, matrix: tuple[str, ...]) -> None:
    rows = compile_subset(target, *SUBSET)
    assert [row["kernel"] for row in rows] == ["gemm", "gemm", "quantise"]
    for row in rows:
        ours = row["ours"]
        assert (ours["spills"], ours["stack"]) == (0, 0)
        assert ours["occupancy"]["blocks"] > 0
        if row["matrix"]:
            assert ours["loop"]["macs"] % (row["tile"]["m"] * row["tile"]["n"] * row["tile"]["k"]) == 0
            assert all(name.startswith(matrix) for name in ours["loop"]["matrix"])
            assert row["alu_per_mma"] < row["other_per_mma"]


def make_row(target: str = "sm_90", **changes: object) -> aot.Row:
    """A row that meets every goal, with changes."""
    return replace(
        aot.Row(target, "gemm", "w2a16", Tile(64, 64, 128), "bf16", matrix=True, ours=reading(6), peer=reading(9)),
        **changes,
    )


def reading(alu: int, **changes: object) -> Reading:
    issued: dict[Kind, int] = dict.fromkeys(KINDS, 10) | {"alu": alu}
    loop = Mix(issued, 64 * 64 * 128, {}, {"HGMMA.64x64x16.F32.BF16": 8})
    full = occupancy(arch("sm_90"), warps=4, registers=64, shared=0)
    return replace(Reading(registers=64, spills=0, stack=0, shared=0, occupancy=full, loop=loop), **changes)


def test_goals_met() -> None:
    assert aot.violations([make_row()]) == []
    assert aot.fewer(make_row())
    assert aot.violations([make_row(peer=None)]) == []


@pytest.mark.parametrize(
    ("row", "missed"),
    [
        (make_row(ours=None, error="boom"), "does not compile: boom"),
        (make_row(ours=reading(6, spills=2, stack=8)), "spills 2, 8 bytes"),
        (
            make_row(ours=reading(6, occupancy=occupancy(arch("sm_90"), warps=4, registers=64, shared=1 << 20))),
            "does not fit",
        ),
        (make_row(ours=reading(6, loop=None)), "no matrix instruction"),
        (make_row(tile=Tile(64, 64, 96)), "multiple of the tile"),
        (make_row(ours=reading(6, loop=replace(reading(6).loop, matrix={"HMMA.16816.F32": 1}))), "expected wgmma"),
        (make_row(ours=reading(9)), "decode instructions per MMA, GemLite"),
    ],
)
def test_goals_missed(row: aot.Row, missed: str) -> None:
    (text,) = aot.violations([row])
    assert missed in text
    assert "sm_90 gemm w2a16" in text


def test_report_names_what_it_has() -> None:
    rows = [make_row(), make_row("gfx942", peer=None), make_row(ours=None, error="boom", config="other")]
    text = aot_report.markdown(rows, "triton 0", 4)
    assert "does not compile: boom" in text
    assert text.index("## sm_90") < text.index("## gfx942")
    assert json.loads(aot_report.as_json(rows, "triton 0"))["rows"][0]["tile"] == {"m": 64, "n": 64, "k": 128}


def test_jobs_choose() -> None:
    everything = aot.jobs(["sm_80"])
    chosen = aot.jobs(["sm_80"], ["quantise*"], peer=False)
    assert 0 < len(chosen) < len(everything)
    assert {job.index for job in chosen} < {job.index for job in everything}


def test_peer_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemlite_peer, "version", lambda: None)
    assert gemlite_peer.variant(Tile(64, 64, 64), "bf16", 4, 3) is None


def test_committed_table_is_complete_and_meets_its_goals() -> None:
    document = json.loads(COMMITTED.read_text(encoding="utf-8"))
    assert document["missed"] == []
    shipped = {(a.name, v.name, v.config) for a in ARCHS for v in aot.shipped(a.name)}
    assert {(row["target"], row["kernel"], row["config"]) for row in document["rows"]} == shipped
    compared = [
        row for row in document["rows"] if row["target"].startswith("sm_") and row["peer_alu_per_mma"] is not None
    ]
    assert {row["target"] for row in compared} == {a.name for a in ARCHS if a.vendor == "cuda"}
    assert all(row["alu_per_mma"] < row["peer_alu_per_mma"] for row in compared)
