"""The CPU benchmark at sizes where times mean nothing: what it runs, keeps, writes and refuses."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ternfmt_kernels.bench import cpu, cpu_goals, cpu_peers, cpu_report, gate, ggml_peer
from ternfmt_kernels.bench.__main__ import main
from ternfmt_kernels.bench.contenders import random_weight
from ternfmt_kernels.cpu_backend import isa

pytestmark = pytest.mark.skipif(isa.module() is None, reason="ternfmt_kernels._cpu is not built")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One small shape, few cases of the gate, as little time as there can be; no threads are left changed."""
    monkeypatch.setattr(cpu, "SHAPES", {"A": (64, 256), "B": (96, 512)})  # ggml wants multiples of 256
    monkeypatch.delenv(ggml_peer.VARIABLE, raising=False)
    monkeypatch.setattr(cpu, "COLD_BYTES", 1 << 16)
    monkeypatch.setattr(cpu, "PROBE_SECONDS", 1e-5)
    monkeypatch.setattr(cpu, "SETTLE_SECONDS", 0)
    some = [case for case in gate.cases(small=True) if case.m < 20][:8]
    monkeypatch.setattr(gate, "cases", lambda *, small: iter(some))
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_from_the_command_to_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    found, tables, drawn = tmp_path / "found.json", tmp_path / "found.md", tmp_path / "drawn.png"
    command = ["cpu", "--shapes", "A", "B", "--rows", "1", "8", "--seconds", "0"]
    assert main([*command, "--json", str(found), "--markdown", str(tables), "--plot", str(drawn)]) == 0
    assert capsys.readouterr().out.count("┏") == 2  # a table for each mode

    document = json.loads(found.read_text())
    assert document["gate"] == {"cases": 8, "failed": []}
    assert {"a8", "a16", "bf16", "fp32"} <= set(document["peers"])
    assert "TQ2_0" in document["missing"]
    cells = document["cells"]
    assert [(c["shape"], c["threads"], c["m"]) for c in cells] == [
        (s, t, m) for s in "AB" for t in (1, 2) for m in (1, 8)
    ]
    for cell in cells:
        assert min(cell["turns"].values()) >= cpu.TURNS_FEWEST
        assert set(cell["times faster than"]["a8"]) == set(document["peers"])
        assert set(cell["part of limit"]["a16"]) == set(cpu.LIMITS)
        assert set(cell["shares of the time"]) == ({"a8", "a16"} if cell["threads"] == 1 else set())

    text = tables.read_text()
    assert "`python -m ternfmt_kernels.bench cpu --shapes A B --rows 1 8 --seconds 0.0`" in text
    assert isa.selected() in text
    assert "not here: TQ2_0: no folder of ggml's libraries" in text
    assert "a8, M=1: 15x bf16" in text
    assert "a8, M=4608: 1x qlinear (not timed in this run)" in text
    assert "(drawn.png)" in text
    assert drawn.stat().st_size > 1000


def test_results_are_kept_after_each_shape() -> None:
    kept: list[int] = []
    ours = [peer for peer in cpu_peers.peers() if peer.ours]
    plan = cpu.Plan({"A": (1,), "B": (1, 2)}, ours, threads=(1,), seconds=0)
    cpu.run(plan, lambda _: None, lambda results: kept.append(len(results.cells)))
    assert kept == [1, 3]


def test_a_wrong_kernel_is_not_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gate, "run", lambda *_: [gate.Verdict("W2A8 1x1x1", 7.0, None)])
    assert main(["cpu", "--quick"]) == 1
    assert "wrong: W2A8 1x1x1: 7.0" in capsys.readouterr().err


def test_a_peer_that_takes_too_long_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "LONGEST_SECONDS", 0)
    ours = [peer for peer in cpu_peers.peers() if peer.name in ("a8", "a16", "fp32")]
    monkeypatch.setattr(cpu, "OURS", ("a8", "a16"))
    results = cpu.run(cpu.Plan({"A": (1, 2)}, ours, threads=(1,), seconds=0), lambda _: None)
    assert set(results.cells[0].times) >= {"a8", "a16", "fp32"}
    assert set(results.cells[1].left_out) == {"fp32"}
    assert "fp32" not in results.cells[1].times
    assert set(results.cells[1].times) >= {"a8", "a16", *cpu.LIMITS}


GGML = os.environ.get(ggml_peer.VARIABLE)


@pytest.mark.parametrize("peer", cpu_peers.peers(Path(GGML) if GGML else None), ids=lambda peer: peer.name)
@pytest.mark.parametrize("rows", [1, 5])
def test_every_peer_multiplies(peer: cpu_peers.Peer, rows: int) -> None:
    """About as exactly as its quantisation allows."""
    if reason := peer.unavailable():
        pytest.skip(reason)
    weight = random_weight(64, 256, torch.device("cpu"), seed=1)
    x = torch.randn(rows, 256, generator=torch.Generator().manual_seed(0))
    expected = x @ weight.dense(torch.float32).T
    for product in peer.copies(weight, 2):
        y = product(cpu_peers.activations(peer, x)).float()
        assert y.shape == expected.shape
        assert (y - expected).norm() < 0.15 * expected.norm()


def test_an_unknown_peer_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cpu", "--only", "gemlite"]) == 2
    assert "--only: expected some of a8, a16, a8 g128, a16 g128, bf16" in capsys.readouterr().err


def test_a_missing_peer_is_named(tmp_path: Path) -> None:
    tables = tmp_path / "found.md"
    command = ["cpu", "--only", "TQ2_0", "--shapes", "A", "--rows", "1", "--seconds", "0", "--markdown", str(tables)]
    assert main([*command, "--ggml", str(tmp_path)]) == 0
    assert "not here: TQ2_0: ggml: " in tables.read_text()


def test_goals_name_what_a_run_has() -> None:
    names = {peer.name for peer in cpu_peers.peers()} | set(cpu.LIMITS)
    assert {name for goal in cpu_goals.GOALS for name in goal.against} <= names


def test_reached_and_missed_goals() -> None:
    times = {"a8": [1.0, 2.0, 9.0], "a16": [1.0] * 3, "bf16": [20.0, 40.0, 9.0], "TQ2_0": [1.0, 2.0, 9.0]}
    limits = {"read": [0.5, 1.0, 4.5], "read4": [0.25, 0.5, 2.25], "int8": [1.0] * 3, "float": [1.0] * 3}
    units = {"read": 1024.0, "read4": 1024.0, "int8": 4096.0, "float": 1024.0}
    cell = cpu.Cell("A", 64, 64, 1, 1, times | limits, units, {})
    assert cell.against("a8", "bf16") == 20
    assert cell.of_limit("a8", "read") == 0.5
    assert cell.of_limit("a8", "read4") == 0.25
    assert cell.roof("a8") == 4096  # of both limits: 4 * 4096 codes a second are read at the most
    assert cell.shares("a8") is None
    slices = {"a8 head": [0.25, 0.5, 2.25], "a8 cached": [0.85, 1.7, 7.65]}  # 16 and 64 rows
    cell = cpu.Cell("A", 64, 64, 1, 1, times | limits | slices, units, {})
    assert str(cell.shares("a8")) == "5% call, 80% instructions, 15% memory"
    results = cpu.Results({"processor": "p", "cores": 2, "instruction set": "avx2", "torch": "t", "load": 0}, {}, {})
    results.peers = dict.fromkeys(("a8", "a16", "bf16", "TQ2_0"), "")
    results.cells = [cell]
    text = cpu_report.markdown(results, "command", None)
    assert "| a8, M=1: 15x bf16 | 20.00 (A) | 20.00 (A) | reached |" in text
    assert "| a8, M=1: 1.9x TQ2_0 | 1.00 (A) | 1.00 (A) | missed at A: 5% call, 80% instructions, 15% memory; " in text
    assert "takes 0.95 of the limits |" in text  # 1.9 times the 2048 a second that TQ2_0 does
    assert "M=8: 0.85 of int8 peak (not timed in this run)" in text
