"""`Structure`: one set of atoms as validated numpy arrays, the common currency of all engines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlip.elements import SYMBOLS
from mlip.errors import StructureError

MIN_DISTANCE = 1e-3  # Angstrom; closer pairs are taken for a mistake in the input
MAX_LENGTH = 1e7  # Angstrom; beyond it, positions have no digits left for distances
MIN_SPACING = 0.5  # Angstrom; its cube is less than any atom has for itself, even in a star
MAX_WHOLE = 10**6  # of charge and multiplicity


@dataclass(frozen=True)
class Structure:
    """One structure. Make it with `Structure.create`, which checks everything.

    Attributes:
        numbers: [N] int64, atomic numbers.
        positions: [N, 3] float64, A.
        cell: [3, 3] float64, A, rows are lattice vectors; zero rows where there is none.
        pbc: [3] bool, periodic directions.
        charge: total charge, e; None where it was not given, see `total_charge`.
        spin: multiplicity 2S+1; None where it was not given, see `multiplicity`.
        head: name of the model head; None where the model has one only.
    """

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    charge: int | None = None
    spin: int | None = None
    head: str | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def total_charge(self) -> int:
        """Total charge, e: as given, else 0."""
        return 0 if self.charge is None else self.charge

    @property
    def multiplicity(self) -> int:
        """Multiplicity 2S+1: as given, else 1."""
        return 1 if self.spin is None else self.spin

    @property
    def volume(self) -> float | None:
        """Volume of the user's cell in A^3; None where no direction is periodic or the cell is flat."""
        volume = abs(float(np.linalg.det(self.cell))) if self.pbc.any() else 0.0
        return volume if volume > 1e-6 else None

    @classmethod
    def create(cls, numbers: ArrayLike, positions: ArrayLike, cell: ArrayLike | None = None,
               pbc: bool | ArrayLike = False, *, charge: float | None = None,
               spin: float | None = None, head: str | None = None) -> Structure:
        """Check and convert arrays to a `Structure`.

        Args:
            numbers: [N] atomic numbers, 1 to 118.
            positions: [N, 3], A, finite.
            cell: [3, 3] rows, or [3] edge lengths, A; needed for periodic directions.
            pbc: one flag or three.
            charge: total charge, a whole number of e; None for not given.
            spin: multiplicity 2S+1, a whole number from 1; None for not given.
            head: name of the model head.

        Raises:
            StructureError: naming what is wrong.
        """
        z = _numbers(numbers)
        r = _floats(positions, "positions")
        if r.size == 0:
            r = r.reshape(0, 3)
        if r.shape != (len(z), 3):
            raise StructureError(f"positions have shape {r.shape}; {len(z)} atomic numbers need "
                                 f"({len(z)}, 3)")
        _finite(r, "positions of atoms")
        _bounded(r, "atoms")
        h, periodic = _cell(cell, pbc)
        _roomy(h[periodic], len(z))
        return cls(z, r, h, periodic, None if charge is None else _whole(charge, "charge", None),
                   None if spin is None else _whole(spin, "spin (2S+1)", 1), None if head is None else str(head))


def _floats(values: ArrayLike, name: str) -> NDArray[np.float64]:
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise StructureError(f"{name} cannot be read as numbers: {error}") from None
    return array


def _numbers(numbers: ArrayLike) -> NDArray[np.int64]:
    raw = _floats(numbers, "atomic numbers").reshape(-1)
    z = np.where(np.isfinite(raw), raw, 0).astype(np.int64)
    bad = np.flatnonzero((z != raw) | (z < 1) | (z >= len(SYMBOLS)))
    if bad.size:
        raise StructureError(f"atomic numbers must be whole and from 1 to {len(SYMBOLS) - 1}; "
                             f"{raw[bad[0]]:g} was given for atom {bad[0]}")
    return z


def _finite(array: NDArray[np.float64], name: str) -> None:
    if not np.isfinite(array).all():
        bad = np.unique(np.nonzero(~np.isfinite(array))[0])
        raise StructureError(f"NaN or infinite values in {name} {bad[:10].tolist()}")


def _bounded(array: NDArray[np.float64], name: str) -> None:
    if array.size and np.abs(array).max() > MAX_LENGTH:
        far = np.unique(np.nonzero(np.abs(array) > MAX_LENGTH)[0])
        raise StructureError(f"{name} {far[:10].tolist()} have coordinates beyond {MAX_LENGTH:g} A; in "
                             "dynamics, the system has exploded: use a shorter time step or relax it first")


def _cell(cell: ArrayLike | None, pbc: bool | ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    flags = np.asarray(pbc)
    if flags.shape not in ((), (1,), (3,)) or flags.dtype.kind not in "biu":
        raise StructureError(f"pbc must be one flag or three, True or False; {pbc!r} of shape {flags.shape} "
                             "was given")
    periodic = np.array(np.broadcast_to(flags.astype(bool), (3,)))
    if cell is None and not periodic.any():
        return np.zeros((3, 3)), periodic
    h = np.zeros((3, 3)) if cell is None else _floats(cell, "cell")
    if h.shape == (3,):
        h = np.diag(h)
    if h.shape != (3, 3):
        raise StructureError(f"cell must have shape (3, 3), rows in Angstrom, or (3,); {h.shape} was given")
    _finite(h, "cell vectors")
    _bounded(h, "cell vectors")
    lengths = np.linalg.norm(h, axis=1)
    zero = np.flatnonzero(periodic & (lengths < MIN_DISTANCE))
    if zero.size:
        raise StructureError(f"periodic along {zero.tolist()} but that cell vector is zero; "
                             "set the cell, or pbc=False for a molecule")
    rows = h[periodic] / lengths[periodic, None]
    if len(rows) and np.linalg.svd(rows, compute_uv=False).min() < 1e-6:
        raise StructureError(f"the periodic cell vectors are linearly dependent: {h[periodic].tolist()}")
    return h, periodic


def _roomy(rows: NDArray[np.float64], num_atoms: int) -> None:
    """Raise for a lattice so dense that its neighbour list would not fit any memory."""
    if not len(rows):
        return
    shortest = float(np.linalg.norm(rows, axis=1).min())
    room = float(np.prod(np.linalg.svd(rows, compute_uv=False)))
    share = max(num_atoms, 1) if len(rows) == 3 else 1
    if shortest < MIN_SPACING or room < share * MIN_SPACING ** len(rows):
        raise StructureError(f"the periodic cell has only {room:.1e} A^{len(rows)} for {num_atoms} atom(s) and a "
                             f"shortest vector of {shortest:.1e} A; cell and positions must be in Angstrom: "
                             f"{rows.tolist()} was given")


def _whole(value: float, name: str, smallest: int | None) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise StructureError(f"{name} must be a whole number; {value!r} was given") from None
    least = -MAX_WHOLE if smallest is None else smallest
    if not least <= number <= MAX_WHOLE or number != round(number):
        raise StructureError(f"{name} must be a whole number from {least} to {MAX_WHOLE}; {value!r} was given")
    return round(number)
