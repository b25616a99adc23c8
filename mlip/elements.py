"""Chemical symbols by atomic number, the names they turn back into, and places in the periodic table."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mlip.errors import StructureError

SYMBOLS: tuple[str, ...] = tuple(
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br "
    "Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er "
    "Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md "
    "No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og".split()
)
NUMBERS: dict[str, int] = {symbol: z for z, symbol in enumerate(SYMBOLS) if z}
PERIODS = (1, 3, 11, 19, 37, 55, 87, 119)  # first element of each, and what is behind the last


def atomic_numbers(elements: Iterable[str | int]) -> tuple[int, ...]:
    """Return the atomic numbers of symbols or numbers, in the order given.

    Raises:
        StructureError: for a name or number that is no element (1 to 118).
    """
    out = []
    for element in elements:
        z = NUMBERS.get(element, 0) if isinstance(element, str) else _whole(element)
        if not 1 <= z < len(SYMBOLS):
            raise StructureError(f"{element!r} is no chemical element; give symbols such as 'C' or atomic "
                                 f"numbers from 1 to {len(SYMBOLS) - 1}")
        out.append(z)
    return tuple(out)


def nearest_element(z: int, known: Iterable[int]) -> int:
    """Return the element most like another: of the nearest group, then the nearest period, then the nearest number.

    Args:
        z: atomic number, 1 to 118.
        known: atomic numbers to choose from, at least one.
    """
    group, period = place(z)

    def distance(other: int) -> tuple[int, int, int]:
        column, row = place(other)
        return abs(column - group), abs(row - period), abs(other - z)

    return min(known, key=distance)


def place(z: int) -> tuple[int, int]:
    """Return the group, 1 to 18, and the period of an element; lanthanides and actinides count to group 3."""
    period = sum(z >= first for first in PERIODS)
    index, length = z - PERIODS[period - 1], PERIODS[period] - PERIODS[period - 1]
    if index < min(2, length - 1):
        return index + 1, period
    return max(18 - (length - 1 - index), 3), period


def _whole(value: object) -> int:
    """Return a whole number as int, 0 for anything else."""
    return int(value) if isinstance(value, (int, np.integer)) and not isinstance(value, bool) else 0
