"""A crystal whose atoms and cell relax together, as ASE's optimisers see it."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.filters import Filter
from numpy.typing import NDArray

Array = NDArray[np.float64]


class CellFilter(Filter):  # type: ignore[misc]
    """Positions in the first cell, and the logarithm of the stretch since: what ASE's `FrechetCellFilter` moves.

    Cell and positions are those of the first cell times F = exp(H), with a symmetric H. Rotations of the crystal are
    left out, so that the derivative of the exponential has a closed form in the eigenvectors of H (Daleckii and Krein);
    ASE's filter, which takes nine series for it, needs 7 ms a step, more than a small model. H is multiplied by the
    number of atoms, as there.
    """

    def __init__(self, atoms: Atoms) -> None:
        """Take over a crystal with three periodic directions and a calculator that knows its stress."""
        super().__init__(atoms, indices=range(len(atoms)))
        self._first = atoms.cell.array.copy()
        self._log = np.zeros((3, 3))

    def __len__(self) -> int:
        return len(self.atoms) + 3

    def get_positions(self) -> Array:
        """Return [N+3, 3]: positions in the first cell, A, and N H."""
        stretch = _exponential(self._log)
        return np.concatenate([np.linalg.solve(stretch, self.atoms.positions.T).T, len(self.atoms) * self._log])

    def set_positions(self, positions: Array, **options: Any) -> None:
        """Move the atoms and the cell to what `get_positions` would return; constraints change the way."""
        log = positions[-3:] / len(self.atoms)
        self._log = 0.5 * (log + log.T)
        stretch = _exponential(self._log)
        self.atoms.set_cell(self._first @ stretch, scale_atoms=True)
        self.atoms.set_positions(positions[:-3] @ stretch, **options)

    def get_forces(self, **options: Any) -> Array:
        """Return [N+3, 3]: minus the derivative of the energy by `get_positions`, eV/A and eV."""
        stretch = _exponential(self._log)
        virial = -self.atoms.get_volume() * self.atoms.get_stress(voigt=False)
        by_stretch = virial @ np.linalg.inv(stretch)
        by_log = _derivative(self._log, 0.5 * (by_stretch + by_stretch.T))
        return np.concatenate([self.atoms.get_forces(**options) @ stretch, by_log / len(self.atoms)])

    def get_potential_energy(self, force_consistent: bool = True) -> float:
        """Return the energy of the crystal, eV."""
        return float(self.atoms.get_potential_energy(force_consistent=force_consistent))


def _exponential(log: Array) -> Array:
    values, vectors = np.linalg.eigh(log)
    return np.asarray((vectors * np.exp(values)) @ vectors.T)


def _derivative(log: Array, g: Array) -> Array:
    """Return the derivative by a symmetric `log` of what has the symmetric derivative `g` by its exponential."""
    values, vectors = np.linalg.eigh(log)
    half = 0.5 * (values[:, None] - values[None, :])
    safe = np.where(np.abs(half) < 1e-6, 1.0, half)
    ratio = np.where(np.abs(half) < 1e-6, 1 + half**2 / 6, np.sinh(safe) / safe)
    divided = np.exp(0.5 * (values[:, None] + values[None, :])) * ratio  # (e^a - e^b) / (a - b)
    out = vectors @ (divided * (vectors.T @ g @ vectors)) @ vectors.T
    return np.asarray(0.5 * (out + out.T))
