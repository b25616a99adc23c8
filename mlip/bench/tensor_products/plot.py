"""The picture of `mlip bench tensor-products`: time, and expressivity per time, over the degree L."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlip.bench.plot import COLORS, MARKERS, PEER_COLOR, STYLES
from mlip.bench.rows import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAMILIES = {"mlip": COLORS[0], "e3nn": PEER_COLOR, "torch": COLORS[1], "GTP": "#7b4fa3", "CGTP": COLORS[3],
            "VSTP": COLORS[2], "Poisson": "#b5651d", "MTP": "#6a994e"}


def plot(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """Draw the rows of `bench_tensor_products` for the first number of threads, forward, and write them as PNG.

    A column for each setting: above the time of a product of the whole batch, below the dimension of what the product
    spans over the time for one pair of signals; both logarithmic.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    some = [r for r in rows if (r["threads"], r["direction"]) == (rows[0]["threads"], rows[0]["direction"])]
    settings = list(dict.fromkeys(r["setting"] for r in some))
    figure = Figure(figsize=(1.5 + 4.0 * len(settings), 8.0), layout="constrained")
    panels = figure.subplots(2, len(settings), squeeze=False, sharey="row", sharex=True)
    names = list(dict.fromkeys(r["implementation"] for r in some))
    for column, setting in enumerate(settings):
        mine = [r for r in some if r["setting"] == setting]
        for name in names:
            lines = [r for r in mine if r["implementation"] == name and r["seconds"] is not None]
            _line(panels[0, column], [(r["lmax"], r["seconds"] * 1e3) for r in lines], *_look(name, names), name)
            _line(panels[1, column], [(r["lmax"], r["per_microsecond"]) for r in lines], *_look(name, names), name)
        panels[0, column].set_title(setting, fontsize=10)
        panels[1, column].set_xlabel("L")
        for panel in panels[:, column]:
            _dress(panel, sorted({r["lmax"] for r in some}))
    panels[0, 0].set_ylabel("time (ms)")
    panels[1, 0].set_ylabel("expressivity per microsecond of a pair")
    drawn = [panel.get_legend_handles_labels() for panel in panels[0]]
    handles = {label: line for lines, labels in drawn for line, label in zip(lines, labels, strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside right center", fontsize=8, frameon=False)
    first = rows[0]
    figure.suptitle(f"{first['batch']:,} pairs of signals, {first['channels']} channels, {first['direction']}, "
                    f"{first['threads']} thread{'s' if first['threads'] > 1 else ''}", fontsize=10)
    FigureCanvasAgg(figure)  # registers itself with the figure
    figure.savefig(os.fspath(path), format="png", dpi=150)


def _look(name: str, names: Sequence[str]) -> tuple[str, str, str]:
    """Return colour, marker and style of an implementation: a colour for each family, the first word of the name."""
    family = name.split()[0]
    place = [other for other in names if other.split()[0] == family].index(name)
    return FAMILIES[family], MARKERS[place % len(MARKERS)], STYLES[(place + 1) % len(STYLES)]


def _line(axes: Axes, points: Sequence[tuple[int, float]], color: str, marker: str, style: str, label: str) -> None:
    """Draw one line, if there is a point of it."""
    if points:
        x, y = zip(*sorted(points), strict=True)
        axes.plot(x, y, color=color, marker=marker, linestyle=style, label=label, markersize=5, linewidth=1.6)


def _dress(axes: Axes, degrees: Sequence[int]) -> None:
    axes.set_yscale("log")
    axes.set_xticks(degrees)
    axes.grid(True, color="#dddddd", linewidth=0.6)
