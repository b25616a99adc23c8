"""Pairs of atoms: which two edges of a list are one pair seen from its two ends."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlip.neighbors.jit import kernel


def number_pairs(senders: NDArray[np.int64], receivers: NDArray[np.int64], shifts: NDArray[np.int32],
                 num_atoms: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pair of each edge, and one edge of each pair.

    The edges (j, i, S) and (i, j, -S) are one pair; an edge whose reverse is absent is a pair alone.

    Args:
        senders: [E] int64.
        receivers: [E] int64, not decreasing.
        shifts: [E, 3] int32.
        num_atoms: N.

    Returns:
        pair [E] int64, numbered in the order in which pairs first appear, and first [K] int64, the edge at
        which each of the K pairs does so.
    """
    offsets = np.zeros(num_atoms + 1, dtype=np.int64)
    np.cumsum(np.bincount(receivers, minlength=num_atoms), out=offsets[1:])
    pair = np.full(len(senders), -1, dtype=np.int64)
    first = np.empty(len(senders), dtype=np.int64)
    count = _number(senders, receivers, shifts, offsets, pair, first)
    return pair, first[:count].copy()


@kernel
def _number(senders: NDArray[np.int64], receivers: NDArray[np.int64], shifts: NDArray[np.int32],
            offsets: NDArray[np.int64], pair: NDArray[np.int64], first: NDArray[np.int64]) -> int:
    count = 0
    for e in range(len(senders)):
        if pair[e] >= 0:
            continue
        pair[e], first[count] = count, e
        i, j = receivers[e], senders[e]
        for f in range(offsets[j], offsets[j + 1]):
            if (senders[f] == i and pair[f] < 0 and shifts[f, 0] == -shifts[e, 0] and shifts[f, 1] == -shifts[e, 1]
                    and shifts[f, 2] == -shifts[e, 2]):
                pair[f] = count
                break
        count += 1
    return count
