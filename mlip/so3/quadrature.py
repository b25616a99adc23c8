"""Quadratures on the unit sphere: points and weights that integrate polynomials exactly."""

from __future__ import annotations

from functools import cache
from itertools import permutations, product
from math import pi

import numpy as np
from numpy.polynomial.legendre import leggauss, legvander
from numpy.typing import NDArray

from mlip.errors import OptionError

Array = NDArray[np.float64]

# Rules that keep the symmetry of the cube: which kinds of orbits, and angles (rad) that Newton's method starts from.
# Orbits: a (0,1,0), b (0,1,1), c (1,1,1), l (s,s,t), p (s,t,0), g any; their weights follow from the angles.
_CUBIC: dict[int, tuple[str, tuple[float, ...]]] = {
    3: ("a", ()),
    5: ("ac", ()),
    7: ("abc", ()),
    9: ("acp", (1.0931,)),
    11: ("abcl", (0.4405,)),
    15: ("acllp", (0.5500, 1.3806, 0.3836)),
    17: ("aclllp", (0.5939, 1.3531, 0.2649, 0.4988)),
    19: ("abclllg", (0.2246, 0.6316, 1.2752, 0.4901, 0.3028)),
    21: ("abclllpg", (0.3691, 0.6571, 1.2653, 1.8353, 0.5464, 0.2821)),
    23: ("abcllllpg", (0.6801, 0.4214, 0.1848, 1.2512, 1.2177, 0.5808, 0.2941)),
}
_POINTS = {"a": 6, "b": 12, "c": 8, "l": 24, "p": 24, "g": 48}
_CUBE: Array = np.array([np.eye(3)[list(p)] * np.array(s)[:, None]
                         for p in permutations(range(3)) for s in product((1.0, -1.0), repeat=3)])
_PROBES: Array = np.array([[0.92, 0.33, 0.21], [0.15, 0.71, 0.69], [0.52, 0.35, 0.78]])  # no symmetry of the cube
_PROBES /= np.linalg.norm(_PROBES, axis=1, keepdims=True)


def sphere_quadrature(degree: int, order: int | None = None) -> tuple[Array, Array]:
    """Return points and weights with sum_p w_p f(r_p) equal to the integral of f over the unit sphere.

    Exact for every polynomial f up to `degree`. The rule with the fewest points of two families: those with the
    symmetry of the cube (Lebedev, Zh. Vychisl. Mat. Mat. Fiz. 16, 293 (1976); solved here by Newton's method, up to
    degree 23), and Gauss-Legendre in y times uniform around y, of (degree // 2 + 1) (degree + 1) points. Weights are
    positive.

    Args:
        degree: at least 0; for a product of harmonics of degrees l1, l2 projected on l3, this is l1 + l2 + l3.
        order: largest |m| of the harmonics that are integrated, if that is less than `degree`: fewer azimuths do.

    Returns:
        points [P, 3] and weights [P], float64; the weights sum up to 4 pi.

    Raises:
        OptionError: a negative degree.
    """
    if degree < 0:
        raise OptionError(f"a quadrature of degree {degree} was asked for; the degree must be 0 or more")
    enough = [d for d in _CUBIC if d >= degree]
    best = min(enough, default=None)
    azimuths = 1 + (degree if order is None else min(order, degree))
    if best is not None and sum(_POINTS[kind] for kind in _CUBIC[best][0]) <= (degree // 2 + 1) * azimuths:
        points, weights = _cubic(best)
    else:
        points, weights = _product(degree, azimuths - 1)
    return points.copy(), weights.copy()


def octant_quadrature(degree: int, order: int | None = None) -> tuple[Array, Array]:
    """Return the points without negative coordinates of a quadrature that all reflections of the axes leave alone.

    The rules of `sphere_quadrature`, where those around y have an even number of azimuths.

    Args:
        degree: up to which the quadrature is exact, at least 0.
        order: as for `sphere_quadrature`.

    Returns:
        points [R, 3], in which coordinates of the planes of reflection are exactly 0, and the weight [R] of each of
        their images: 8 of a point inside, fewer where coordinates are 0.
    """
    enough = [d for d in _CUBIC if d >= degree]
    around = order is not None and order < degree  # the axis y
    points, weights = _product(degree, order, even=True) if around or not enough else _cubic(min(enough))
    points = np.where(np.abs(points) < 1e-12, 0.0, points)
    chosen = (points >= 0).all(axis=1)
    return points[chosen], weights[chosen]


@cache
def _product(degree: int, order: int | None = None, even: bool = False) -> tuple[Array, Array]:
    """Return the rule of Gauss-Legendre in y times uniform around y; maybe an even number of azimuths."""
    y, weights = leggauss(degree // 2 + 1)
    largest = degree if order is None else order
    count = largest + 1 + (even and largest % 2 == 0)
    azimuth = 2 * pi * np.arange(count) / count
    sine, ones = np.sqrt(1 - y * y)[:, None], np.ones((1, count))
    points = np.stack([sine * np.sin(azimuth), y[:, None] * ones, sine * np.cos(azimuth)], axis=-1)
    return points.reshape(-1, 3), (2 * pi / count * weights[:, None] * ones).ravel()


@cache
def _cubic(degree: int) -> tuple[Array, Array]:
    """Return the rule with the symmetry of the cube: Newton's method for the weights and angles of its orbits."""
    kinds, start = _CUBIC[degree]
    angles = np.array(start)
    target = np.zeros(len(_PROBES) * (degree // 2 + 1))
    target[:: degree // 2 + 1] = 1.0
    weights = np.linalg.lstsq(_means(kinds, angles, degree), target, rcond=None)[0]
    for _ in range(4):
        means = _means(kinds, angles, degree)
        step = 1e-20 * np.eye(len(angles))  # an imaginary step gives derivatives to the last digit
        slopes = [(_means(kinds, angles + 1j * s, degree) @ weights).imag / 1e-20 for s in step]
        move = np.linalg.lstsq(np.column_stack([means, *slopes]), target - means @ weights, rcond=None)[0]
        weights, angles = weights + move[: len(kinds)], angles + move[len(kinds) :]
    points = [_orbit(r) for r in _representatives(kinds, angles)]
    shares = [np.full(len(orbit), 4 * pi * w / len(orbit)) for orbit, w in zip(points, weights, strict=True)]
    return np.concatenate(points), np.concatenate(shares)


def _orbit(point: Array) -> Array:
    """Return the different images of a point under the symmetries of the cube, [6 to 48, 3]."""
    images = _CUBE @ point + 0.0  # no -0.0
    _, first = np.unique(np.round(images, 9) + 0.0, axis=0, return_index=True)
    return images[np.sort(first)]


def _representatives(kinds: str, angles: NDArray[np.inexact]) -> NDArray[np.inexact]:
    """Return one point of each orbit, [orbits, 3]."""
    fixed = {"a": (0.0, 1.0, 0.0), "b": (0.0, 0.5**0.5, 0.5**0.5), "c": (3**-0.5, 3**-0.5, 3**-0.5)}
    remaining, points = iter(angles), []
    for kind in kinds:
        if kind in fixed:
            points.append(np.array(fixed[kind]))
            continue
        theta = next(remaining)
        phi = {"l": pi / 4, "p": pi / 2}[kind] if kind != "g" else next(remaining)
        points.append(np.array([np.sin(theta) * np.sin(phi), np.sin(theta) * np.cos(phi), np.cos(theta)]))
    return np.array(points)


def _means(kinds: str, angles: NDArray[np.inexact], degree: int) -> NDArray[np.inexact]:
    """Return the means over each orbit of P_l(u . r) for probes u and even l, [probes * (degree // 2 + 1), orbits].

    An exact rule gives 1 for l = 0 and 0 for all others. That is enough: the harmonics of degree l that keep the
    symmetry of the cube, never more than three for l < 36, are spanned by those of the probes.
    """
    images = np.concatenate([_PROBES @ g for g in _CUBE])
    values = legvander(_representatives(kinds, angles) @ images.T, degree)[..., ::2]
    means: NDArray[np.inexact] = values.reshape(len(kinds), len(_CUBE), len(_PROBES), -1).mean(axis=1)
    return means.reshape(len(kinds), -1).T
