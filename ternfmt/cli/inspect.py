"""``ternfmt inspect``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..compare import decibels, sparsity, squared_error
from ..index import find_source
from ..ratios import block_ratio, file_ratio
from ..reader import Model, StoredTensors, open_model
from ..tensor import TernaryTensor
from .output import format_bytes, format_shape, print_json, print_table, progress_bar

EPILOG = """\
The block ratio compares the ternary tensors with the same weights in BF16; the file ratio compares the whole
model with its source or, where --source is not given, with all its weights in BF16.

examples:
  ternfmt inspect ternary.safetensors
  ternfmt inspect transformer-ternary/ --source transformer/ --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("path", metavar="PATH", help="ternfmt file, index JSON or folder")
    parser.add_argument("--source", metavar="SRC", help="the dense original: adds signal-to-noise ratios")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    with open_model(args.path) as model:
        original = None
        if args.source is not None:
            original = StoredTensors(find_source(Path(args.source), shard=False).files)
        report = _report(model, original)
    if args.json:
        print_json(report)
    else:
        _print(report)
    return 0


def _report(model: Model, original: StoredTensors | None) -> dict[str, Any]:
    infos = model.tensors.values()
    rows = []
    total_error = total_signal = 0.0
    with progress_bar("inspect", sum(info.nbytes for info in infos)) as advance:
        for info in infos:
            row: dict[str, Any] = {
                "name": info.name,
                "ternary": info.ternary,
                "shape": list(info.shape),
                "dtype": info.dtype,
                "planes": info.planes if info.ternary else None,
                "group_size": info.group_size,
                "low_rank": info.low_rank,
                "bytes": info.nbytes,
            }
            tensor = model[info.name]
            if isinstance(tensor, TernaryTensor):
                model.check(info.name)
                row["sparsity"] = sparsity(tensor)
                if original is not None:
                    error, signal = squared_error(tensor, _source_weight(original, info.name))
                    row["snr_db"] = decibels(error, signal)
                    total_error += error
                    total_signal += signal
            rows.append(row)
            advance(info.name, info.nbytes)
    source_bytes = None
    if original is not None:
        source_bytes = sum(span.end - span.begin for span in original.spans.values())
    return {
        "path": str(model.source.path),
        "version": model.document.version,
        "required": list(model.document.required),
        "producer": model.document.ancillary.get("producer"),
        "source": model.document.ancillary.get("source"),
        "encoder": model.document.ancillary.get("encoder"),
        "tensors": rows,
        "bytes": sum(info.nbytes for info in infos),
        "source_bytes": source_bytes,
        "block_ratio": block_ratio(infos),
        "file_ratio": file_ratio(infos, source_bytes),
        "snr_db": decibels(total_error, total_signal) if original is not None else None,
    }


def _source_weight(original: StoredTensors, name: str) -> Any:
    if name not in original.spans:
        raise ValueError(f"{name!r} is not in the source; is it the model's original?")
    return original[name]


def _print(report: dict[str, Any]) -> None:
    has_snr = report["snr_db"] is not None
    columns = ["tensor", "shape", "kind", "dtype", "features", "sparsity", "bytes"]
    rows = []
    for row in report["tensors"]:
        cells = [
            row["name"],
            format_shape(row["shape"]),
            "ternary" if row["ternary"] else "dense",
            row["dtype"],
            _features(row),
            f"{row['sparsity']:.3f}" if row["ternary"] else "",
            str(row["bytes"]),
        ]
        if has_snr:
            cells.append(f"{row['snr_db']:.2f}" if row["ternary"] else "")
        rows.append(cells)
    print_table([*columns, "SNR dB"] if has_snr else columns, rows)
    ternary = sum(row["ternary"] for row in report["tensors"])
    print(
        f"version {report['version']}; {ternary} ternary and {len(rows) - ternary} dense tensors, "
        f"{format_bytes(report['bytes'])}"
    )
    for what in ("producer", "source", "encoder"):
        if isinstance(report[what], dict):
            print(f"{what}: " + ", ".join(f"{key} {value}" for key, value in report[what].items()))
    if ternary:
        against = "all in BF16" if report["source_bytes"] is None else "the source"
        print(
            f"block ratio {report['block_ratio']:.2f}x (against BF16), "
            f"file ratio {report['file_ratio']:.2f}x (against {against})"
        )
    if has_snr:
        print(f"weight SNR {report['snr_db']:.2f} dB over all ternary tensors")


def _features(row: dict[str, Any]) -> str:
    if not row["ternary"]:
        return ""
    features = [f"{row['planes']} plane{'s' if row['planes'] > 1 else ''}"]
    if row["group_size"] is not None:
        features.append(f"groups of {row['group_size']}")
    if row["low_rank"] is not None:
        features.append(f"rank {row['low_rank']}")
    return ", ".join(features)
