"""Placeholder until the real skin list: rebuilds at every call."""

from __future__ import annotations

from numpy.typing import ArrayLike

from mlip.errors import OptionError
from mlip.neighbors.celllist import neighbor_list
from mlip.neighbors.edges import NeighborList
from mlip.neighbors.inputs import checked_cutoff


class VerletSkin:
    """See the brief."""

    def __init__(self, cutoff: float, skin: float) -> None:
        self.cutoff = checked_cutoff(cutoff)
        self.skin = float(skin)
        if not self.skin >= 0:
            raise OptionError(f"skin must be 0 or more Angstrom; {skin!r} was given")
        self.rebuilds = 0
        self.calls = 0

    def update(self, positions: ArrayLike, cell: ArrayLike | None = None,
               pbc: bool | ArrayLike = False) -> NeighborList:
        """Return the list."""
        self.calls += 1
        self.rebuilds += 1
        return neighbor_list(positions, self.cutoff, cell, pbc)
