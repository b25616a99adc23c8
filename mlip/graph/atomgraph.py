"""`AtomGraph`: a batch of structures and their neighbour lists as tensors."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from mlip.ops import Edges


@dataclass(frozen=True)
class AtomGraph:
    """B structures with N atoms and E directed edges in all. Edges are sorted by receiver.

    Coordinates are float64 whatever the precision of the model: distances of atoms far from the origin, or across a
    large cell, are differences of large numbers. `vectors` rounds them once they are small.

    Attributes:
        positions: [N, 3] float64, A.
        numbers: [N] int64, atomic numbers.
        cell: [B, 3, 3] float64, A, rows are lattice vectors.
        edge_index: [2, E] int64; row 0 the sender j, row 1 the receiver i.
        shifts: [E, 3] float64, whole numbers of lattice vectors.
        pair: [E] int64; an edge and its reverse are one pair of atoms, at one distance.
        pair_edge: [K] int64, one edge of each pair.
        batch: [N] int64, the structure each atom belongs to.
        volume: [B] float64, A^3; NaN where the structure has no volume (molecules), so that no stress exists.
        charge: [B] int64, e.
        spin: [B] int64, multiplicity 2S+1.
        head: [B] int64, index of the model head.
    """

    positions: Tensor
    numbers: Tensor
    cell: Tensor
    edge_index: Tensor
    shifts: Tensor
    pair: Tensor
    pair_edge: Tensor
    batch: Tensor
    volume: Tensor
    charge: Tensor
    spin: Tensor
    head: Tensor

    @property
    def num_atoms(self) -> int:
        """Number of atoms N."""
        return self.positions.shape[0]

    @property
    def num_structures(self) -> int:
        """Number of structures B."""
        return self.cell.shape[0]

    def vectors(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the edge vectors r_j + S.cell - r_i, [E, 3] in A, computed in float64; differentiable."""
        sender, receiver = self.edge_index
        shift = (self.shifts @ self.cell[0] if len(self.cell) == 1
                 else torch.einsum("ek,ekd->ed", self.shifts, self.cell[self.batch[receiver]]))
        return (self.positions[sender] - self.positions[receiver] + shift).to(dtype)

    def edges(self) -> Edges:
        """Return what the edge convolution needs; the two edges of a pair share one row of radial weights."""
        return Edges.of(self.edge_index[0], self.edge_index[1], self.num_atoms, self.pair)

    def replace(self, **fields: Tensor) -> AtomGraph:
        """Return a copy with some fields exchanged."""
        return dataclasses.replace(self, **fields)

    def to(self, device: torch.device | str) -> AtomGraph:
        """Return the graph on another device."""
        return AtomGraph(**{f.name: getattr(self, f.name).to(device) for f in dataclasses.fields(self)})
