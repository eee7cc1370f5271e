"""The GPU benchmark without a GPU: all of its code runs on the CPU, tiny; only the times mean nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ternfmt.pack import unpack
from ternfmt_kernels.bench import clock, contenders, flux, flux_step, gate, gpu, gpu_command
from ternfmt_kernels.bench.__main__ import main
from ternfmt_kernels.bench.clock import Peak, measure
from ternfmt_kernels.registry import OVERRIDE

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _plain_backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The reference, one thread: other tests may have made triton's interpreter the first choice."""
    monkeypatch.setenv(OVERRIDE, "torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def nothing(part: str, length: int) -> Callable[[], None]:
    return lambda: None


def test_from_the_command_to_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    found, drawn = tmp_path / "found.json", tmp_path / "drawn.png"
    command = ["gpu", "--device", "cpu", "--tiny", "--seconds", "0", "--rows", "1", "17"]
    assert main([*command, "--json", str(found), "--plot", str(drawn)]) == 0
    printed = capsys.readouterr().out
    assert "cases within SPEC's bound" in printed
    assert "without GemLite A16W158" in printed
    assert drawn.stat().st_size > 1000
    document = json.loads(found.read_text())
    assert all(verdict["passed"] for verdict in document["gate"])
    assert {entry["contender"] for entry in document["products"]} == {"bf16", "W2A16", "W2A8", "int8"}
    assert len(document["products"]) == 4 * 2 * len(flux.SHAPES)
    assert all(entry["timing"]["median"] > 0 and entry["faster_than_bf16"] > 0 for entry in document["products"])
    assert [step["contender"] for step in document["steps"]] == ["bf16", "W2A16", "W2A8", "int8"]
    assert all(step["seconds"] > 0 and step["resident"] for step in document["steps"])


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    assert main(["gpu"]) == 1
    assert "no GPU" in capsys.readouterr().err
    assert main(["gpu", "--device", "cuda"]) == 1
    assert "no such device" in capsys.readouterr().err


def test_a_red_gate_reports_no_speed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = gate.linear
    monkeypatch.setattr(gate, "linear", lambda *arguments: right(*arguments) * 1.01)
    command = [
        "gpu",
        "--device",
        "cpu",
        "--tiny",
        "--json",
        str(tmp_path / "found.json"),
        "--plot",
        str(tmp_path / "no.png"),
    ]
    assert main(command) == 1
    assert "The gate is red: nothing was timed" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["products"] == []
    assert not (tmp_path / "no.png").exists()


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_the_gate_sees_what_is_not_finite(monkeypatch: pytest.MonkeyPatch, wrong: float) -> None:
    def spoiled(*arguments: object) -> torch.Tensor:
        y = torch.zeros(2, 32, dtype=torch.bfloat16)
        y[1, 3] = wrong
        return y

    monkeypatch.setattr(gate, "linear", spoiled)
    (verdict,) = gate.run([gate.Case(2, 32, 128, torch.bfloat16, int8=False)], CPU, lambda: None)
    assert not verdict.passed


def test_the_gate_reports_what_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> torch.Tensor:
        raise RuntimeError("boom")

    monkeypatch.setattr(gate, "linear", broken)
    (verdict,) = gate.run([gate.Case(2, 32, 128, torch.bfloat16, int8=True, bias=True)], CPU, lambda: None)
    assert (verdict.passed, verdict.error) == (False, "RuntimeError: boom")
    assert "W2A8" in verdict.case
    assert "bias" in verdict.case


def test_gate_covers_every_feature() -> None:
    for small in (True, False):
        cases = list(gate.cases(small=small))
        for int8 in (True, False):
            mine = [case for case in cases if case.int8 == int8]
            assert any(case.planes > 1 for case in mine)
            assert any(case.group_size for case in mine)
            assert any(case.rank for case in mine)
            assert any(case.bias for case in mine)
            assert any(case.strided for case in mine)
            assert any(case.k % 4 for case in mine)
            assert {torch.float16, torch.bfloat16} == {case.dtype for case in mine}


def test_random_weights_are_valid() -> None:
    weight = contenders.random_weight(37, 53, CPU, seed=3)
    codes = unpack(weight.codes.numpy(), 53)  # raises for a forbidden code
    np.testing.assert_array_equal(codes, weight.ternary().numpy())
    assert set(np.unique(codes)) == {-1, 0, 1}
    assert weight.codes[:, -1].max() < 4  # K % 4 = 1: three pad lanes
    torch.testing.assert_close(weight.dense(torch.float32), weight.ternary() * weight.scale.float()[:, None])


def test_a_step_that_does_not_fit_is_streamed_to_the_same_result() -> None:
    contender = next(c for c in contenders.CONTENDERS if c.name == "bf16")
    whole = flux_step.run(contender, flux_step.TINY, CPU, None, 0, lambda: None)
    blocks = []
    parts = flux_step.run(contender, flux_step.TINY, CPU, 1000, 0, lambda: blocks.append(1))
    assert (whole.resident, parts.resident) == (True, False)
    assert "one at a time" in parts.note
    assert len(blocks) == flux_step.TINY.double + flux_step.TINY.single
    assert whole.output is not None
    assert parts.output is not None
    assert torch.equal(whole.output, parts.output)
    assert whole.output.isfinite().all()


def test_contenders_agree_on_a_step() -> None:
    outputs = {}
    for contender in contenders.CONTENDERS:
        if contender.unavailable(CPU) is None:
            outputs[contender.name] = flux_step.run(contender, flux_step.TINY, CPU, None, 0, lambda: None).output
    base = outputs.pop("bf16")
    assert base is not None
    for output in outputs.values():
        assert output is not None
        assert (output - base).norm() < 0.05 * base.norm()


def test_full_size_step_weighs_what_flux_does() -> None:
    packed = next(c for c in contenders.CONTENDERS if c.name == "W2A16")
    dense = next(c for c in contenders.CONTENDERS if c.name == "bf16")
    assert flux_step.FLUX_1.weight_bytes(dense) == 2 * flux.weights()
    assert flux_step.FLUX_1.weight_bytes(packed) == flux.weights() // 4 + 2 * flux.outputs()
    shapes = [shape for _, block in flux_step.FLUX_1.blocks() for shape in block.values()]
    assert len(shapes) == 494
    assert set(shapes) == set(flux.SHAPES)
    # Packed and with room for activations it fits 16 GB; bf16 does not fit 24.
    assert flux_step.FLUX_1.weight_bytes(packed) + flux_step.FLUX_1.activation_bytes() < 16e9
    assert flux_step.FLUX_1.weight_bytes(dense) + flux_step.FLUX_1.activation_bytes() > 24e9


def make_plan(**changes: object) -> gpu.Plan:
    plan = gpu.plan(CPU, cap=None, tiny=True, rows=[2], budget=0, step=False, only=["W2A16"])
    return replace(plan, shapes=plan.shapes[:1], **changes)


def test_products_that_do_not_fit_are_skipped_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "cases", lambda *, small: iter([gate.Case(2, 32, 128, torch.bfloat16, int8=False)]))
    results = gpu.run(make_plan(cap=1000), nothing)
    assert all(found.timing is None and "GB are free" in str(found.skipped) for found in results.products)
    results = gpu.run(make_plan(), nothing)
    assert [found.skipped for found in results.products] == [None, None]
    assert set(gpu.ratios(results)) == {(384, 64, 2)}


def test_a_peer_that_fails_is_reported_and_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(weight: contenders.Weight) -> contenders.Product:
        raise RuntimeError("boom")

    monkeypatch.setattr(gate, "cases", lambda *, small: iter(()))
    base, ours, *_ = contenders.CONTENDERS
    monkeypatch.setattr(gpu, "CONTENDERS", (replace(base, prepare=broken), ours))
    results = gpu.run(make_plan(), nothing)
    assert [found.skipped for found in results.products] == ["RuntimeError: boom", None]
    monkeypatch.setattr(gpu, "CONTENDERS", (base, replace(ours, prepare=broken)))
    with pytest.raises(RuntimeError, match="boom"):
        gpu.run(make_plan(), nothing)


def test_out_of_memory_ends_a_step_not_the_run() -> None:
    def full(weight: contenders.Weight) -> contenders.Product:
        raise torch.OutOfMemoryError("full")

    contender = replace(contenders.CONTENDERS[0], prepare=full)
    found = flux_step.run(contender, flux_step.TINY, CPU, None, 0, lambda: None)
    assert (found.seconds, found.output) == (None, None)
    assert "out of memory" in found.note


def test_forced_backend_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    assert contenders.backend_for(CPU, 64, 64) == "torch"


def test_clock_on_a_cpu() -> None:
    timing = measure(lambda: None, CPU, 0)
    assert timing.low <= timing.median <= timing.high
    with Peak(CPU) as peak:
        pass
    assert peak.bytes is None


class PretendedGPU:
    """What the clock asks of torch.cuda: a device of 16 GB of which 6 are taken, where everything takes 2 ms."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fraction = 1.0

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None: ...

        def elapsed_time(self, end: object) -> float:
            return 2.0

    def mem_get_info(self) -> tuple[int, int]:
        return 10_000_000_000, 16_000_000_000

    def memory_reserved(self) -> int:
        return 3_000_000_000

    def memory_allocated(self) -> int:
        return 1_000_000_000

    def max_memory_allocated(self) -> int:
        return 5_000_000_000

    def set_per_process_memory_fraction(self, fraction: float) -> None:
        self.fraction = fraction

    def __getattr__(self, name: str) -> Callable[[], None]:
        return lambda: self.calls.append(name)


def test_clock_on_a_pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    module = PretendedGPU()
    monkeypatch.setattr(clock, "accelerator", lambda device: module)
    monkeypatch.setattr(clock, "FLUSH_BYTES", 16)
    timing = measure(lambda: None, CPU, 0.001)
    assert (timing.median, timing.low, timing.high) == pytest.approx((0.002, 0.002, 0.002))
    assert module.calls.count("synchronize") >= 2
    # Cached but unused memory is free; what others hold counts against a cap.
    assert clock.free_bytes(CPU, None) == 12_000_000_000
    assert clock.free_bytes(CPU, 8_000_000_000) == 4_000_000_000
    clock.limit_memory(CPU, 8_000_000_000)
    assert module.fraction == 0.5
    with Peak(CPU) as peak:
        assert module.calls[-1] == "reset_peak_memory_stats"
    assert peak.bytes == 5_000_000_000


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("gpu", "aot", "roofline"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert "examples:" in capsys.readouterr().out
    assert gpu_command.EXAMPLES
