"""How long opening a FLUX.1-sized file takes: 494 ternary tensors, 666 dense ones, digests for all.

Beside it, in turn, parsing the same two JSON texts without any check, and safetensors listing the file's tensors. CPU
time of this process, best of the rounds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors

import ternfmt


def make_file(path: Path) -> None:
    """Write the file: FLUX.1-like names, tiny shapes (only the header counts)."""
    tensors: dict[str, object] = {}
    for i in range(494):
        codes = np.zeros((4, 2), np.uint8)
        plane = ternfmt.Plane(codes, np.ones(4, np.float16))
        name = f"single_transformer_blocks.{i}.attn.to_q.weight"
        tensors[name] = ternfmt.TernaryTensor((4, 8), (plane,))
    for i in range(666):
        tensors[f"transformer_blocks.{i}.ff.net.0.proj.bias"] = np.zeros(3, np.float16)
    ternfmt.save(path, tensors)  # type: ignore[arg-type]


def parse_only(path: Path) -> None:
    """Parse the header and the metadata document, unchecked."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    json.loads(header["__metadata__"]["ternfmt"])


def list_with_safetensors(path: Path) -> None:
    """Open the file and list its names, as safetensors does it."""
    with safetensors.safe_open(path, "np") as file:
        file.keys()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        make_file(path)
        contenders: dict[str, Callable[[Path], object]] = {
            "ternfmt.open": ternfmt.open,
            "json.loads, unchecked": parse_only,
            "safetensors, names only": list_with_safetensors,
        }
        with ternfmt.open(path) as model:
            if (len(model.stored.spans), len(model)) != (1654, 1160):
                raise SystemExit("the file does not hold what it should")
        best = dict.fromkeys(contenders, float("inf"))
        for _ in range(arguments.rounds):
            for name, run in contenders.items():
                started = time.process_time()
                run(path)
                best[name] = min(best[name], time.process_time() - started)
    for name, seconds in best.items():
        print(f"{name:25}{1000 * seconds:7.2f} ms   {best['ternfmt.open'] / seconds:6.2f}x")


if __name__ == "__main__":
    main()
