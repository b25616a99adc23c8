"""Finite groups of rotations, and random rotations."""

from __future__ import annotations

from functools import cache
from math import cos, pi, sin, sqrt

import numpy as np
from numpy.typing import NDArray

from mlip.errors import OptionError

Array = NDArray[np.float64]

GROUPS = ("T", "O", "Oh", "I", "Ih")


def rotation_group(name: str) -> Array:
    """Return the matrices of a point group, the identity first.

    The mean over T takes the degrees 1 and 2 out of a function on the sphere, over O those from 1 to 3 (and 5, 7, 11),
    over I those from 1 to 5; the inversion of Oh and Ih takes out all odd ones.

    Args:
        name: `"T"` (12 rotations of the tetrahedron), `"O"` (24, of the cube), `"I"` (60, of the icosahedron), `"Oh"`
            (48) or `"Ih"` (120), the last two with the inversion.

    Returns:
        [G, 3, 3], orthogonal.

    Raises:
        OptionError: another name.
    """
    if not isinstance(name, str) or name not in GROUPS:
        raise OptionError(f"rotation group {name!r} is unknown; allowed: {', '.join(GROUPS)}")
    return _group(name).copy()


def random_rotations(count: int, seed: int | np.random.Generator = 0) -> Array:
    """Return uniformly distributed rotation matrices (QR of Gaussian matrices; Mezzadri, Notices AMS 54, 592 (2007)).

    Args:
        count: number G of rotations.
        seed: a number, or a generator to draw from.

    Returns:
        [G, 3, 3], of determinant 1.
    """
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(count, 3, 3)))
    q = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
    return np.asarray(q * np.sign(np.linalg.det(q))[:, None, None], dtype=np.float64)


@cache
def _group(name: str) -> Array:
    if name.endswith("h"):
        proper = _group(name[0])
        return np.concatenate([proper, -proper])
    generators = [np.roll(np.eye(3), 1, axis=0), np.diag([-1.0, -1.0, 1.0])]  # about (1,1,1) and z: those of T
    if name == "O":
        generators.append(_turn((0.0, 0.0, 1.0), pi / 2))
    if name == "I":
        generators.append(_turn((0.0, 1.0, (1 + sqrt(5)) / 2), 2 * pi / 5))
    return _closure(generators)


def _turn(axis: tuple[float, float, float], angle: float) -> Array:
    """Return the rotation about an axis (Rodrigues' formula), [3, 3]."""
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.asarray(np.eye(3) + sin(angle) * cross + (1 - cos(angle)) * cross @ cross, dtype=np.float64)


def _closure(generators: list[Array]) -> Array:
    """Return all products of some matrices that generate a finite group, [G, 3, 3]."""
    found = [np.eye(3)]
    for element in found:  # grows while it is read
        for generator in generators:
            new = element @ generator
            if np.abs(np.array(found) - new).max(axis=(1, 2)).min() > 1e-6:
                found.append(new)
    return np.array(found)
