"""Pictures of what was learned: predictions over labels, and errors over epochs."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlip.errors import OptionError
from mlip.training.evaluation import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS, GREY = ("#00798c", "#d1495b", "#edae49", "#30638e"), "#888888"
FEW = 2000  # points that are drawn one by one; more are counted in hexagons
UNITS = {"energy": "meV/atom", "forces": "meV/A", "stress": "meV/A^3"}  # of the columns of a log


def plot_parity(evaluation: Evaluation, path: str | os.PathLike[str], title: str = "") -> None:
    """Draw predictions over labels: energies, forces and stress, whichever there are; write them as PNG.

    Below each panel are the differences, which a good model does not show above. Energies are per atom and count from
    the isolated atoms of the model.

    Args:
        evaluation: of `evaluate_on`.
        path: file to write.
        title: of the picture.
    """
    total, samples = evaluation.total, evaluation.samples
    panels = [("energy", "eV/atom", total.energy_per_atom, samples["energy"].pairs),
              ("force components", "eV/A", total.forces, samples["forces"].pairs),
              ("stress components", "eV/A^3", total.stress, samples["stress"].pairs)]
    panels = [panel for panel in panels if panel[2].count]
    figure = _figure(4.7 * len(panels), 6.4)
    grid = figure.subplots(2, len(panels), squeeze=False, sharex="col", height_ratios=(3, 1.2))
    for upper, lower, (name, unit, sums, pairs) in zip(*grid, panels, strict=True):
        labels, predictions = pairs.T
        _cloud(upper, labels, predictions, rows=60)
        upper.axline((labels[0], labels[0]), slope=1, color=GREY, linewidth=0.8, zorder=0)
        upper.set_ylabel(f"model ({unit})")
        rmse, mae = (f"{1e3 * (value or 0.0):.3g}" for value in (sums.rmse, sums.mae))
        upper.set_title(f"{name}: RMSE {rmse}, MAE {mae} m{unit}", fontsize=9)
        _cloud(lower, labels, 1e3 * (predictions - labels), rows=24)
        lower.axhline(0, color=GREY, linewidth=0.8, zorder=0)
        lower.set_xlabel(f"reference ({unit})")
        lower.set_ylabel(f"difference (m{unit})")
    if title:
        figure.suptitle(title, fontsize=10)
    figure.savefig(os.fspath(path), format="png", dpi=150)


def plot_learning(log: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Draw the errors of a run over its epochs, from its `log.csv`; write them as PNG.

    Every column whose name ends in `_rmse` or `_mae` is a line, in the panel of its property.

    Raises:
        OptionError: the log holds no such column, or no number in them.
    """
    with Path(log).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {name: _column(rows, name) for name in (rows[0] if rows else ()) if name.endswith(("_rmse", "_mae"))}
    columns = {name: points for name, points in columns.items() if len(points)}
    panels = {part: {n: p for n, p in columns.items() if part in n} for part in UNITS}
    panels = {part: lines for part, lines in panels.items() if lines}
    if not panels:
        raise OptionError(f"{log} holds no errors to draw: a column 'epoch', and columns such as energy_rmse or "
                          "forces_mae with a number in some row")
    figure = _figure(4.9 * len(panels), 3.9)
    for axes, (part, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for k, (name, points) in enumerate(lines.items()):
            axes.plot(*points.T, color=COLORS[k // 2 % len(COLORS)], linestyle="--" if name.endswith("_mae") else "-",
                      marker="o" if len(points) < 3 else "", markersize=3, linewidth=1.4, label=name.replace("_", " "))
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.10g}")
        axes.yaxis.set_minor_formatter(lambda y, _: f"{y:,.10g}" if _leading(y) in (2, 5) else "")
        axes.tick_params(which="both", labelsize=8)
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"error of {part} ({UNITS[part]})")
        axes.grid(True, which="both", color="#dddddd", linewidth=0.6)
        axes.legend(fontsize=8, frameon=False)
    figure.savefig(os.fspath(path), format="png", dpi=150)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # registers itself with the figure
    return figure


def _cloud(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], rows: int) -> None:
    """Draw few points one by one, and how many there are of many."""
    if len(x) <= FEW:
        axes.plot(x, y, linestyle="", marker="o", markersize=3, alpha=0.6, color=COLORS[0], markeredgewidth=0)
    else:
        axes.hexbin(x, y, gridsize=(90, rows), bins="log", mincnt=1, cmap="viridis", linewidths=0.1)
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _column(rows: Sequence[dict[str, str]], name: str) -> NDArray[np.float64]:
    """Return [F, 2] epochs and values above 0 of the rows that have any."""
    points = []
    for row in rows:
        try:
            epoch, value = float(row["epoch"]), float(row[name])
        except (KeyError, TypeError, ValueError):
            continue  # a loop may log other numbers in rows of their own
        if 0 < value < math.inf:
            points.append((epoch, value))
    return np.array(points).reshape(-1, 2)


def _leading(value: float) -> int:
    """Return the first digit of a number above 0."""
    return round(value / 10.0 ** math.floor(math.log10(value) + 1e-9))
