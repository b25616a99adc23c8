"""The picture of `mlip bench model`: time and memory over the number of atoms."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mlip.bench.rows import Row
from mlip.bench.sides import PEER

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PEER_COLOR, COLORS = "#888888", ("#d1495b", "#00798c", "#edae49", "#30638e")
MARKERS, STYLES = "osD^", ("--", "-", "-.", ":")


def plot(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """Draw the rows of `bench_model`, both axes logarithmic, and write them as PNG.

    Left the time of a call by number of threads, right the memory it adds; grey the peer.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    peer = " ".join(filter(None, (PEER, rows[0]["peer_model"])))
    threads = sorted({r["threads"] for r in rows})
    labels = list(dict.fromkeys(r["variant"] for r in rows))
    for i, n in enumerate(threads):
        some = [r for r in rows if r["threads"] == n]
        style = STYLES[i % len(STYLES)]
        words = f"{n} thread{'s' if n > 1 else ''}"
        _line(left, some, lambda r: (r["peer_seconds"] or 0) * 1e3, f"{peer}, {words}", PEER_COLOR, "x", style)
        for k, label in enumerate(labels):
            mine = [r for r in some if r["variant"] == label]
            _line(left, mine, lambda r: r["seconds"] * 1e3, f"{label}, {words}", *_look(k), style)
    _line(right, rows, lambda r: (r["peer_memory"] or 0) / 1e6, peer, PEER_COLOR, "x", "-")
    for k, label in enumerate(labels):
        mine = [r for r in rows if r["variant"] == label and r["memory"] > 1e5]  # less than 0.1 MB is noise
        _line(right, mine, lambda r: r["memory"] / 1e6, label, *_look(k), "-")
    _dress(left, rows, "time of energy and forces (ms)")
    _dress(right, rows, "memory that the call adds (MB)")
    figure.suptitle(str(rows[0]["model"]).replace(" with random weights", "") + "; periodic water", fontsize=10)
    FigureCanvasAgg(figure)  # registers itself with the figure
    figure.savefig(os.fspath(path), format="png", dpi=150)


def _look(k: int) -> tuple[str, str]:
    return COLORS[k % len(COLORS)], MARKERS[k % len(MARKERS)]


def _line(axes: Axes, rows: Sequence[Row], value: Callable[[Row], float], label: str, color: str, marker: str,
          style: str) -> None:
    """Draw one line, a point for each size, of the values above 0; nothing if there are none."""
    points = sorted({r["atoms"]: value(r) for r in rows if value(r) > 0}.items())
    if points:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=color, marker=marker, linestyle=style, label=label, markersize=5, linewidth=1.6)


def _dress(axes: Axes, rows: Sequence[Row], label: str) -> None:
    """Put scales, labels, and the sizes themselves as ticks."""
    sizes = sorted({r["atoms"] for r in rows})
    plain: Any = "{:,}".format
    axes.set_xscale("log")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high)))  # whole decades have ticks
    axes.set_xticks(sizes, [plain(s) for s in sizes])
    axes.minorticks_off()
    axes.set_xlabel("atoms")
    axes.set_ylabel(label)
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.10g}")
    axes.grid(True, color="#dddddd", linewidth=0.6)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=8, frameon=False)
