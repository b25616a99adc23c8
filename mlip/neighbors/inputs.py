"""What a user gives to a neighbour search, checked and as float64 arrays."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlip.errors import OptionError, StructureError
from mlip.neighbors.lattice import SMALLEST_VECTOR, make_lattice


def checked_positions(positions: ArrayLike) -> NDArray[np.float64]:
    """Return positions as a plain writeable float64 array [N, 3]; their values are not looked at.

    Raises:
        StructureError: not numbers, or not of shape [N, 3].
    """
    r = _floats(positions, "positions")
    if r.ndim != 2 or r.shape[1] != 3:
        if r.size == 0 and np.ndim(positions) <= 2:  # an empty list has the shape (0,)
            return np.zeros((0, 3))
        raise StructureError(f"positions must have shape (N, 3), in Angstrom; {np.shape(positions)} was given")
    return r


def _floats(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return numbers as an array that is contiguous, aligned and writeable: numba compiles for each kind anew."""
    try:
        array = np.ascontiguousarray(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise StructureError(f"{name} cannot be read as numbers: {error}") from None
    return array if array.flags.carray else array.copy()


def require_finite(positions: NDArray[np.float64]) -> None:
    """Raise `StructureError` naming the atoms whose positions are NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if bad.size:
        raise StructureError(f"positions of {bad.size} atom(s) are NaN or infinite: atoms {bad[:10].tolist()}")


def checked_cutoff(cutoff: float) -> float:
    """Return the cutoff in Angstrom.

    Raises:
        OptionError: not a finite number above zero.
    """
    try:
        value = float(cutoff)
    except (TypeError, ValueError):
        raise OptionError(f"cutoff must be a number of Angstrom above 0; {cutoff!r} was given") from None
    if not (0.0 < value < math.inf):
        raise OptionError(f"cutoff must be a finite number of Angstrom above 0; {value!r} was given")
    return value


def flags(pbc: bool | ArrayLike) -> NDArray[np.bool_]:
    """Return the periodic directions as three flags.

    Raises:
        StructureError: neither one flag nor three.
    """
    given = np.asarray(pbc)
    if given.shape not in ((), (1,), (3,)) or given.dtype.kind not in "biu":
        raise StructureError(f"pbc must be one flag or three, True or False; {pbc!r} was given")
    periodic = np.empty(3, dtype=np.bool_)
    periodic[:] = given
    return periodic


def array_of_cell(cell: ArrayLike | None) -> NDArray[np.float64]:
    """Return a cell as a plain array [3, 3] in A, zero if None; its values are not looked at.

    Raises:
        StructureError: not numbers, or neither of shape [3, 3] nor [3].
    """
    if cell is None:
        return np.zeros((3, 3))
    h = _floats(cell, "cell")
    if h.shape == (3,):
        h = np.diag(h).copy()
    if h.shape != (3, 3):
        raise StructureError(f"cell must have shape (3, 3), rows in Angstrom, or (3,); {np.shape(cell)} was given")
    return h


def checked_cell(cell: ArrayLike | None, pbc: bool | ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the lattice [3, 3] in A, its rows zero where there is no periodicity, and the flags [3].

    A cell given for a direction that is not periodic is a dummy: it is ignored.

    Raises:
        StructureError: wrong shapes or values, a periodic direction without a vector, or periodic
            vectors that are linearly dependent.
    """
    periodic = flags(pbc)
    h = array_of_cell(cell)
    require_lattice(h, periodic)
    lattice = np.zeros((3, 3))
    lattice[periodic] = h[periodic]
    return lattice, periodic


def require_lattice(h: NDArray[np.float64], periodic: NDArray[np.bool_]) -> None:
    """Raise `StructureError` where the periodic rows of a cell [3, 3] span no lattice."""
    rows = h[periodic]
    if not np.isfinite(rows).all():
        raise StructureError(f"the periodic cell vectors hold NaN or infinite values: {rows.tolist()}")
    missing = [int(k) for k in np.flatnonzero(periodic) if np.linalg.norm(h[k]) < SMALLEST_VECTOR]
    if missing:
        raise StructureError(f"periodic along direction(s) {missing} but that cell vector is zero (shorter than "
                             f"{SMALLEST_VECTOR} A); give a cell, or pbc=False for a molecule")
    if not make_lattice(h, periodic)[1]:
        raise StructureError(f"the periodic cell vectors are linearly dependent: {rows.tolist()}")
