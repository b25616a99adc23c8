"""What a user gives to a neighbour search, checked and as float64 arrays."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlip.errors import OptionError, StructureError

SMALLEST_VECTOR = 1e-3  # Angstrom; a shorter cell vector is taken for a missing one
SMALLEST_ANGLE = 1e-6  # least singular value of the normalised periodic vectors


def checked_positions(positions: ArrayLike) -> NDArray[np.float64]:
    """Return positions as a C-contiguous float64 array [N, 3]; their values are not looked at.

    Raises:
        StructureError: not numbers, or not of shape [N, 3].
    """
    try:
        r = np.ascontiguousarray(positions, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise StructureError(f"positions cannot be read as numbers: {error}") from None
    if r.ndim != 2 or r.shape[1] != 3:
        if r.size == 0 and np.ndim(positions) <= 2:  # an empty list has the shape (0,)
            return np.zeros((0, 3))
        raise StructureError(f"positions must have shape (N, 3), in Angstrom; {np.shape(positions)} was given")
    return r


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


def checked_cell(cell: ArrayLike | None, pbc: bool | ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the lattice [3, 3] in A, its rows zero where there is no periodicity, and the flags [3].

    A cell given for a direction that is not periodic is a dummy: it is ignored.

    Raises:
        StructureError: wrong shapes or values, a periodic direction without a vector, or periodic
            vectors that are linearly dependent.
    """
    periodic = _flags(pbc)
    h = np.zeros((3, 3))
    if cell is not None:
        try:
            given = np.asarray(cell, dtype=np.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise StructureError(f"cell cannot be read as numbers: {error}") from None
        if given.shape == (3,):
            given = np.diag(given)
        if given.shape != (3, 3):
            raise StructureError("cell must have shape (3, 3), rows in Angstrom, or (3,); "
                                 f"{given.shape} was given")
        h[periodic] = given[periodic]
    if periodic.any():
        _require_lattice(h, periodic)
    return h, periodic


def _flags(pbc: bool | ArrayLike) -> NDArray[np.bool_]:
    flags = np.asarray(pbc)
    if flags.shape not in ((), (1,), (3,)) or flags.dtype.kind not in "biu":
        raise StructureError(f"pbc must be one flag or three, True or False; {pbc!r} was given")
    periodic = np.empty(3, dtype=np.bool_)
    periodic[:] = flags
    return periodic


def _require_lattice(h: NDArray[np.float64], periodic: NDArray[np.bool_]) -> None:
    rows = h[periodic]
    if not np.isfinite(rows).all():
        raise StructureError(f"the periodic cell vectors hold NaN or infinite values: {rows.tolist()}")
    lengths = np.sqrt((rows * rows).sum(axis=1))
    if lengths.min() < SMALLEST_VECTOR:
        missing = [int(k) for k in np.flatnonzero(periodic) if np.linalg.norm(h[k]) < SMALLEST_VECTOR]
        raise StructureError(f"periodic along direction(s) {missing} but that cell vector is zero (shorter than "
                             f"{SMALLEST_VECTOR} A); give a cell, or pbc=False for a molecule")
    if len(rows) > 1 and np.linalg.svd(rows / lengths[:, None], compute_uv=False)[-1] < SMALLEST_ANGLE:
        raise StructureError(f"the periodic cell vectors are linearly dependent: {rows.tolist()}")
