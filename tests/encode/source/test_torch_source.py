"""Files that torch.save wrote: read without running what they hold."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ternfmt.encode.source.checkpoint import find_checkpoint
from ternfmt.encode.source.sources import open_source
from tests.encode.source.checkpoints import write_json

torch = pytest.importorskip("torch")

from ternfmt.encode.source import torch_source  # noqa: E402 - needs torch

DTYPES = [
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint8,
    torch.int8, torch.int16, torch.int32, torch.int64, torch.bool, torch.complex64,
]  # fmt: skip


def save(path: Path, value: Any, **kwargs: Any) -> Path:
    torch.save(value, path, **kwargs)
    return path


def test_every_dtype_and_layout_as_safetensors_has_it(tmp_path: Path) -> None:
    """A transposed tensor, a view of a larger storage and a scalar come as their values."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    tensors = {str(d): torch.randint(0, 2, (5, 3), generator=generator).to(d) for d in DTYPES}
    tensors |= {
        "transposed": torch.randn(4, 6, generator=generator).T,
        "view": torch.randn(9, 4, generator=generator)[2:5, 1:],
        "scalar": torch.tensor(2.5),
        "vector": torch.arange(7),
        "parameter": torch.nn.Parameter(torch.randn(3, 3, generator=generator)),
    }
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, tmp_path / "x.safetensors")
    ours = open_source(find_checkpoint(save(tmp_path / "x.pt", tensors)))
    theirs = open_source(find_checkpoint(tmp_path / "x.safetensors"))
    assert ours.spans.keys() == theirs.spans.keys()
    for name, span in theirs.spans.items():
        assert (ours.spans[name].dtype, ours.spans[name].shape) == (span.dtype, span.shape)
        rows = span.shape[0] if span.shape else 1
        for start, stop in ((0, rows), (min(1, rows), rows)):
            mine, other = (s.read(name, start, stop) for s in (ours, theirs))
            assert mine.dtype == other.dtype
            assert mine.tobytes() == other.tobytes()
            assert mine.flags.writeable


def test_what_is_read_is_a_copy(tmp_path: Path) -> None:
    path = save(tmp_path / "x.bin", {"a": torch.zeros(4, 4, dtype=torch.bfloat16)})
    source = open_source(find_checkpoint(path))
    rows = source.read("a", 0, 2)
    assert rows.dtype == ml_dtypes.bfloat16
    rows[:] = 1
    assert not source.read("a", 0, 2).any()


def test_files_are_mapped_anew_and_threads_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was mapped and read counts as memory until it is let go."""
    monkeypatch.setattr(torch_source, "MAPPED_BYTES", 1000)
    loads = []
    real = torch_source.load_state_dict

    def counted(path: Path) -> Any:
        loads.append(path)
        return real(path)

    monkeypatch.setattr(torch_source, "load_state_dict", counted)
    tensors = {str(i): torch.full((8, 8), i) for i in range(50)}
    source = open_source(find_checkpoint(save(tmp_path / "x.bin", tensors)))
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda name: source.read(name, 0, 8), tensors))
    assert all((rows == int(name)).all() for name, rows in zip(tensors, read, strict=True))
    assert 10 < len(loads) <= 26


def test_a_training_checkpoint_is_its_state_dict(tmp_path: Path) -> None:
    path = save(tmp_path / "last.ckpt", {"state_dict": {"a": torch.ones(2, 2)}, "epoch": 3})
    assert list(open_source(find_checkpoint(path)).spans) == ["a"]


def test_shards_of_transformers(tmp_path: Path) -> None:
    for i in (1, 2):
        save(tmp_path / f"pytorch_model-0000{i}-of-00002.bin", {f"{i}.weight": torch.full((2, 2), i)})
    weight_map = {f"{i}.weight": f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)}
    write_json(tmp_path / "pytorch_model.bin.index.json", {"weight_map": weight_map})
    save(tmp_path / "training_args.bin", {})
    checkpoint = find_checkpoint(tmp_path)
    assert (checkpoint.kind, checkpoint.stem) == ("torch", "model")
    assert sorted(open_source(checkpoint).spans) == ["1.weight", "2.weight"]


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('ran code of the file')",)


@pytest.mark.parametrize("inside", ["torch", "pickle"])
def test_code_in_a_file_does_not_run(tmp_path: Path, inside: str) -> None:
    path = tmp_path / "x.bin"
    if inside == "torch":
        save(path, {"a": torch.ones(2), "b": Evil()})
    else:
        path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"x.bin: (holds more than tensors|torch cannot map it)"):
        open_source(find_checkpoint(path))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([torch.ones(2)], "expected a state dict, got list"),
        ({}, "expected a state dict, got dict"),
        ({"a": torch.ones(2), "epoch": 3}, "'epoch': expected a tensor, got int: save the state dict alone"),
        ({"model": {"a": torch.ones(2)}}, "'model': expected a tensor, got dict"),
        ({0: torch.ones(2)}, "0: expected a name of 1 to 255 characters"),
        ({"a b": torch.ones(2)}, "'a b': expected a name of 1 to 255 characters"),
        ({"a": torch.ones(2, dtype=torch.complex128)}, "'a': torch.complex128, torch.strided: cannot be stored"),
        ({"a": torch.eye(3).to_sparse()}, "'a': torch.float32, torch.sparse_coo: cannot be stored"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*[Ss]parse.*")
def test_files_that_are_no_state_dict(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_source(find_checkpoint(save(tmp_path / "x.bin", value)))


def test_old_and_damaged_files(tmp_path: Path) -> None:
    old = save(tmp_path / "old.bin", {"a": torch.ones(2)}, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"old.bin: torch cannot map it: .* before torch 1.6"):
        open_source(find_checkpoint(old))
    whole = save(tmp_path / "x.bin", {"a": torch.ones(200)}).read_bytes()
    (tmp_path / "x.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"x.bin: .*(damaged|fetch)"):
        open_source(find_checkpoint(tmp_path / "x.bin"))


def test_a_tensor_in_two_files(tmp_path: Path) -> None:
    for i in (1, 2):
        save(tmp_path / f"m-{i}.bin", {"a": torch.ones(2), f"b{i}": torch.ones(1)})
    write_json(tmp_path / "m.bin.index.json", {"weight_map": {"a": "m-1.bin", "b1": "m-1.bin", "b2": "m-2.bin"}})
    with pytest.raises(ValueError, match=r"m-2.bin: 'a' is also in .*m-1.bin"):
        open_source(find_checkpoint(tmp_path / "m.bin.index.json"))


def test_torch_is_imported_for_these_files_only() -> None:
    modules = (
        "ternfmt.cli.convert, ternfmt.encode.source.sources, ternfmt.encode.run.card, ternfmt.encode.source.companions"
    )
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_numpy_has_the_same_values(tmp_path: Path) -> None:
    path = save(tmp_path / "x.bin", {"a": torch.arange(6).reshape(2, 3)})
    assert np.array_equal(open_source(find_checkpoint(path)).read("a", 1, 2), [[3, 4, 5]])
