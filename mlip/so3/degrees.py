"""Bookkeeping of spherical-harmonic degrees: l*l + l + m is the flat index of (l, m)."""

from __future__ import annotations

from dataclasses import dataclass


def size(lmax: int) -> int:
    """Return the number of components of all degrees up to `lmax`, (lmax+1)^2."""
    return (lmax + 1) ** 2


def block(l: int) -> slice:
    """Return the components of degree `l` among all degrees."""
    return slice(l * l, (l + 1) ** 2)


def degree_of_component(lmax: int) -> list[int]:
    """Return the degree of every flat component up to `lmax`: 0, 1, 1, 1, 2, ..."""
    return [l for l in range(lmax + 1) for _ in range(2 * l + 1)]


@dataclass(frozen=True)
class Paths:
    """The products of features and harmonics that a convolution adds up.

    Attributes:
        triples: (l1, l2, l3) of features, harmonics and messages, grouped by l3.
        gaunt: whether the coupling is that of the pointwise product on the sphere, so that all paths of a degree l2
            share one weight and all paths to a degree l3 are added up. Else each has a weight and messages of its own.
    """

    triples: tuple[tuple[int, int, int], ...]
    gaunt: bool = False

    @classmethod
    def all(cls, l_in: int, l_edge: int, l_out: int, gaunt: bool = False) -> Paths:
        """Return the paths of `convolution_paths`."""
        return cls(tuple(convolution_paths(l_in, l_edge, l_out)), gaunt)

    @property
    def weights(self) -> int:
        """Number of weights of an edge and channel."""
        return 1 + max(l2 for _, l2, _ in self.triples) if self.gaunt else len(self.triples)

    @property
    def slots(self) -> dict[int, int]:
        """Number of messages of each degree l3."""
        degrees = [l3 for _, _, l3 in self.triples]
        return {l3: 1 if self.gaunt else degrees.count(l3) for l3 in dict.fromkeys(degrees)}

    def places(self) -> list[tuple[int, int]]:
        """Return the weight of each path, and the place of its messages among those of its degree."""
        if self.gaunt:
            return [(l2, 0) for _, l2, _ in self.triples]
        degrees = [l3 for _, _, l3 in self.triples]
        return [(p, degrees[:p].count(l3)) for p, l3 in enumerate(degrees)]


def convolution_paths(l_in: int, l_edge: int, l_out: int) -> list[tuple[int, int, int]]:
    """Return the paths (l1, l2, l3) of features times harmonics, sorted by l3, then l1, then l2.

    Only products that keep the natural parity (-1)^l are paths: l1 + l2 + l3 is even.
    """
    return [(l1, l2, l3) for l3 in range(l_out + 1) for l1 in range(l_in + 1) for l2 in range(l_edge + 1)
            if abs(l1 - l2) <= l3 <= l1 + l2 and (l1 + l2 + l3) % 2 == 0]
