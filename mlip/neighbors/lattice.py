"""The periodic lattice as the search needs it: reduced, and completed to three vectors."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlip.neighbors.jit import compiled, inner

F8 = NDArray[np.float64]
I8 = NDArray[np.int64]

SMALLEST_VECTOR = 1e-3  # Angstrom; a shorter lattice vector is taken for a missing or dependent one
LARGEST = 1e9  # multiples in one step of the reduction


class Lattice(NamedTuple):
    """Three vectors that span space; the periodic ones are a short basis of the user's lattice.

    Attributes:
        basis: [3, 3] A, rows; where there is no periodicity a unit vector orthogonal to the others.
        dual: [3, 3] 1/A, columns; basis @ dual = 1.
        whole: [3, 3] int64; basis = whole @ cell in the periodic rows, zero elsewhere.
        periodic: [3] bool.
        user: [3, 3] A, the user's cell, zero rows where there is no periodicity.
    """

    basis: F8
    dual: F8
    whole: I8
    periodic: NDArray[np.bool_]
    user: F8


@inner
def dot(basis: F8, k: int, l: int) -> float:
    """Return the scalar product of two vectors."""
    return basis[k, 0] * basis[l, 0] + basis[k, 1] * basis[l, 1] + basis[k, 2] * basis[l, 2]  # type: ignore[no-any-return]


@inner
def cross(basis: F8, k: int, c: int) -> float:
    """Return component c of the vector product of the two vectors after vector k."""
    a, b = (k + 1) % 3, (k + 2) % 3
    d, e = (c + 1) % 3, (c + 2) % 3
    return basis[a, d] * basis[b, e] - basis[a, e] * basis[b, d]  # type: ignore[no-any-return]


@inner
def set_normal(basis: F8, k: int) -> None:
    """Make vector k the unit vector orthogonal to the two others."""
    length = math.sqrt(cross(basis, k, 0) ** 2 + cross(basis, k, 1) ** 2 + cross(basis, k, 2) ** 2)
    for c in range(3):
        basis[k, c] = cross(basis, k, c) / length


@inner
def subtract(basis: F8, whole: I8, k: int, l: int, times: float) -> None:
    """Subtract `times` times the vector l from the vector k."""
    for c in range(3):
        basis[k, c] -= times * basis[l, c]
        whole[k, c] -= np.int64(times) * whole[l, c]


@inner
def shorten_pairs(basis: F8, whole: I8, periodic: NDArray[np.bool_]) -> bool:
    """Make each vector as short as another one can make it (Gauss); return whether any changed."""
    changed = False
    for k in range(3):
        for l in range(3):
            if k != l and periodic[k] and periodic[l]:
                overlap, length = dot(basis, k, l), dot(basis, l, l)
                if abs(overlap) > 0.5000001 * length and abs(overlap) < LARGEST * length:
                    subtract(basis, whole, k, l, np.rint(overlap / length))
                    changed = True
    return changed


@inner
def shorten_longest(basis: F8, whole: I8) -> bool:
    """Replace the longest of three vectors by its sum with +-both others, if that is shorter."""
    k = 0
    for l in range(1, 3):
        if dot(basis, l, l) > dot(basis, k, k):
            k = l
    a, b = (k + 1) % 3, (k + 2) % 3
    length = dot(basis, k, k)
    for first in (-1.0, 1.0):
        for second in (-1.0, 1.0):
            total = 0.0
            for c in range(3):
                total += (basis[k, c] - first * basis[a, c] - second * basis[b, c]) ** 2
            if total < 0.9999999 * length:
                subtract(basis, whole, k, a, first)
                subtract(basis, whole, k, b, second)
                return True
    return False


@inner
def complete(basis: F8, periodic: NDArray[np.bool_]) -> None:
    """Fill the rows without periodicity by unit vectors orthogonal to all others."""
    number = 0
    last = 0
    for k in range(3):
        if periodic[k]:
            number += 1
            last = k
    if number == 0:
        for c in range(3):
            basis[c, c] = 1.0
    if number == 1:  # a first orthogonal vector, from the axis the lattice vector is least along
        least = 0
        for c in range(1, 3):
            if abs(basis[last, c]) < abs(basis[last, least]):
                least = c
        basis[(last + 2) % 3, least] = 1.0
        set_normal(basis, (last + 1) % 3)
    if number == 1 or number == 2:
        k = (last + 2) % 3
        if number == 2:
            for c in range(3):
                if not periodic[c]:
                    k = c
        set_normal(basis, k)


@inner
def invert(basis: F8, dual: F8) -> float:
    """Write the inverse of [3, 3]; return the volume over the product of the lengths of its rows."""
    volume = basis[0, 0] * cross(basis, 0, 0) + basis[0, 1] * cross(basis, 0, 1) + basis[0, 2] * cross(basis, 0, 2)
    for k in range(3):
        for c in range(3):
            dual[c, k] = cross(basis, k, c) / volume
    lengths = math.sqrt(dot(basis, 0, 0) * dot(basis, 1, 1) * dot(basis, 2, 2))
    return float(abs(volume) / lengths)


@compiled
def make_lattice(cell: F8, periodic: NDArray[np.bool_]) -> tuple[Lattice, bool]:
    """Return the reduced and completed lattice of a cell [3, 3] A, and whether it is a sound one.

    Reduction leaves the set of lattice points as it is and makes the number of images within a
    cutoff small for however skewed a cell (I. Semaev, "A 3-dimensional lattice reduction algorithm",
    2001). Lattice vectors that are dependent or zero are found by a reduced vector that is too short.
    """
    user, basis, dual = np.zeros((3, 3)), np.zeros((3, 3)), np.zeros((3, 3))
    whole = np.zeros((3, 3), dtype=np.int64)
    for k in range(3):
        if periodic[k]:
            whole[k, k] = 1
            for c in range(3):
                user[k, c] = cell[k, c]
                basis[k, c] = cell[k, c]
    full = periodic[0] and periodic[1] and periodic[2]
    for _ in range(1000):
        if not shorten_pairs(basis, whole, periodic) and not (full and shorten_longest(basis, whole)):
            break
    sound = True
    for k in range(3):
        if periodic[k]:
            for c in range(3):
                basis[k, c] = whole[k, 0] * user[0, c] + whole[k, 1] * user[1, c] + whole[k, 2] * user[2, c]
            length = dot(basis, k, k)
            sound &= SMALLEST_VECTOR ** 2 <= length < math.inf
    complete(basis, periodic)
    flat = invert(basis, dual)
    return Lattice(basis, dual, whole, periodic, user), sound and flat > 0.1
