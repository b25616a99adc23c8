"""Distances of pairs of elements: radial distribution functions of periodic runs, histograms of all others."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip.analysis.trajectory import Motion
from mlip.elements import SYMBOLS

F8 = NDArray[np.float64]

BIN = 0.05  # A
LONGEST = 10.0  # A, of radial distribution functions
PAIRS, DISTANCES = 2_000_000, 20_000_000  # that are looked at in a frame, and in all; of all elements together
SHORTEST = 2.0  # A, of half a box in which there is something to see


@dataclass(frozen=True)
class PairFunction:
    """How far atoms of two elements are from each other.

    Attributes:
        elements: two symbols.
        r: [K] A, middles of bins.
        g: [K] radial distribution function; for runs that are not periodic, share of the pairs per A.
        noise: [K] standard deviation that independent atoms would have; 0 for shares.
        radial: whether it is a radial distribution function.
        pairs: of atoms.
        frames: that were looked at.
    """

    elements: tuple[str, str]
    r: F8
    g: F8
    noise: F8
    radial: bool
    pairs: int
    frames: int

    @property
    def name(self) -> str:
        """Both symbols, `O-H`."""
        return "-".join(self.elements)

    def peak(self) -> tuple[float, float] | None:
        """Return place, A, and height of the first peak, the highest within 0.3 A; None without one.

        It is above 1.2 and above what noise explains; in a histogram, above a fifth of the largest share.
        """
        reach = round(0.3 / BIN)
        padded = np.pad(self.g, reach)
        highest = np.max(np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1), axis=1)
        least = np.maximum(1.2, 1.0 + 5.0 * self.noise) if self.radial else 0.2 * self.g.max(initial=0.0)
        found = np.flatnonzero((self.g >= highest) & (self.g > least))
        return (float(self.r[found[0]]), float(self.g[found[0]])) if len(found) else None

    def numbers(self) -> dict[str, Any]:
        """Return the first peak and what was counted, JSON-compatible."""
        peak = self.peak()
        return {"elements": list(self.elements), "radial_distribution": self.radial, "pairs": self.pairs,
                "frames": self.frames, "first_peak": None if peak is None else {"r_a": peak[0], "height": peak[1]}}


def pair_functions(motion: Motion, molecule: NDArray[np.int64]) -> list[PairFunction]:
    """Return the functions of all pairs of elements, those of most pairs first.

    Periodic in all directions: radial distribution functions, up to 10 A or half of the smallest width of the box, of
    pairs in different molecules, whose mean density is 1. Else: histograms of the distances of all pairs. Where there
    are more than 2e6 pairs, the first of them are every second, third, ... atom; where these have more than 2e7
    distances, frames are taken at equal strides, too.

    Args:
        motion: the run.
        molecule: [N] the number of the molecule of each atom.
    """
    radial = all(motion.periodic)
    longest = _longest(motion)
    if motion.cells is not None and longest < SHORTEST:
        return []
    numbers, within = motion.numbers, not radial or len(np.unique(molecule)) == 1
    elements = sorted({int(z) for z in numbers if z}, reverse=True)
    total = len(numbers) * (len(numbers) - 1) // 2
    every = max(1, -(-motion.frames.n_frames * min(total, PAIRS) // DISTANCES))
    frames, found = motion.frames.slice(slice(None, None, every), copy=False), []
    for a, b in combinations_with_replacement(elements, 2):
        first = np.flatnonzero(numbers == a)[:: max(1, -(-total // PAIRS))]
        pairs = _pairs(first, np.flatnonzero(numbers == b), a == b)
        pairs = pairs if within else pairs[molecule[pairs[:, 0]] != molecule[pairs[:, 1]]]
        if len(pairs):
            found.append(_function(frames, pairs, longest, radial, (SYMBOLS[a], SYMBOLS[b])))
    return sorted(found, key=lambda f: -f.pairs)


def _longest(motion: Motion) -> float:
    """Return the longest distance to look at, A: that of half the box, or of the largest extent of the atoms."""
    cells = motion.cells
    if cells is None:
        spread = np.ptp(motion.frames.xyz, axis=1).max(axis=0)
        return min(10.0 * float(np.linalg.norm(spread)), 3 * LONGEST) + BIN
    return min(LONGEST, 0.5 * float(widths(cells).min()))


def widths(cells: F8) -> F8:
    """Return the distances [F, 3], A, between opposite faces of cells [F, 3, 3]."""
    return np.asarray(1.0 / np.linalg.norm(np.linalg.inv(cells), axis=1))


def _pairs(first: NDArray[np.int64], second: NDArray[np.int64], same: bool) -> NDArray[np.int64]:
    """Return [P, 2] pairs of an atom of `first` and another of `second`, each once."""
    i, j = (a.ravel() for a in np.meshgrid(first, second, indexing="ij"))
    once = (i < j) | ((i > j) & ~np.isin(j, first)) if same else i != j
    return np.stack([i[once], j[once]], axis=1)


def _function(frames: Any, pairs: NDArray[np.int64], longest: float, radial: bool,
              elements: tuple[str, str]) -> PairFunction:
    import mdtraj

    bins = max(1, int(longest / BIN))
    span = (0.0, 0.1 * bins * BIN)
    if radial:
        r, g = mdtraj.compute_rdf(frames, pairs, r_range=span, n_bins=bins)
        shells = 4.0 * np.pi * np.square(r) * (r[1] - r[0])
        noise = 1.0 / np.sqrt(len(pairs) * shells * np.sum(1.0 / frames.unitcell_volumes))
    else:
        distances = mdtraj.compute_distances(frames, pairs)
        counts, edges = np.histogram(distances, bins=bins, range=span)
        r, g = 0.5 * (edges[1:] + edges[:-1]), counts / distances.size / BIN
        noise = np.zeros_like(g)
    return PairFunction(elements, 10.0 * r, g, noise, radial, len(pairs), frames.n_frames)

