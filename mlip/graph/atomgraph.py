"""`AtomGraph`: a batch of structures and their neighbour lists as tensors."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AtomGraph:
    """B structures with N atoms and E directed edges in all. Edges are sorted by receiver.

    Attributes:
        positions: [N, 3] A.
        numbers: [N] int64, atomic numbers.
        cell: [B, 3, 3] A, rows are lattice vectors.
        edge_index: [2, E] int64; row 0 the sender j, row 1 the receiver i.
        shifts: [E, 3] whole numbers of lattice vectors, in the dtype of positions.
        batch: [N] int64, the structure each atom belongs to.
        volume: [B] A^3; NaN where the structure has no volume (molecules), so that no stress exists.
        charge: [B] int64, e.
        spin: [B] int64, multiplicity 2S+1.
        head: [B] int64, index of the model head.
    """

    positions: Tensor
    numbers: Tensor
    cell: Tensor
    edge_index: Tensor
    shifts: Tensor
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

    def vectors(self) -> Tensor:
        """Return the edge vectors r_j + S.cell - r_i, [E, 3] in A; differentiable."""
        sender, receiver = self.edge_index
        shift = torch.einsum("ek,ekd->ed", self.shifts, self.cell[self.batch[receiver]])
        return self.positions[sender] - self.positions[receiver] + shift

    def replace(self, **fields: Tensor) -> AtomGraph:
        """Return a copy with some fields exchanged."""
        return dataclasses.replace(self, **fields)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> AtomGraph:
        """Return the graph on `device`, its floating-point fields in `dtype`."""
        moved = {}
        for field in dataclasses.fields(self):
            tensor: Tensor = getattr(self, field.name)
            moved[field.name] = tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
        return AtomGraph(**moved)
