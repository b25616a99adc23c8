"""The components that a rotation into the frame of an edge keeps, and the packed matrices that make them.

A rotation around the polar axis mixes +m and -m only. With the edge as the axis, networks that are equivariant are
block-diagonal in |m|, and keep the components with |m| <= mmax (Passaro & Zitnick, ICML 2023).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from mlip.errors import OptionError
from mlip.so3.degrees import size


@dataclass(frozen=True)
class EdgeFrame:
    """Which components of degrees 0..lmax are kept in the frame of an edge: those with |m| <= mmax.

    Kept components are in m-primary order: m = 0 with l = 0..lmax; then for each m = 1..mmax first +m with l = m..lmax,
    then -m with l = m..lmax.

    The packed matrix of an edge holds, for each degree in order, a block of 2*min(l, mmax)+1 rows and 2*l+1 columns,
    row by row. Its rows are the orders 0, +1, -1, +2, -2, ... of the frame of the edge, its columns the orders -l..l of
    the components of an atom.

    Attributes:
        lmax: largest degree.
        mmax: largest order |m| that is kept.

    Raises:
        OptionError: unless 0 <= mmax <= lmax.
    """

    lmax: int
    mmax: int

    def __post_init__(self) -> None:
        if not 0 <= self.mmax <= self.lmax:
            raise OptionError(f"orders up to mmax={self.mmax} of degrees up to lmax={self.lmax} were asked for; "
                              "0 <= mmax <= lmax must hold")

    def kept(self) -> Iterator[tuple[int, int]]:
        """Yield degree and order (l, m) of every kept component."""
        for m in range(self.mmax + 1):
            for sign in (1, -1) if m else (1,):
                yield from ((l, sign * m) for l in range(m, self.lmax + 1))

    def orders(self) -> list[list[slice]]:
        """Return the places of the orders m = 0, 1, ... among kept components: one slice for 0, two (+m, -m) beyond."""
        out, first = [], 0
        for m in range(self.mmax + 1):
            count = self.lmax + 1 - m
            out.append([slice(first + i * count, first + (i + 1) * count) for i in range(2 if m else 1)])
            first += len(out[-1]) * count
        return out

    def rows(self, l: int) -> list[int]:
        """Return the orders of the rows of the packed block of a degree: 0, +1, -1, ..."""
        return [0, *(s * m for m in range(1, min(l, self.mmax) + 1) for s in (1, -1))]

    @property
    def components(self) -> int:
        """Number of kept components K."""
        return sum(len(self.rows(l)) for l in range(self.lmax + 1))

    @property
    def entries(self) -> int:
        """Number of entries Q of the packed matrix of an edge."""
        return sum((2 * l + 1) * len(self.rows(l)) for l in range(self.lmax + 1))

    def blocks(self) -> list[slice]:
        """Return the entries of each degree in the packed matrix."""
        ends = [0, *accumulate((2 * l + 1) * len(self.rows(l)) for l in range(self.lmax + 1))]
        return [slice(a, b) for a, b in pairwise(ends)]

    def degrees(self) -> NDArray[np.int64]:
        """Return the degree of every kept component, [K]."""
        return np.array([l for l, _ in self.kept()], dtype=np.int64)

    def places(self) -> NDArray[np.int64]:
        """Return for every row of the packed blocks, in their order, its place among the kept components, [K]."""
        place = {component: k for k, component in enumerate(self.kept())}
        return np.array([place[l, m] for l in range(self.lmax + 1) for m in self.rows(l)], dtype=np.int64)

    def packing(self) -> NDArray[np.int64]:
        """Return where each entry of the packed matrix stands in a dense matrix, [Q].

        The dense matrix [S, S], S = (lmax+1)^2, has the components of the frame of the edge as rows, those of the atom
        as columns; the index is row * S + column: `dense.flatten(1).index_select(1, packing)` packs.
        """
        index = [(l * l + l + m) * size(self.lmax) + l * l + column
                 for l in range(self.lmax + 1) for m in self.rows(l) for column in range(2 * l + 1)]
        return np.array(index, dtype=np.int64)
