"""The picture of an `Analysis`: a panel for each thing that was found."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlip.analysis.diffusion import CM2_PER_S

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mlip.analysis.report import Analysis

COLORS, GREY = ("#00798c", "#d1495b", "#edae49", "#30638e", "#66a182", "#8d6a9f"), "#888888"
COLUMNS = 3
POINTS = 4000  # of a line; of more every second, third, ... is drawn

Panel = Callable[["Axes", "Analysis"], None]


def draw(found: Analysis, path: str | os.PathLike[str]) -> None:
    """Draw energies, temperature, volume, pairs, displacements and torsions, whichever there are; write them as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _panels(found)
    rows = -(-max(len(panels), 1) // COLUMNS)
    figure = Figure(figsize=(4.6 * COLUMNS, 3.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)  # registers itself with the figure
    grid = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        panel(axes, found)
        axes.grid(True, color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8)
    for axes in grid[len(panels):]:
        axes.set_axis_off()
    figure.suptitle(f"{found.path.name}: {found.motion.count} frames of {len(found.motion.numbers)} atoms", fontsize=11)
    figure.savefig(os.fspath(path), format="png", dpi=120)


def _panels(found: Analysis) -> list[Panel]:
    panels: list[Panel] = []
    if found.energies is not None:
        panels += [_total, _potential, _temperature]
    if found.box is not None and found.box.changes:
        panels += [_volume]
    if found.pairs:
        panels += [_pairs]
    if found.displacements:
        panels += [_displacements]
    if found.conformation is not None:
        panels += [_rmsd, *([_torsions, _angles] if found.conformation.torsions else [])]
    return panels


def _line(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], color: str = COLORS[0], label: str = "") -> None:
    every = -(-len(x) // POINTS)
    axes.plot(x[::every], y[::every], color=color, linewidth=0.9, label=label or None,
              marker="o" if len(x) < 3 else "", markersize=3)


def _labels(axes: Axes, title: str, x: str, y: str, legend: bool = True) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    if legend and axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=7, frameon=False)


def _time(timed: bool) -> str:
    return "time (ps)" if timed else "frame"


def _total(axes: Axes, found: Analysis) -> None:
    energies, atoms = found.energies, len(found.motion.numbers)
    assert energies is not None
    _line(axes, energies.time, (energies.total - energies.total.mean()) * 1e3 / atoms)
    drift = energies.drift(atoms)
    title = "total energy"
    if drift is not None:
        ends = energies.time[[0, -1]]
        axes.plot(ends, drift.start + drift.slope * (ends - ends[0]), color=COLORS[1], linewidth=1.4)
        error = "" if drift.error is None else f" ± {drift.error:.2g}"
        title += f": drift {drift.slope:+.3g}{error} meV/atom/ps"
    _labels(axes, title, _time(energies.timed), "above the mean (meV/atom)")


def _potential(axes: Axes, found: Analysis) -> None:
    assert found.energies is not None
    energies, atoms = found.energies, len(found.motion.numbers)
    _line(axes, energies.time, (energies.potential - energies.potential[0]) * 1e3 / atoms)
    _labels(axes, f"potential energy: mean {energies.potential.mean():.6g} eV", _time(energies.timed),
            "above the start (meV/atom)")


def _temperature(axes: Axes, found: Analysis) -> None:
    assert found.energies is not None
    energies = found.energies
    mean, deviation = float(energies.temperature.mean()), float(energies.temperature.std())
    expected = energies.canonical_deviation(found.temperature)
    _line(axes, energies.time, energies.temperature)
    axes.axhline(mean, color=COLORS[1], linewidth=1.2, label=f"mean {mean:.1f} K")
    middle = mean if found.temperature is None else found.temperature
    if found.temperature is not None:
        axes.axhline(middle, color="black", linewidth=1.0, linestyle="--", label=f"thermostat {middle:g} K")
    if expected is not None:
        axes.axhspan(middle - expected, middle + expected, color=COLORS[2], alpha=0.35, zorder=3,
                     label=f"canonical ± {expected:.1f} K")
    _labels(axes, f"temperature: {mean:.1f} K, deviation {deviation:.1f} K", _time(energies.timed), "K")


def _volume(axes: Axes, found: Analysis) -> None:
    assert found.box is not None
    _line(axes, found.box.time, found.box.density)
    axes.axhline(float(found.box.density.mean()), color=COLORS[1], linewidth=1.2)
    _labels(axes, f"density: {found.box.density.mean():.4f} g/cm³, volume {found.box.volume.mean():.5g} Å³",
            _time(found.motion.timed), "g/cm³")


def _pairs(axes: Axes, found: Analysis) -> None:
    shown = found.pairs[: len(COLORS)]
    for pair, color in zip(shown, COLORS, strict=False):
        _line(axes, pair.r, pair.g, color, pair.name)
    if not shown[0].radial:
        axes.set_xlim(0.0, 1.05 * max(float(p.r[p.g > 0].max(initial=1.0)) for p in shown))
    else:
        axes.axhline(1.0, color=GREY, linewidth=0.8, zorder=0)
        axes.set_ylim(0.0, max(1.5, min(1.05 * max(float(p.g.max()) for p in shown), 12.0)))
    _labels(axes, "radial distribution" if shown[0].radial else "distances of pairs", "r (Å)",
            "g(r)" if shown[0].radial else "share (1/Å)")


def _displacements(axes: Axes, found: Analysis) -> None:
    for one, color in zip(found.displacements, COLORS, strict=False):
        known = one.diffusion is not None and one.error is not None
        label = one.element if not known else (
            f"{one.element}: D = ({1e5 * CM2_PER_S * (one.diffusion or 0):.3g} ± "
            f"{1e5 * CM2_PER_S * (one.error or 0):.1g}) 10⁻⁵ cm²/s")
        _line(axes, one.lag, one.square, color, label)
    _labels(axes, "mean square displacement", "time (ps)" if found.motion.timed else "frames", "Å²")


def _rmsd(axes: Axes, found: Analysis) -> None:
    assert found.conformation is not None
    _line(axes, found.motion.time, found.conformation.rmsd)
    _labels(axes, f"{found.conformation.formula}: RMSD of {found.conformation.fitted} to the first frame",
            _time(found.motion.timed), "Å")


def _torsions(axes: Axes, found: Analysis) -> None:
    assert found.conformation is not None
    time, torsions = found.motion.time, found.conformation.torsions
    every = -(-len(time) // POINTS)
    for torsion, color in zip(torsions, COLORS, strict=False):
        axes.plot(time[::every], torsion.angle[::every], linestyle="", marker=".", markersize=2, color=color,
                  label=torsion.name)
    _degrees(axes.yaxis)
    axes.set_ylim(-180, 180)
    shown = min(len(torsions), len(COLORS))
    _labels(axes, "torsions" if shown == len(torsions) else f"the first {shown} of {len(torsions)} torsions",
            _time(found.motion.timed), "degrees", legend=False)


def _angles(axes: Axes, found: Analysis) -> None:
    assert found.conformation is not None
    for torsion, color in zip(found.conformation.torsions, COLORS, strict=False):
        counts, edges = np.histogram(torsion.angle, bins=72, range=(-180, 180))
        axes.stairs(counts / counts.sum() / np.diff(edges), edges, color=color, linewidth=1.2, label=torsion.name)
    _degrees(axes.xaxis)
    axes.set_xlim(-180, 180)
    _labels(axes, "torsions: how often", "degrees", "share (1/degree)")


def _degrees(axis: object) -> None:
    axis.set_ticks(range(-180, 181, 60))  # type: ignore[attr-defined]
