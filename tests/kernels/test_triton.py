"""The triton backend where nothing can run it: what it says, its table, its decoder, and its interpreted tests."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from ternfmt.pack import pack, unpack
from ternfmt_kernels import KernelError, backends, matmul, registry
from ternfmt_kernels.contract import Call
from ternfmt_kernels.reference import TORCH
from ternfmt_kernels.triton_backend import TRITON, configs, decode, launch, tuning
from ternfmt_kernels.triton_backend.catalogue import shipped
from ternfmt_kernels.triton_backend.configs import ARCHS, Config

ROOT = Path(__file__).parents[2]
NO_DEVICE = not (torch.cuda.is_available() or torch.xpu.is_available())


def test_interpreted_kernels() -> None:
    """A process of their own: triton decides when it is imported."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/kernels/interpreted"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout)


@pytest.mark.skipif(not NO_DEVICE, reason="there is a device")
def test_unavailable_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    first = backends()[0]
    assert first.name == "triton"
    assert "no CUDA, ROCm or XPU device" in str(first.unavailable)
    monkeypatch.setenv("TERNFMT_KERNEL", "triton")
    with pytest.raises(KernelError, match="TERNFMT_KERNEL=triton: no CUDA, ROCm or XPU device"):
        matmul(torch.ones(1, 4), [torch.zeros(1, 1, dtype=torch.uint8)], [torch.ones(1)], 4, None, torch.float32)


def test_importing_the_kernels_does_not_import_triton() -> None:
    program = "import ternfmt_kernels, sys; print('triton' in sys.modules)"
    python_path = os.pathsep.join(str(ROOT / p) for p in ("", "kernels"))
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": python_path}, capture_output=True, text=True
    )
    assert done.stdout == "False\n", done.stderr


CUDA = Call(False, torch.device("cuda", 0), torch.bfloat16, torch.bfloat16, torch.float16, 1, 64, 64, 1, None)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine with a CUDA or ROCm device of the given kind, as torch would describe it."""

    def pretend(major: int, minor: int, gfx: str | None = None) -> None:
        properties = SimpleNamespace(major=major, minor=minor, gcnArchName=gfx)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, minor))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        monkeypatch.setattr(torch.version, "hip", gfx and "7")
        launch.architecture.cache_clear()

    monkeypatch.setattr(registry, "BACKENDS", [replace(TRITON, unavailable=lambda: None), TORCH])
    monkeypatch.delenv("TERNFMT_KERNEL", raising=False)
    yield pretend
    launch.architecture.cache_clear()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({}, "triton"),
        ({"int8": True, "planes": 4, "group_size": 48, "k": 5, "m": 0}, "triton"),
        ({"x_dtype": torch.float32}, "torch"),
        ({"transposed": True}, "torch"),
        ({"device": torch.device("cpu")}, "torch"),
        ({"int8": True, "k": 264_209}, "torch"),
        ({"k": 264_209}, "triton"),
    ],
)
def test_what_a_device_is_served_by(device, change: dict[str, object], name: str) -> None:
    device(8, 6)
    assert registry.select(replace(CUDA, **change)).name == name


def test_devices_before_ampere_are_refused(device) -> None:
    device(7, 5)
    assert registry.select(CUDA).name == "torch"
    assert "expected at least (8, 0), got (7, 5)" in str(TRITON.refuses(CUDA))


@pytest.mark.parametrize(
    ("kind", "arch"),
    [
        ((8, 0), "sm_80"),
        ((8, 7), "sm_86"),
        ((8, 9), "sm_89"),
        ((9, 0), "sm_90"),
        ((10, 3), "sm_100"),
        ((12, 0), "sm_120"),
        ((12, 1), "sm_120"),
        ((9, 0, "gfx90a:sramecc+:xnack-"), "gfx90a"),
        ((9, 4, "gfx942"), "gfx942"),
        ((11, 0, "gfx1100"), "gfx1100"),
        ((10, 3, "gfx1030"), "other"),
    ],
)
def test_architectures(device, kind: tuple[int, int] | tuple[int, int, str], arch: str) -> None:
    device(*kind)
    assert launch.architecture(CUDA.device) == arch


def ptx(asm: str, source: int, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Run the few PTX instructions of the decoder on 32-bit registers."""
    registers = {f"${source}": inputs.astype(np.uint64)}

    def value(operand: str) -> np.ndarray | np.uint64:
        return registers[operand] if operand in registers else np.uint64(int(operand, 0))

    for line in asm.strip().splitlines():
        if line.strip() in "{}" or ".reg" in line:
            continue
        name, target, a, b = re.fullmatch(r"(\w+)\.b32 (\S+), (\S+), (\S+);", line.strip()).groups()
        result = {"shl": np.left_shift, "and": np.bitwise_and}[name](value(a), value(b))
        registers[target] = result & np.uint64(0xFFFFFFFF)
    return registers


def test_decoding_words_by_ptx() -> None:
    """All pairs that matter: each word beside words that would spill into it. Twice the codes, in both types."""
    words = np.arange(1 << 16, dtype=np.uint32)
    for other in (0x0000, 0xFFFF, 0x5555):
        registers = ptx(decode.ASM_WORDS.value, 8, words | np.uint32(other) << 16)
        flipped = ptx(decode.ASM_WORDS.value, 8, words << 16 | np.uint32(other))
        codes = unpack_any(words.astype("<u2").view(np.uint8).reshape(-1, 2))
        for j in range(8):
            low = (registers[f"${j}"] & np.uint64(0xFFFF)).astype(np.uint16)
            high = (flipped[f"${j}"] >> np.uint64(16)).astype(np.uint16)
            for halves in (low, high):
                valid = codes[:, j] != -2
                bits = torch.from_numpy(halves.view(np.int16))
                for dtype in (torch.float16, torch.bfloat16):
                    numbers = bits.view(dtype).double().numpy()
                    assert np.array_equal(numbers[valid], 2.0 * codes[valid, j])


def test_decoding_bytes_by_ptx() -> None:
    rng = np.random.default_rng(0)
    quads = rng.integers(0, 1 << 32, 1 << 16, dtype=np.uint64)
    registers = ptx(decode.ASM_BYTES.value, 4, quads)
    codes = unpack_any(quads.astype("<u4").view(np.uint8).reshape(-1, 4)).reshape(-1, 4, 4)
    for j in range(4):
        numbers = registers[f"${j}"].astype("<u4").view(np.int8).reshape(-1, 4)
        valid = codes[:, :, j] != -2
        assert np.array_equal(numbers[valid], 64 * codes[:, :, j][valid])


def unpack_any(packed: np.ndarray) -> np.ndarray:
    """Two's-complement codes, the forbidden -2 included."""
    codes = np.stack([packed << (6 - 2 * j) for j in range(4)], -1).astype(np.uint8).view(np.int8) >> 6
    return codes.reshape(len(packed), -1)


def test_the_helper_above_reads_what_pack_writes() -> None:
    codes = np.random.default_rng(0).integers(-1, 2, (5, 16)).astype(np.int8)
    assert np.array_equal(unpack_any(pack(codes)), unpack(pack(codes), 16))


@pytest.mark.parametrize("arch", ARCHS)
def test_the_table_fits(arch: str) -> None:
    for kind in ("w2a16", "w2a8"):
        for config in configs.rows(arch, kind):
            assert configs.shared_bytes(kind, config) <= ARCHS[arch].shared
            assert config.bw <= configs.PAD
            assert config.bw >= (32 if kind == "w2a8" and ARCHS[arch].asm else 16)  # what tensor cores take
        for m in (1, 16, 17, 300, 5000):
            tried = list(configs.candidates(arch, kind, m, 3072, 3072))
            assert tried
            assert all(configs.shared_bytes(kind, c) <= ARCHS[arch].shared for c in tried)


def test_k_is_split_only_where_tiles_are_few() -> None:
    assert configs.shipped("sm_80", "w2a16", 1, 3072, 15360).split == configs.SPLITS_MAX
    assert configs.shipped("sm_80", "w2a16", 4608, 3072, 3072).split == 1
    assert configs.shipped("sm_80", "w2a16", 1, 3072, 100).split == 1


@pytest.mark.parametrize("arch", ARCHS)
def test_the_catalogue_states_the_kernels_arguments(arch: str) -> None:
    for item in shipped(arch):
        assert list(item.signature) == list(inspect.signature(item.fn.fn).parameters)
        assert {a for a, t in item.signature.items() if t == "constexpr"} == set(item.constants)
        assert {*item.divisible, *item.ones} <= set(item.signature) - set(item.constants)


def test_the_catalogue_knows_its_targets() -> None:
    with pytest.raises(ValueError, match=r"expected one of sm_80, .*got 'sm_70'"):
        next(shipped("sm_70"))


class TestTuning:
    SHAPE = (3, 3072, 3072)
    CONFIG = Config(16, 32, 16, 2, 2)

    @pytest.fixture(autouse=True)
    def file(self, tmp_path, monkeypatch) -> Path:
        monkeypatch.setenv(tuning.FILE, str(tmp_path / "some" / "configs.json"))
        monkeypatch.delenv(tuning.MODE, raising=False)
        return tuning.path()

    def choose(self) -> Config:
        return tuning.choose("sm_80", "w2a16", self.SHAPE, ("bf16",), pytest.fail)

    def test_the_table_by_default(self, file: Path) -> None:
        assert self.choose() == configs.shipped("sm_80", "w2a16", *self.SHAPE)
        assert not file.exists()

    def test_tuned_once_then_read(self, file: Path, monkeypatch) -> None:
        monkeypatch.setenv(tuning.MODE, "1")
        monkeypatch.setattr(tuning, "fastest", lambda candidates, run: self.CONFIG)
        assert self.choose() == self.CONFIG
        (key,) = json.loads(file.read_text())
        assert "M<=16 N=3072 K=3072 bf16" in key
        monkeypatch.setattr(tuning, "fastest", pytest.fail)
        assert self.choose() == self.CONFIG
        tuning._known.cache_clear()  # as in another process
        monkeypatch.delenv(tuning.MODE)
        assert self.choose() == self.CONFIG

    def test_tuned_once_where_the_file_cannot_be_written(self, file: Path, monkeypatch) -> None:
        file.parent.write_text("not a folder")
        monkeypatch.setenv(tuning.MODE, "1")
        monkeypatch.setattr(tuning, "fastest", lambda candidates, run: self.CONFIG)
        assert self.choose() == self.CONFIG
        monkeypatch.setattr(tuning, "fastest", pytest.fail)
        assert self.choose() == self.CONFIG

    def test_the_deterministic_mode_ignores_what_was_tuned(self, monkeypatch) -> None:
        self.test_tuned_once_then_read(tuning.path(), monkeypatch)
        monkeypatch.setenv(tuning.MODE, "0")
        assert self.choose() == configs.shipped("sm_80", "w2a16", *self.SHAPE)

    @pytest.mark.parametrize("text", ["", "[1]", '{"a": 1}', '{"a": {"bm": 1}}'])
    def test_a_damaged_file_counts_as_empty(self, file: Path, text: str) -> None:
        file.parent.mkdir()
        file.write_text(text)
        assert self.choose() == configs.shipped("sm_80", "w2a16", *self.SHAPE)

    def test_unknown_mode(self, monkeypatch) -> None:
        monkeypatch.setenv(tuning.MODE, "always")
        with pytest.raises(ValueError, match=r"TERNFMT_TUNE: expected 0 .* got 'always'"):
            self.choose()

    def test_the_fastest_that_fits(self) -> None:
        from triton.runtime.errors import OutOfResources

        times = {16: 3.0, 32: 1.0, 64: 2.0}
        tried = [Config(bm, 32, 16, 4, 2) for bm in (128, *times)]

        def time(call) -> float:
            (config,) = call.args
            if config.bm == 128:
                raise OutOfResources(2, 1, "shared memory")
            return times[config.bm]

        assert tuning.fastest(tried, pytest.fail, time).bm == 32
        assert tuning.fastest(tried[:1], pytest.fail, time) is None
