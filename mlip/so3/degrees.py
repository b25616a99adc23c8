"""Bookkeeping of spherical-harmonic degrees: l*l + l + m is the flat index of (l, m)."""

from __future__ import annotations


def size(lmax: int) -> int:
    """Return the number of components of all degrees up to `lmax`, (lmax+1)^2."""
    return (lmax + 1) ** 2


def block(l: int) -> slice:
    """Return the components of degree `l` among all degrees."""
    return slice(l * l, (l + 1) ** 2)


def degree_of_component(lmax: int) -> list[int]:
    """Return the degree of every flat component up to `lmax`: 0, 1, 1, 1, 2, ..."""
    return [l for l in range(lmax + 1) for _ in range(2 * l + 1)]


def convolution_paths(l_in: int, l_edge: int, l_out: int) -> list[tuple[int, int, int]]:
    """Return the paths (l1, l2, l3) of features times harmonics, sorted by l3, then l1, then l2.

    Only products that keep the natural parity (-1)^l are paths: l1 + l2 + l3 is even.
    """
    return [(l1, l2, l3) for l3 in range(l_out + 1) for l1 in range(l_in + 1) for l2 in range(l_edge + 1)
            if abs(l1 - l2) <= l3 <= l1 + l2 and (l1 + l2 + l3) % 2 == 0]
