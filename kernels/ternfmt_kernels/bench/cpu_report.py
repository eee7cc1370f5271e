"""Tables of a CPU benchmark, for a terminal and as Markdown, and its roofline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .cpu import COLD_BYTES, HEAD_ROWS, OURS, STREAMS, Cell, Results
from .cpu_goals import GOALS, VNNI, Goal

_PARTS = tuple((mode, limit) for mode in OURS for limit in (*STREAMS, {"a8": "int8", "a16": "float"}[mode]))
_LIMIT_NAMES = {"read": "read", "read4": "read4", "int8": "int8", "float": "FMA"}


def _others(results: Results) -> list[str]:
    return [name for name in results.peers if name not in OURS]


def header(results: Results) -> list[str]:
    """Columns of the table."""
    parts = [f"{mode} / {_LIMIT_NAMES[limit]}" for mode, limit in _PARTS]
    against = [f"{mode} / {other}" for mode in OURS for other in _others(results)]
    return ["T", "shape", "M", *(f"{mode} GMAC/s" for mode in OURS), *parts, *against]


def row(cell: Cell, results: Results) -> list[str]:
    """One cell, in the columns of `header`."""
    against = [cell.against(mode, other) for mode in OURS for other in _others(results)]
    return [
        str(cell.threads),
        cell.shape,
        str(cell.m),
        *(f"{cell.rate(mode) / 1e9:.1f}" for mode in OURS),
        *(f"{cell.of_limit(mode, limit):.2f}" for mode, limit in _PARTS),
        *("" if a is None else f"{a:.2f}" if a < 20 else f"{a:.0f}" for a in against),
    ]


def markdown(results: Results, command: str, plot: str | None) -> str:
    """RESULTS-cpu.md; ``plot`` is the file name of the roofline, None without."""
    return "\n".join(_lines(results, command, plot)) + "\n"


def _lines(results: Results, command: str, plot: str | None) -> Iterator[str]:
    machine = results.machine
    yield "# CPU kernels, measured"
    yield ""
    yield f"`{command}` on {machine['processor']}, {machine['cores']} cores, instruction set"
    yield f"`{machine['instruction set']}`, torch {machine['torch']}, load {machine['load']} before the run."
    yield f"{len(results.verdicts)} checks against float64 passed first."
    yield ""
    yield "All in one process, in turns; a product on its own weights in turn, of which there are enough not to stay in"
    yield f"the caches ({COLD_BYTES >> 20} MB and more). GMAC/s are medians; ratios are medians of those of each turn."
    yield "`/ b`: how many times faster than b; for limits, the part of it that is reached: of the bytes a second that"
    yield "one pass over memory reads (read4: four side by side, each over a quarter), of the multiply-accumulates"
    yield "that the instructions of the inner loop alone do on registers. Quantising activations is part of ours."
    yield ""
    for name, what in results.peers.items():
        yield f"- {name}: {what}"
    for name, reason in results.missing.items():
        yield f"- not here: {name}: {reason}"
    if plot is not None:
        yield ""
        yield f"![Multiply-accumulates a second over M, and the machine's limits]({plot})"
    for threads in dict.fromkeys(cell.threads for cell in results.cells):
        yield from _table(results, threads)
    yield from _goals(results)


def _table(results: Results, threads: int) -> Iterator[str]:
    cells = [cell for cell in results.cells if cell.threads == threads]
    limits = {name: sorted(cell.rate(name) / 1e9 for cell in cells)[len(cells) // 2] for name in _LIMIT_NAMES}
    yield ""
    yield (
        f"## T={threads}: read {limits['read']:.1f} GB/s, read4 {limits['read4']:.1f} GB/s, "
        f"int8 {limits['int8']:.0f} GMAC/s, FMA {limits['float']:.0f} GMAC/s"
    )
    yield ""
    for mode in OURS:
        columns = [i for i, name in enumerate(header(results)) if name in ("shape", "M") or name.startswith(f"{mode} ")]
        yield "| " + " | ".join(header(results)[i].removeprefix(f"{mode} ") for i in columns) + " |"
        yield "|" + "---|" * len(columns)
        for cell in cells:
            texts = row(cell, results)
            yield "| " + " | ".join(texts[i] for i in columns) + " |"
        yield ""
        yield f"{mode}, T={threads}."
        yield ""
    left_out = [(cell, name, seconds) for cell in cells for name, seconds in cell.left_out.items()]
    if left_out:
        texts = [f"{name} {cell.shape} M={cell.m} ({seconds:.0f} s)" for cell, name, seconds in left_out]
        yield f"Left out, for the time that one product would have taken: {', '.join(texts)}."
        yield ""
    yield from _shares(cells)


def _shares(cells: list[Cell]) -> Iterator[str]:
    timed = [cell for cell in cells if cell.shares(OURS[0]) is not None]
    if not timed:
        return
    yield "What the time goes to: `call`, the call itself with quantising and laying out activations, is what the"
    yield f"first {HEAD_ROWS} rows of the weight take; `instructions`, as many codes that stay in the cache; `memory`"
    yield "is the rest."
    yield ""
    yield "| shape | M | " + " | ".join(OURS) + " |"
    yield "|---|---|" + "---|" * len(OURS)
    for cell in timed:
        yield f"| {cell.shape} | {cell.m} | " + " | ".join(str(cell.shares(mode)) for mode in OURS) + " |"


def _goals(results: Results) -> Iterator[str]:
    """Which goals are reached, which are not and why, which cannot be shown."""
    vnni = results.machine["instruction set"] in VNNI
    rows, unseen = [], []
    for goal in GOALS:
        found = goal.reached(results.cells)
        seen = [cell for cell, _ in found]
        if left := [cell for cell in results.cells if goal.concerns(cell) and cell not in seen]:
            cells = ", ".join(f"{cell.shape} M={cell.m}" for cell in left)
            unseen.append(f"{goal}: not at {cells}, where the peer was left out")
        if not found:
            if not left:
                unseen.append(f"{goal} (not timed in this run)")
            continue
        if goal.against[0] == "int8" and not vnni:
            unseen.append(f"{goal} (set for VNNI, which this machine lacks; here it is of its own int8 peak)")
        found.sort(key=lambda pair: pair[1])
        worst, best = found[0], found[-1]
        missed = [cell.shape + f" M={cell.m}" * (len(goal.rows) > 1) for cell, value in found if value < goal.factor]
        verdict = f"missed at {', '.join(missed)}: {_why(goal, worst[0])}" if missed else "reached"
        rows.append(f"| {goal} | {worst[1]:.2f} ({worst[0].shape}) | {best[1]:.2f} ({best[0].shape}) | {verdict} |")
    yield ""
    yield "## Goals, one thread"
    yield ""
    yield "| goal | worst | best | |"
    yield "|---|---|---|---|"
    yield from rows
    yield ""
    yield "Where one is missed: what the time goes to where it is missed most, and the part of the machine's limits"
    yield "(the faster way to read, the best instructions) that would reach it."
    if unseen:
        yield ""
        yield "What this machine or run cannot show:"
        yield ""
        yield from (f"- {line}" for line in unseen)


def _why(goal: Goal, cell: Cell) -> str:
    shares, takes = cell.shares(goal.mode), f"takes {goal.takes(cell):.2f} of the limits"
    return takes if shares is None else f"{shares}; {takes}"


def plot(results: Results, path: Path) -> str | None:
    """Draw the rooflines, a panel for each T; why not, where it cannot."""
    try:
        import matplotlib
    except ImportError:
        return "matplotlib is not installed (pip install matplotlib)"
    matplotlib.use("Agg")
    from matplotlib import pyplot

    threads = list(dict.fromkeys(cell.threads for cell in results.cells))
    if not threads:
        return "nothing was timed"
    figure, axes = pyplot.subplots(
        1, len(threads), figsize=(6 * len(threads), 5), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, count in zip(axes[0], threads, strict=True):
        cells = [cell for cell in results.cells if cell.threads == count]
        shape = cells[0].shape
        cells = sorted((cell for cell in cells if cell.shape == shape), key=lambda cell: cell.m)
        rows = [cell.m for cell in cells]
        for limit, style in (("int8", "-"), ("float", "--")):
            # Four multiply-accumulates a row of x for each byte of codes.
            read = [max(cell.rate(name) for name in STREAMS) for cell in cells]
            roof = [min(4 * cell.m * bytes_, cell.rate(limit)) / 1e9 for cell, bytes_ in zip(cells, read, strict=True)]
            axis.plot(rows, roof, color="black", linestyle=style, label=f"limit: read4, {_LIMIT_NAMES[limit]}")
        for name in results.peers:
            points = [(cell.m, cell.rate(name) / 1e9) for cell in cells if name in cell.times]
            if points:
                width = 2.5 if name in OURS else 1
                axis.plot(*zip(*points, strict=True), marker="o", linewidth=width, label=name.lstrip("_"))
        axis.set(title=f"{cells[0].n} x {cells[0].k}, T={count}", xlabel="M", xscale="log", yscale="log")
        axis.grid(True, which="both", alpha=0.3)
    axes[0][0].set_ylabel("GMAC/s")
    figure.suptitle(f"{results.machine['processor']}, {results.machine['instruction set']}")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right center")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    return None
