"""Which two edges are one pair: against a search through all edges."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mlip.neighbors import neighbor_list, number_pairs

Edges = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]


def brute_force(senders: NDArray[np.int64], receivers: NDArray[np.int64],
                shifts: NDArray[np.int32]) -> tuple[list[int], list[int]]:
    """Return pairs and first edges; an edge takes the first edge after it that is its reverse and still alone."""
    edges = [(int(j), int(i), *map(int, s)) for j, i, s in zip(senders, receivers, shifts, strict=True)]
    pair, first = [-1] * len(edges), []
    for e, (j, i, a, b, c) in enumerate(edges):
        if pair[e] >= 0:
            continue
        pair[e] = len(first)
        for f in range(e + 1, len(edges)):
            if pair[f] < 0 and edges[f] == (i, j, -a, -b, -c):
                pair[f] = pair[e]
                break
        first.append(e)
    return pair, first


def compare(senders: NDArray[np.int64], receivers: NDArray[np.int64], shifts: NDArray[np.int32],
            num_atoms: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    pair, first = number_pairs(senders, receivers, shifts, num_atoms)
    expected = brute_force(senders, receivers, shifts)
    assert (pair.tolist(), first.tolist()) == expected
    assert (pair.dtype, first.dtype) == (np.int64, np.int64)
    return pair, first


def random_edges(seed: int) -> tuple[Edges, int]:
    """Return the edges of a random structure: crystals down to cells far smaller than the cutoff, slabs, molecules."""
    rng = np.random.default_rng(seed)
    atoms = int(rng.integers(1, 9))
    size = rng.uniform(1.5, 6.0)
    cell = size * (np.eye(3) + rng.uniform(-0.3, 0.3, (3, 3)))
    pbc = rng.random(3) < 0.7
    found = neighbor_list(rng.random((atoms, 3)) @ cell, rng.uniform(1.0, 4.0), cell, pbc)
    return (found.senders, found.receivers, found.shifts), atoms


@pytest.mark.parametrize("seed", range(60))
def test_full_lists(seed: int) -> None:
    """Every edge has its reverse, and no edge is its own."""
    edges, atoms = random_edges(seed)
    pair, first = compare(*edges, atoms)
    assert 2 * len(first) == len(pair)
    assert (np.bincount(pair, minlength=len(first)) == 2).all()


def test_the_random_lists_are_of_all_kinds() -> None:
    lists = [random_edges(seed)[0] for seed in range(60)]
    assert any(len(senders) == 0 for senders, _, _ in lists)
    assert any((senders == receivers).any() for senders, receivers, _ in lists)
    assert any(len(senders) and not shifts.any() for senders, _, shifts in lists)
    assert max(len(senders) for senders, _, _ in lists) > 200


@pytest.mark.parametrize("seed", range(20))
def test_lists_with_edges_taken_out(seed: int) -> None:
    """What lost its reverse is a pair alone."""
    (senders, receivers, shifts), atoms = random_edges(seed)
    kept = np.random.default_rng(seed).random(len(senders)) < 0.6
    pair, first = compare(senders[kept], receivers[kept], shifts[kept], atoms)
    assert len(first) >= len(pair) / 2


@pytest.mark.parametrize("seed", range(20))
def test_half_lists(seed: int) -> None:
    (senders, receivers, shifts), atoms = random_edges(seed)
    half = np.unique(number_pairs(senders, receivers, shifts, atoms)[1])
    pair, _ = compare(senders[half], receivers[half], shifts[half], atoms)
    assert pair.tolist() == list(range(len(half)))


@pytest.mark.parametrize("seed", range(20))
def test_lists_with_duplicates(seed: int) -> None:
    """The k-th copy of an edge belongs to the k-th copy of its reverse; no edge is counted twice."""
    (senders, receivers, shifts), atoms = random_edges(seed)
    twice = np.sort(np.concatenate([np.arange(len(senders))] * 2))
    pair, first = compare(senders[twice], receivers[twice], shifts[twice], atoms)
    assert (np.bincount(pair, minlength=len(first)) == 2).all()
    assert 2 * len(first) == len(pair)


@pytest.mark.parametrize("num_atoms", [0, 1, 5])
def test_no_edges(num_atoms: int) -> None:
    none = np.zeros(0, dtype=np.int64)
    pair, first = compare(none, none, np.zeros((0, 3), dtype=np.int32), num_atoms)
    assert pair.shape == first.shape == (0,)


def test_an_atom_with_its_own_images() -> None:
    """(0, 0, S) and (0, 0, -S) are one pair, (0, 0, 0) is alone."""
    shifts = np.array([[-1, 0, 0], [1, 0, 0], [0, 0, 0], [0, -2, 1], [0, 2, -1], [0, 2, 1]], dtype=np.int32)
    zeros = np.zeros(6, dtype=np.int64)
    pair, first = compare(zeros, zeros, shifts, 1)
    assert pair.tolist() == [0, 0, 1, 2, 2, 3]
    assert first.tolist() == [0, 2, 3, 5]


def test_signs_of_all_components_count() -> None:
    senders, receivers = np.array([1, 1, 0, 0]), np.array([0, 0, 1, 1])
    shifts = np.array([[1, 2, 3], [1, -2, 3], [-1, -2, -3], [-1, -2, 3]], dtype=np.int32)
    pair, _ = compare(senders, receivers, shifts, 2)
    assert pair.tolist() == [0, 1, 0, 2]


def test_lists_that_are_no_single_block_of_memory() -> None:
    (senders, receivers, shifts), atoms = random_edges(3)
    wide = np.stack([senders, receivers], axis=1)
    strided = np.repeat(shifts, 2, axis=0)[::2]
    assert not wide[:, 0].flags.c_contiguous
    compare(wide[:, 0], wide[:, 1], strided, atoms)
