"""What ``ternfmt convert`` prints: before, what is planned; after, what was made."""

from __future__ import annotations

from typing import Any

from .. import native
from ..container import nbytes
from ..encode.plan import Plan
from ..encode.report.html_report import Summary
from ..encode.report.layer_report import LayerReport, Totals
from ..encode.run.finish import Result
from ..encode.source.companions import left_out
from ..peak_memory import peak_rss
from ..ratios import BF16_BYTES
from .output import format_bytes, format_shape, print_table


def planned(plan: Plan, source: str) -> dict[str, Any]:
    """The plan in numbers; sizes are as if F16 held all scales that are to be F16."""
    after = {name: plan.stored_bytes(name) for name in plan.recipes}
    return {
        **_common(plan, source),
        **_ratios(plan, sum(after.values()), sum(after[name] for name in plan.layers)),
    }


def made(plan: Plan, source: str, destination: str, result: Result, seconds: float, *, at_once: bool) -> dict[str, Any]:
    """The result in numbers; there is a rate only if it was made ``at_once``, not in several runs."""
    totals = Totals.of(result.layers)
    return {
        **_common(plan, source),
        **_ratios(plan, result.stored_bytes, totals.stored_bytes),
        "destination": destination,
        "files": list(result.files),
        "scales_in_f32": list(result.scales_in_f32),
        "snr_db": totals.snr_db,
        "sparsity": totals.sparsity,
        "layers": [_layer(layer) for layer in result.layers],
        "seconds": round(seconds, 3),
        "mweights_per_s": round(plan.weights / seconds / 1e6, 1) if at_once else None,
        "peak_rss_bytes": peak_rss(),
        "native": native.selected(),
    }


def report_summary(summary: dict[str, Any]) -> Summary:
    """What the HTML page says of a result as `made` describes it."""
    return Summary(
        source=summary["source"],
        destination=summary["destination"],
        how=f"{summary['method']}, policy {summary['policy']}",
        source_bytes=summary["source_bytes"],
        stored_bytes=summary["bytes"],
        block_ratio=summary["block_ratio"],
        file_ratio=summary["file_ratio"],
        dense=len(summary["dense"]),
        seconds=summary["seconds"],
    )


def print_planned(plan: Plan, source: str, *, listing: bool) -> None:
    """Say what will be done; ``listing`` names every tensor, both ratios included."""
    if listing:
        rows = [
            [
                name,
                format_shape(recipe.shape),
                recipe.dtype,
                _becomes(plan, name),
                plan.choices[name].reason,
                format_bytes(nbytes(recipe.dtype, recipe.shape)),
                format_bytes(plan.stored_bytes(name)),
            ]
            for name, recipe in sorted(plan.recipes.items())
        ]
        print_table(["tensor", "shape", "dtype", "becomes", "why", "before", "after"], rows)
    count, first = len(plan.layers), next(iter(plan.layers))
    print(
        f"{count} of {len(plan.recipes)} tensors become ternary ({_method(plan)}; policy {plan.policy}), e.g. {first}; "
        f"{len(plan.recipes) - count} stay as they are{'' if listing else ' (--dry-run lists them)'}"
    )
    if plan.checkpoint.kind == "torch":
        print(f"reading {source} with torch's weights_only loading; the result is safetensors")
    unused = left_out(plan.checkpoint)
    if unused:
        print(f"weights left out: {', '.join(unused)}")
    if listing and plan.dial is not None:
        print(f"sizes are those before the dial is turned to {plan.dial.ratio:g}: for that the model has to run")
    elif listing:
        _print_ratios(planned(plan, source))


def print_made(summary: dict[str, Any], result: Result, *, layers: bool) -> None:
    """Say what was made; ``layers`` has a line for each ternary tensor."""
    if layers:
        rows = [
            [
                layer.name,
                format_shape(layer.shape),
                layer.method if layer.planes == 1 else f"{layer.planes} planes",
                layer.scale_dtype,
                " ".join(f"{share:.3f}" for share in layer.sparsity),
                str(layer.stored_bytes),
                f"{layer.snr_db:.2f}",
            ]
            for layer in result.layers
        ]
        print_table(["tensor", "shape", "how", "scales", "sparsity", "bytes", "SNR dB"], rows)
    worst = min(result.layers, key=lambda layer: layer.snr_db)
    print(
        f"weight SNR {summary['snr_db']:.2f} dB over all ternary tensors, least {worst.snr_db:.2f} dB in {worst.name}; "
        f"sparsity {summary['sparsity']:.3f}{'' if layers else ' (--layers lists them)'}"
    )
    _print_ratios(summary)
    if summary["scales_in_f32"]:
        print(f"F32 scales, out of F16's range: {', '.join(summary['scales_in_f32'])}")
    rate, peak = summary["mweights_per_s"], summary["peak_rss_bytes"]
    print(
        f"wrote {summary['destination']} in {summary['seconds']:.1f} s"
        f"{'' if rate is None else f', {rate:.0f} Mweights/s'}"
        f"{'' if peak is None else f', peak memory {format_bytes(peak)}'}"
    )


def _common(plan: Plan, source: str) -> dict[str, Any]:
    return {
        "source": source,
        "policy": plan.policy,
        "method": _method(plan),
        "ternary": list(plan.layers),
        "dense": [name for name in plan.recipes if name not in plan.layers],
        "ternary_weights": sum(map(plan.size, plan.layers)),
    }


def _ratios(plan: Plan, stored_bytes: int, ternary_bytes: int) -> dict[str, Any]:
    return {
        "source_bytes": plan.source_bytes,
        "bytes": stored_bytes,
        "block_ratio": sum(map(plan.size, plan.layers)) * BF16_BYTES / ternary_bytes,
        "file_ratio": plan.source_bytes / stored_bytes,
    }


def _print_ratios(summary: dict[str, Any]) -> None:
    print(
        f"{format_bytes(summary['source_bytes'])} -> {format_bytes(summary['bytes'])}: "
        f"file ratio {summary['file_ratio']:.2f}x, block ratio {summary['block_ratio']:.2f}x (against BF16)"
    )


def _method(plan: Plan) -> str:
    encoder = plan.ancillary["encoder"]
    if "ratio" not in encoder:
        return str(encoder["method"])
    return f"{encoder['method']}, ratio {encoder['ratio']}" if plan.calibration else f"ratio {encoder['ratio']}"


def _becomes(plan: Plan, name: str) -> str:
    if name not in plan.layers:
        return "dense"
    layer = plan.layers[name]
    planes = "ternary" if layer.planes == 1 else f"{layer.planes} planes"
    return f"{planes}, rank {layer.low_rank}" if layer.low_rank else planes


def _layer(layer: LayerReport) -> dict[str, Any]:
    return {**layer.to_json(), "planes": layer.planes, "snr_db": layer.snr_db, "sparsity": list(layer.sparsity)}
