"""Write a checkpoint with the tensors of FLUX.1-dev's transformer, filled with Gaussian weights.

Names, shapes, dtype, the three files and their index are those of the original: 1,160 tensors, 23,802,816,640 bytes
of BF16. The values are not: each row of a weight is a stretch of one Gaussian sample of TILE numbers, from a random
place on, times a scale of its own, log-normal around 0.02 as rows of trained layers are. So rows repeat each other's
numbers, which no step of a conversion can profit from, and the file is written as fast as the disk takes it. Memory:
the sample and one tensor.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

from ternfmt.container import build_header, layout, nbytes

TILE = 1 << 22
"""Numbers in the Gaussian sample: 16 MB of float32."""

SHARD_BYTES = 10_000_000_000
"""What diffusers puts into a file, the original's limit."""

Shape = tuple[int, ...]


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="is made; the transformer's folder")
    parser.add_argument("--hidden", type=int, default=3072, help="width, a multiple of 128 (default: 3072)")
    parser.add_argument("--blocks", type=int, nargs=2, default=(19, 38), metavar=("DOUBLE", "SINGLE"))
    parser.add_argument("--shard-bytes", type=int, default=SHARD_BYTES)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.perf_counter()
    total = make_checkpoint(
        arguments.folder, arguments.hidden, *arguments.blocks, shard_bytes=arguments.shard_bytes, seed=arguments.seed
    )
    seconds = time.perf_counter() - started
    print(f"{arguments.folder}: {total:,} bytes of tensors in {seconds:.0f} s ({total / seconds / 1e6:.0f} MB/s)")


def make_checkpoint(
    folder: Path,
    hidden: int = 3072,
    double: int = 19,
    single: int = 38,
    *,
    shard_bytes: int = SHARD_BYTES,
    seed: int = 0,
) -> int:
    """Write config, index and weights; returns the bytes of all tensors."""
    folder.mkdir(parents=True)
    shapes = dict(flux_tensors(hidden, double, single))
    shards = split(shapes, shard_bytes)
    rng = np.random.default_rng(seed)
    tile = rng.standard_normal(TILE, dtype=np.float32)
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        file = f"diffusion_pytorch_model-{number:05}-of-{len(shards):05}.safetensors"
        write_file(folder / file, {name: shapes[name] for name in names}, tile, rng)
        weight_map.update(dict.fromkeys(names, file))
    total = sum(nbytes("BF16", shape) for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / "diffusion_pytorch_model.safetensors.index.json", index)
    config = {
        "_class_name": "FluxTransformer2DModel",
        "_diffusers_version": "0.30.0.dev0",
        "attention_head_dim": 128,
        "guidance_embeds": True,
        "in_channels": 64,
        "joint_attention_dim": 4096,
        "num_attention_heads": hidden // 128,
        "num_layers": double,
        "num_single_layers": single,
        "patch_size": 1,
        "pooled_projection_dim": 768,
    }
    write_json(folder / "config.json", config)
    return total


def flux_tensors(hidden: int, double: int, single: int) -> Iterator[tuple[str, Shape]]:
    """Names and shapes, in the order of the model's state dict."""

    def linear(name: str, rows: int, columns: int) -> Iterator[tuple[str, Shape]]:
        yield f"{name}.weight", (rows, columns)
        yield f"{name}.bias", (rows,)

    for embedder, columns in (("timestep", 256), ("guidance", 256), ("text", 768)):
        yield from linear(f"time_text_embed.{embedder}_embedder.linear_1", hidden, columns)
        yield from linear(f"time_text_embed.{embedder}_embedder.linear_2", hidden, hidden)
    yield from linear("context_embedder", hidden, 4096)
    yield from linear("x_embedder", hidden, 64)
    for i in range(double):
        block = f"transformer_blocks.{i}"
        for norm in ("norm1", "norm1_context"):
            yield from linear(f"{block}.{norm}.linear", 6 * hidden, hidden)
        for norm in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            yield f"{block}.attn.{norm}.weight", (128,)
        for projection in ("to_q", "to_k", "to_v", "add_k_proj", "add_v_proj", "add_q_proj", "to_out.0", "to_add_out"):
            yield from linear(f"{block}.attn.{projection}", hidden, hidden)
        for feed_forward in ("ff", "ff_context"):
            yield from linear(f"{block}.{feed_forward}.net.0.proj", 4 * hidden, hidden)
            yield from linear(f"{block}.{feed_forward}.net.2", hidden, 4 * hidden)
    for i in range(single):
        block = f"single_transformer_blocks.{i}"
        yield from linear(f"{block}.norm.linear", 3 * hidden, hidden)
        yield from linear(f"{block}.proj_mlp", 4 * hidden, hidden)
        yield from linear(f"{block}.proj_out", hidden, 5 * hidden)
        for norm in ("norm_q", "norm_k"):
            yield f"{block}.attn.{norm}.weight", (128,)
        for projection in ("to_q", "to_k", "to_v"):
            yield from linear(f"{block}.attn.{projection}", hidden, hidden)
    yield from linear("norm_out.linear", 2 * hidden, hidden)
    yield from linear("proj_out", 64, hidden)


def split(shapes: dict[str, Shape], limit: int) -> list[list[str]]:
    """Names by file, as diffusers fills them."""
    files: list[list[str]] = [[]]
    room = limit
    for name, shape in shapes.items():
        size = nbytes("BF16", shape)
        if size > room:
            files.append([])
            room = limit
        files[-1].append(name)
        room -= size
    return files


def write_file(path: Path, shapes: dict[str, Shape], tile: np.ndarray, rng: np.random.Generator) -> None:
    """Write one safetensors file, tensor after tensor."""
    stored = {name: ("BF16", shape) for name, shape in shapes.items()}
    with path.open("wb") as stream:
        stream.write(build_header(stored, {"format": "pt"}))
        for name in layout(stored):
            stream.write(gaussian(shapes[name], tile, rng).view(np.uint8).data)


def gaussian(shape: Shape, tile: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of the sample, each with a scale of its own: BF16."""
    rows, columns = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, shape[0])
    starts = rng.integers(0, len(tile) - columns, rows)
    scales = np.exp(rng.normal(math.log(0.02), 0.3, rows)).astype(np.float32)
    tensor = np.empty((rows, columns), ml_dtypes.bfloat16)
    for row in range(rows):
        tensor[row] = tile[starts[row] : starts[row] + columns] * scales[row]
    return tensor.reshape(shape)


def write_json(path: Path, value: object) -> None:
    """Write it as the Hub's tools do."""
    path.write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    main()
