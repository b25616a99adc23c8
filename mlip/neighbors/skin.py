"""`VerletSkin`: a list that is built a little too long and so lasts for some steps of dynamics."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlip.errors import OptionError
from mlip.neighbors.bins import EPS, MOST_SHIFT
from mlip.neighbors.celllist import neighbor_list, room_for_edges
from mlip.neighbors.edges import NeighborList
from mlip.neighbors.inputs import array_of_cell, checked_cutoff, checked_positions, flags, require_lattice
from mlip.neighbors.lattice import F8
from mlip.neighbors.screen import Long, copy_kept, drift, put_in_order, screen, turn
from mlip.neighbors.workers import threads_for, work_through


class VerletSkin:
    """Neighbour lists of one system that moves: always the exact edges within `cutoff`.

    A list for cutoff + skin is kept and searched for the edges that are short at each call. It is
    made anew only when an atom could have come into the cutoff unseen. With the old and new lattice
    vectors h, F = h_old^-1 h_new and the displacements u = r_new - r_old F modulo the lattice, a pair
    that was farther apart than cutoff + skin is now farther than sigma_min(F) (cutoff + skin) - 2 max|u|,
    sigma_min being the smallest singular value; while that is not below the cutoff the list is good.
    So it bears changes of the cell at every step, and engines that wrap atoms back into it.

    Attributes:
        cutoff: A.
        skin: A; 0 builds anew at every call.
        calls: how often `update` was called.
        rebuilds: how often a list was built.
    """

    def __init__(self, cutoff: float, skin: float, *, threads: int | None = None) -> None:
        """Make an empty list; `threads` as in `neighbor_list`.

        Raises:
            OptionError: a cutoff not above 0, a skin below 0, either not finite, or less than one thread.
        """
        self.cutoff = checked_cutoff(cutoff)
        try:
            self.skin = float(skin)
        except (TypeError, ValueError):
            raise OptionError(f"skin must be a number of Angstrom from 0; {skin!r} was given") from None
        if not 0.0 <= self.skin < math.inf:
            raise OptionError(f"skin must be a finite number of Angstrom from 0; {skin!r} was given")
        if threads is not None and threads < 1:
            raise OptionError(f"threads must be 1 or more; {threads!r} was given")
        self.threads = threads
        self.calls = 0
        self.rebuilds = 0
        self._edges: Long | None = None
        self._positions: F8 = np.zeros((0, 3))
        self._cell: F8 = np.zeros((3, 3))  # zero rows where there is no periodicity
        self._dual: F8 = np.zeros((3, 3))
        self._pbc: NDArray[np.bool_] = np.zeros(3, dtype=np.bool_)

    def update(self, positions: ArrayLike, cell: ArrayLike | None = None,
               pbc: bool | ArrayLike = False) -> NeighborList:
        """Return the edges within `cutoff`, with arrays of their own; arguments and errors as `neighbor_list`.

        The edges are those `neighbor_list` gives, sorted by receiver; with a skin, for one receiver those without a
        shift come first, then they are sorted by sender and shift. So sums over them have the same bits whenever the
        list was made, which runs that are resumed rely on.
        """
        self.calls += 1
        r = checked_positions(positions)
        periodic = flags(pbc)
        h = np.where(periodic[:, None], array_of_cell(cell), 0.0)
        if self.skin == 0.0 or not self._lasts(r, h, periodic):
            edges = neighbor_list(r, self.cutoff + self.skin, h, periodic, threads=self.threads)
            self.rebuilds += 1
            if self.skin == 0.0:
                return edges
            self._keep(edges, r, h, periodic)
        return self._short(r, h)

    def _keep(self, edges: NeighborList, r: F8, cell: F8, pbc: NDArray[np.bool_]) -> None:
        """Keep a list for cutoff + skin, and the structure it was made for."""
        senders = edges.senders.astype(np.uint32)
        self._edges = in_order(Long(edges.offsets, senders, edges.shifts, np.zeros(len(r), dtype=np.int64), senders))
        self._positions, self._cell, self._pbc = r.copy(), cell, pbc
        self._dual = dual_of(cell, pbc)

    def _lasts(self, r: F8, h: F8, pbc: NDArray[np.bool_]) -> bool:
        """Return whether the list still holds all edges; correct its shifts for atoms that were wrapped."""
        if self._edges is None or len(r) != len(self._positions) or (pbc != self._pbc).any():
            return False
        dual, strain, stretch = self._dual, np.eye(3), 1.0
        if (h != self._cell).any():
            require_lattice(h, pbc)
            dual = dual_of(h, pbc)
            strain += self._dual @ (h - self._cell)
            stretch = float(np.linalg.svd(strain, compute_uv=False)[-1])
        turns = np.empty((len(r), 3), dtype=np.int32)
        moved = math.sqrt(drift(r, self._positions, strain, dual, h, turns))
        size = max(float(np.abs(r).max(initial=0.0)), float(np.abs(self._positions).max(initial=0.0)))
        skewness = 1.0 + float((np.linalg.norm(dual, axis=0) * np.linalg.norm(h, axis=1)).sum())
        rounding = 64.0 * EPS * skewness * (2.0 * size + self.cutoff + self.skin)
        if not 2.0 * moved <= stretch * (self.cutoff + self.skin) - self.cutoff - rounding:
            return False
        if turns.any():
            self._positions = self._positions + turns @ self._cell
            if turn(self._edges, turns) > MOST_SHIFT:
                self._edges = None
                return False
            self._edges = in_order(self._edges)
        return True

    def _short(self, r: F8, h: F8) -> NeighborList:
        """Return the edges within the cutoff among those kept."""
        edges, limit = self._edges, self.cutoff * self.cutoff
        assert edges is not None
        threads = threads_for(len(r), self.threads)
        parts = 8 * threads if threads > 1 else 1
        bounds = np.searchsorted(edges.offsets, np.linspace(0, len(edges.senders), parts + 1)).tolist()
        bounds[0], bounds[-1] = 0, len(r)
        offsets = np.zeros(len(r) + 1, dtype=np.int64)
        longest = int(np.diff(edges.offsets).max(initial=0))

        def screening(first: int, last: int) -> None:
            screen(r, h, limit, edges, first, last, np.empty(longest), offsets[1:])

        work_through(screening, bounds, threads)
        np.cumsum(offsets, out=offsets)
        senders, receivers, shifts = room_for_edges(int(offsets[-1]))
        work_through(lambda first, last: copy_kept(edges, first, last, offsets, senders, receivers, shifts),
                     bounds, threads)
        return NeighborList(senders, receivers, shifts, offsets)


def in_order(edges: Long) -> Long:
    """Return the edges in the order of `put_in_order`, in arrays of their own."""
    ordered = Long(edges.offsets, np.empty_like(edges.senders), np.empty_like(edges.shifts),
                   np.empty_like(edges.plain), np.empty_like(edges.kept))
    put_in_order(edges, ordered, np.empty((len(edges.plain), 2), dtype=np.int64))
    return ordered


def dual_of(cell: F8, pbc: NDArray[np.bool_]) -> F8:
    """Return [3, 3] 1/A: columns dual to the periodic rows of a cell, zero elsewhere."""
    dual = np.zeros((3, 3))
    if pbc.any():
        dual[:, pbc] = np.linalg.pinv(cell[pbc])
    return dual
