"""`NeighborList`: the edges of one structure, sorted by receiver."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Edges(NamedTuple):
    """The three arrays of a neighbour list; see `NeighborList`."""

    senders: NDArray[np.int64]
    receivers: NDArray[np.int64]
    shifts: NDArray[np.int32]


class NeighborList(Edges):
    """All E directed edges of a structure of N atoms, each pair in both directions, sorted by receiver.

    Edge e is the vector ``positions[senders[e]] - positions[receivers[e]] + shifts[e] @ cell`` in
    Angstrom, shorter than the cutoff. It unpacks into its three arrays.

    Attributes:
        senders: [E] int64, atom j.
        receivers: [E] int64, atom i, not decreasing.
        shifts: [E, 3] int32, whole lattice vectors added to the sender, for the positions as given.
    """

    _offsets: NDArray[np.int64] | None

    def __new__(cls, senders: NDArray[np.int64], receivers: NDArray[np.int64], shifts: NDArray[np.int32],
                offsets: NDArray[np.int64] | None = None) -> NeighborList:
        """Make a list from its arrays; `offsets` [N+1] tells N, which the edges alone do not."""
        edges: Any = super().__new__(cls, senders, receivers, shifts)
        edges._offsets = offsets
        return edges  # type: ignore[no-any-return]

    def vectors(self, positions: NDArray[np.float64], cell: NDArray[np.float64]) -> NDArray[np.float64]:
        """[E, 3] A: the vector of each edge, for positions [N, 3] and cell [3, 3], A."""
        return positions[self.senders] - positions[self.receivers] + self.shifts @ cell

    @property
    def offsets(self) -> NDArray[np.int64]:
        """[N+1] int64: the edges of receiver i are those from offsets[i] to offsets[i + 1] - 1."""
        known: NDArray[np.int64] | None = getattr(self, "_offsets", None)
        if known is None:
            size = int(max(self.senders.max(), self.receivers.max())) + 1 if len(self.senders) else 0
            known = np.zeros(size + 1, dtype=np.int64)
            np.cumsum(np.bincount(self.receivers, minlength=size), out=known[1:])
            self._offsets = known
        return known
