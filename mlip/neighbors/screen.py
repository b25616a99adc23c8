"""What a list with a skin does at every step: how far atoms have come, and which edges are short."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mlip.neighbors.around import closest, lower_bound
from mlip.neighbors.jit import inner, kernel
from mlip.neighbors.lattice import F8, I8
from mlip.neighbors.ordering import I4, U4


class Long(NamedTuple):
    """The E edges of N atoms within cutoff + skin, sorted by receiver.

    Attributes:
        offsets: [N + 1] int64, first edge of each receiver.
        senders: [E] uint32.
        shifts: [E, 3] int32.
        plain: [N] int64, how many edges of each receiver have no shift; they are its first ones.
        kept: [E] uint32, room for the indices of the edges of each receiver that are short now.
    """

    offsets: I8
    senders: U4
    shifts: I4
    plain: I8
    kept: U4


@kernel
def drift(positions: F8, old: F8, strain: F8, dual: F8, cell: F8, turns: I4) -> float:
    """Return the largest squared displacement in A^2 beside that of the cell, modulo the lattice.

    Args:
        positions: [N, 3] A, now.
        old: [N, 3] A, when the list was made.
        strain: [3, 3], F: a vector v of the old lattice is now v F.
        dual: [3, 3] 1/A, columns dual to the rows of the cell, zero where there is no periodicity.
        cell: [3, 3] A, now; rows zero where there is no periodicity.
        turns: [N, 3] int32; whole lattice vectors each atom has jumped are written here.

    Returns:
        The maximum of |r - old F - n.cell|^2; infinite where that or n cannot be told.
    """
    largest, wrong = 0.0, 0.0
    for i in range(len(positions)):
        x = positions[i, 0] - (old[i, 0] * strain[0, 0] + old[i, 1] * strain[1, 0] + old[i, 2] * strain[2, 0])
        y = positions[i, 1] - (old[i, 0] * strain[0, 1] + old[i, 1] * strain[1, 1] + old[i, 2] * strain[2, 1])
        z = positions[i, 2] - (old[i, 0] * strain[0, 2] + old[i, 1] * strain[1, 2] + old[i, 2] * strain[2, 2])
        a = np.rint(x * dual[0, 0] + y * dual[1, 0] + z * dual[2, 0])
        b = np.rint(x * dual[0, 1] + y * dual[1, 1] + z * dual[2, 1])
        c = np.rint(x * dual[0, 2] + y * dual[1, 2] + z * dual[2, 2])
        if not (abs(a) < 1e9 and abs(b) < 1e9 and abs(c) < 1e9):
            return math.inf
        turns[i, 0], turns[i, 1], turns[i, 2] = np.int32(a), np.int32(b), np.int32(c)
        x -= a * cell[0, 0] + b * cell[1, 0] + c * cell[2, 0]
        y -= a * cell[0, 1] + b * cell[1, 1] + c * cell[2, 1]
        z -= a * cell[0, 2] + b * cell[1, 2] + c * cell[2, 2]
        square = x * x + y * y + z * z
        largest = max(largest, square)
        wrong += square - square
    return largest if wrong == 0.0 else math.inf


@kernel
def turn(edges: Long, turns: I4) -> int:
    """Correct shifts for atoms that have jumped by whole lattice vectors; return the largest component."""
    largest = 0
    for i in range(len(edges.plain)):
        for e in range(edges.offsets[i], edges.offsets[i + 1]):
            for k in range(3):
                s = np.int64(edges.shifts[e, k]) + turns[i, k] - turns[edges.senders[e], k]
                edges.shifts[e, k] = s
                largest = max(largest, abs(s))
    return largest


@kernel
def put_in_order(old: Long, new: Long, place: I8) -> None:
    """Write the edges of `old` into `new`: of each receiver those without a shift first, then by sender and shift.

    So the order depends on the edges only, not on when a list was made. Each edge has its reverse: going through the
    senders, those of every receiver come in their order. `place` is room for [N, 2] numbers.
    """
    for i in range(len(old.plain)):
        plain = 0
        for e in range(old.offsets[i], old.offsets[i + 1]):
            plain += old.shifts[e, 0] == 0 and old.shifts[e, 1] == 0 and old.shifts[e, 2] == 0
        new.plain[i] = plain
        place[i, 0], place[i, 1] = old.offsets[i], old.offsets[i] + plain
    for j in range(len(old.plain)):
        for e in range(old.offsets[j], old.offsets[j + 1]):
            i = old.senders[e]
            a, b, c = -old.shifts[e, 0], -old.shifts[e, 1], -old.shifts[e, 2]
            kind = 0 if a == 0 and b == 0 and c == 0 else 1
            p = place[i, kind]
            place[i, kind] = p + 1
            new.senders[p] = j
            low = old.offsets[i] + new.plain[i]
            while p > low and new.senders[p - 1] == j and later(new.shifts, p - 1, a, b, c):  # images of one atom
                for k in range(3):
                    new.shifts[p, k] = new.shifts[p - 1, k]
                p -= 1
            new.shifts[p, 0], new.shifts[p, 1], new.shifts[p, 2] = a, b, c


@inner
def later(shifts: I4, e: int, a: int, b: int, c: int) -> bool:
    """Return whether the shift of an edge comes after (a, b, c)."""
    if shifts[e, 0] != a:
        return bool(shifts[e, 0] > a)
    if shifts[e, 1] != b:
        return bool(shifts[e, 1] > b)
    return bool(shifts[e, 2] > c)


@kernel
def screen(positions: F8, cell: F8, limit: float, edges: Long, first: int, last: int, squares: F8,
           degree: I8) -> None:
    """Find the edges of the receivers first..last-1 with |(r_j - r_i) + S.cell|^2 < limit A^2.

    Their indices among the edges of the receiver go to `edges.kept`, their number to `degree` [N];
    `squares` is room for the edges of one receiver.
    """
    for i in range(first, last):
        low, high = edges.offsets[i], edges.offsets[i + 1]
        middle = low + edges.plain[i]
        measure_plain(positions, i, edges.senders[low:middle], squares[:middle - low])
        measure_shifted(positions, cell, i, edges.senders[middle:high], edges.shifts[middle:high],
                        squares[middle - low:high - low])
        degree[i] = closest(squares[:high - low], limit, edges.kept[low:high])


@inner
def measure_plain(positions: F8, i: int, senders: U4, square: F8) -> None:
    """Write the squared lengths of edges to the receiver i that have no shift."""
    px, py, pz = positions[i, 0], positions[i, 1], positions[i, 2]
    for e in range(len(square)):
        j = senders[e]
        x, y, z = positions[j, 0] - px, positions[j, 1] - py, positions[j, 2] - pz
        square[e] = x * x + y * y + z * z


@inner
def measure_shifted(positions: F8, cell: F8, i: int, senders: U4, shifts: I4, square: F8) -> None:
    """Write the squared lengths of edges to the receiver i."""
    px, py, pz = positions[i, 0], positions[i, 1], positions[i, 2]
    for e in range(len(square)):
        j = senders[e]
        a, b, c = shifts[e, 0], shifts[e, 1], shifts[e, 2]
        x = positions[j, 0] - px + (a * cell[0, 0] + b * cell[1, 0] + c * cell[2, 0])
        y = positions[j, 1] - py + (a * cell[0, 1] + b * cell[1, 1] + c * cell[2, 1])
        z = positions[j, 2] - pz + (a * cell[0, 2] + b * cell[1, 2] + c * cell[2, 2])
        square[e] = x * x + y * y + z * z


@kernel
def copy_kept(edges: Long, first: int, last: int, offsets: I8, senders: I8, receivers: I8, shifts: I4) -> None:
    """Write the kept edges of the receivers first..last-1 to where `offsets` [N + 1] puts them.

    Shifts must hold zeros; only others are written.
    """
    for i in range(first, last):
        low, high, old = offsets[i], offsets[i + 1], edges.offsets[i]
        kept = edges.kept[old:old + high - low]
        of, to = edges.senders[old:edges.offsets[i + 1]], senders[low:high]
        for p in range(len(kept)):
            to[p] = of[kept[p]]
        to = receivers[low:high]
        for p in range(len(kept)):
            to[p] = i
        plain = edges.plain[i]
        if plain < edges.offsets[i + 1] - old:
            some, into = edges.shifts[old:edges.offsets[i + 1]], shifts[low:high]
            for p in range(lower_bound(kept, len(kept), plain), len(kept)):
                e = kept[p]
                into[p, 0] = some[e, 0]
                into[p, 1] = some[e, 1]
                into[p, 2] = some[e, 2]
