from __future__ import annotations

import pickle

import ase.build
import numpy as np
import pytest
import torch

from mlip.errors import OptionError, StructureError
from mlip.neighbors import NeighborList, neighbor_list
from mlip.neighbors.brute import brute_force
from mlip.verify.neighbors import differ, rows


def triples(edges):
    return {(int(i), int(j), *map(int, s)) for j, i, s in zip(*edges, strict=True)}


def check(positions, cutoff, cell=None, pbc=False):
    found = neighbor_list(positions, cutoff, cell, pbc)
    assert differ(found, brute_force(positions, cutoff, cell, pbc), len(positions)) is None
    return found


def test_two_atoms():
    edges = neighbor_list([[0, 0, 0], [1, 0, 0]], 1.5)
    assert triples(edges) == {(0, 1, 0, 0, 0), (1, 0, 0, 0, 0)}
    assert edges.offsets.tolist() == [0, 1, 2]
    senders, receivers, shifts = edges
    assert senders.dtype == receivers.dtype == edges.offsets.dtype == np.int64
    assert shifts.dtype == np.int32
    assert shifts.shape == (2, 3)


def test_the_cutoff_itself_is_outside():
    assert len(neighbor_list([[0, 0, 0], [3, 4, 0]], 5.0).senders) == 0
    assert len(neighbor_list([[0, 0, 0], [3, 4, 0]], np.nextafter(5.0, 6.0)).senders) == 2


def test_one_atom_sees_its_images():
    edges = neighbor_list([[0.3, 0.2, 0.1]], 3.1, np.eye(3) * 3.0, True)
    expected = {(0, 0, *(sign * np.eye(3, dtype=int)[k])) for k in range(3) for sign in (-1, 1)}
    assert triples(edges) == expected


def test_vectors_point_from_receiver_to_sender():
    cell = np.array([[5.0, 0, 0], [1.0, 5.0, 0], [0, 2.0, 6.0]])
    r = np.array([[0.1, 0.1, 0.1], [5.9, 6.9, 5.8]])  # the second is at (-0.1, -0.1, -0.2) + all three vectors
    edges = neighbor_list(r, 1.0, cell, True)
    assert triples(edges) == {(0, 1, -1, -1, -1), (1, 0, 1, 1, 1)}
    vectors = r[edges.senders] + edges.shifts @ cell - r[edges.receivers]
    assert np.allclose(vectors, [[-0.2, -0.2, -0.3], [0.2, 0.2, 0.3]])


def test_shifts_refer_to_positions_as_given():
    cell = np.eye(3) * 10.0
    inside = neighbor_list([[1, 1, 1], [2, 1, 1]], 1.5, cell, True)
    outside = neighbor_list([[1, 1, 1], [-38, 21, 1]], 1.5, cell, True)
    assert triples(inside) == {(0, 1, 0, 0, 0), (1, 0, 0, 0, 0)}
    assert triples(outside) == {(0, 1, 4, -2, 0), (1, 0, -4, 2, 0)}


@pytest.mark.parametrize(("name", "cutoff", "count"), [("fcc", 2.6, 12), ("fcc", 3.7, 18), ("sc", 3.61, 0),
                                                        ("sc", 3.62, 6), ("bcc", 3.2, 8)])
def test_shells_of_crystals(name, cutoff, count):
    atoms = ase.build.bulk("Cu", name, a=3.61) * (2, 3, 1)
    edges = check(atoms.positions, cutoff, atoms.cell, atoms.pbc)
    assert np.diff(edges.offsets).tolist() == [count] * len(atoms)


def test_perfect_crystal_with_the_cutoff_at_a_shell():
    atoms = ase.build.bulk("Cu", cubic=True, a=4.0) * (3, 3, 3)
    check(atoms.positions, 4.0, atoms.cell, True)  # every second neighbour is a tie
    check(atoms.positions - 1000.0, 4.0, atoms.cell, True)


def test_a_dummy_cell_is_ignored():
    r = np.random.default_rng(0).normal(size=(10, 3)) * 2
    free = neighbor_list(r, 3.0)
    for cell in (np.eye(3), np.zeros((3, 3)), np.ones((3, 3)), np.full((3, 3), np.nan), [1, 1, 1]):
        assert np.array_equal(rows(neighbor_list(r, 3.0, cell, False)), rows(free))


@pytest.mark.parametrize("vacuum", [[0, 0, 0], [0, 0, 3], [3, 3, 0], [1, 1, 100], [0, 0, 1e-9], [np.nan, 0, 0]])
def test_a_slab_does_not_see_the_dummy_vector(vacuum):
    r = np.random.default_rng(0).random((9, 3)) * [3, 3, 8]
    cell = np.array([[3.0, 0, 0], [0, 3, 0], vacuum])
    found = neighbor_list(r, 4.0, cell, [True, True, False])
    reference = neighbor_list(r, 4.0, np.diag([3.0, 3, 100]), True)
    assert np.array_equal(rows(found), rows(reference))
    assert not found.shifts[:, 2].any()


def test_far_atoms_need_no_large_grid():
    assert len(neighbor_list([[0, 0, 0], [1e6, 1e6, 1e6]], 5.0).senders) == 0
    assert len(neighbor_list([[0, 0, 0], [1e300, 0, 0]], 5.0).senders) == 0
    clusters = np.concatenate([np.random.default_rng(0).random((200, 3)) * 6 + c for c in (0, 1e7, -3e5)])
    assert len(check(clusters, 3.0).senders) > 600
    line = np.zeros((2500, 3))
    line[:, 0] = np.arange(2500) * 1e4
    line[1::2, 0] -= 9999.0
    assert len(neighbor_list(line, 2.0).senders) == 2500


def test_heavily_clustered_atoms():
    rng = np.random.default_rng(1)
    r = np.concatenate([rng.normal(size=(300, 3)) * 0.1, rng.random((300, 3)) * 200])
    check(r, 1.0, np.eye(3) * 200, [True, False, True])


def test_many_images():
    edges = check([[0.0, 0.0, 0.0]], 6.0, np.eye(3) * 0.7, True)
    assert len(edges.senders) > 2500


def test_very_skewed_cell():
    cell = np.array([[4.0, 0, 0], [4.0 * 5000 + 0.5, 4.0, 0], [-4.0 * 300, 4.0 * 700, 4.0]])
    same = np.array([[4.0, 0, 0], [0.5, 4.0, 0], [0, 0, 4.0]])
    same[2] = cell[2] - 700 * same[1] + round((300 * 4 + 350) / 4) * same[0]
    r = np.random.default_rng(0).random((4, 3)) * 4
    a, b = neighbor_list(r, 4.0, cell, True), neighbor_list(r, 4.0, same, True)

    def vectors(edges, h):
        d = r[edges.senders] + edges.shifts @ h - r[edges.receivers]
        return np.array(sorted(np.column_stack([edges.receivers, edges.senders, d.round(6) + 0.0]).tolist()))

    assert np.allclose(vectors(a, cell), vectors(b, same))


@pytest.mark.parametrize("pbc", [False, True, [True, False, True]])
def test_no_atoms(pbc):
    for positions in ([], np.zeros((0, 3))):
        edges = neighbor_list(positions, 5.0, np.eye(3), pbc)
        assert edges.offsets.tolist() == [0]
        assert edges.shifts.shape == (0, 3)


def test_symmetry_of_edges():
    r = np.random.default_rng(3).random((50, 3)) * 7
    found = triples(neighbor_list(r, 3.0, np.eye(3) * 7, True))
    assert found == {(j, i, -a, -b, -c) for i, j, a, b, c in found}


def test_kinds_of_input():
    r = np.random.default_rng(0).random((20, 3)) * 6
    cell = np.eye(3) * 6
    expected = rows(neighbor_list(r, 3.0, cell, True))
    frozen = r.copy()
    frozen.flags.writeable = False
    wide = np.zeros((40, 6))
    wide[::2, ::2] = r
    for positions in (r.tolist(), np.asfortranarray(r), frozen, wide[::2, ::2], torch.tensor(r), r.astype(">f8")):
        for h, pbc in ((cell, True), (cell.tolist(), [1, 1, 1]), ([6, 6, 6], (True,) * 3),
                       (np.asfortranarray(cell), np.ones(1, dtype=bool)), (torch.tensor(cell), np.True_)):
            assert np.array_equal(rows(neighbor_list(positions, 3, h, pbc)), expected)
    whole = neighbor_list([[0, 0, 0], [2, 0, 0]], 3, [[5, 0, 0], [0, 5, 0], [0, 0, 5]], True)
    assert triples(whole) == {(0, 1, 0, 0, 0), (1, 0, 0, 0, 0)}
    atoms = ase.build.bulk("Cu")
    assert len(neighbor_list(atoms.positions, 2.6, atoms.cell, atoms.pbc).senders) == 12


def test_input_is_not_changed():
    r, cell, pbc = np.random.default_rng(0).normal(size=(8, 3)) * 9, np.eye(3) * 3, np.array([True, False, True])
    copies = r.copy(), cell.copy(), pbc.copy()
    neighbor_list(r, 4.0, cell, pbc)
    assert all(np.array_equal(a, b) for a, b in zip(copies, (r, cell, pbc), strict=True))


BAD = [
    ({"positions": [[0, 0, np.nan]]}, StructureError, r"atoms \[0\]"),
    ({"positions": [[0, 0, 0], [0, np.inf, 0]]}, StructureError, r"atoms \[1\]"),
    ({"positions": [0.0, 0.0, 0.0]}, StructureError, r"\(N, 3\)"),
    ({"positions": np.zeros((4, 2))}, StructureError, r"\(N, 3\)"),
    ({"positions": np.zeros((1, 1, 3))}, StructureError, r"\(N, 3\)"),
    ({"positions": "atoms"}, StructureError, "numbers"),
    ({"positions": torch.zeros(2, 3, requires_grad=True)}, StructureError, "numbers"),
    ({"cutoff": 0.0}, OptionError, "above 0"),
    ({"cutoff": -1}, OptionError, "above 0"),
    ({"cutoff": np.nan}, OptionError, "finite"),
    ({"cutoff": np.inf}, OptionError, "finite"),
    ({"cutoff": None}, OptionError, "number"),
    ({"cell": np.eye(2)}, StructureError, r"\(3, 3\)"),
    ({"cell": "cell"}, StructureError, "numbers"),
    ({"cell": None, "pbc": True}, StructureError, r"direction\(s\) \[0, 1, 2\]"),
    ({"cell": [[3, 0, 0], [0, 0, 0], [0, 0, 3]], "pbc": [True, True, False]}, StructureError, r"direction\(s\) \[1\]"),
    ({"cell": [[3, 0, 0], [0, 3, 0], [3, 3, 0]], "pbc": True}, StructureError, "dependent"),
    ({"cell": [[3, 0, 0], [-6, 0, 0], [0, 0, 1]], "pbc": [True, True, False]}, StructureError, "dependent"),
    ({"cell": [[3, 0, 0], [0, np.nan, 0], [0, 0, 3]], "pbc": True}, StructureError, "NaN"),
    ({"cell": [[3, 0, 0], [0, np.inf, 0], [0, 0, 3]], "pbc": True}, StructureError, "infinite"),
    ({"pbc": [True, True]}, StructureError, "three"),
    ({"pbc": "xyz"}, StructureError, "three"),
    ({"positions": [[1e11, 0, 0]], "cell": np.eye(3), "pbc": True}, StructureError, "wrap"),
    ({"cutoff": 500.0, "cell": np.eye(3), "pbc": True}, StructureError, "images"),
    ({"threads": 0}, OptionError, "threads"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_input(change, error, message):
    given = {"positions": [[0.0, 0, 0], [1, 0, 0]], "cutoff": 3.0, "cell": np.eye(3) * 4.0, "pbc": False} | change
    with pytest.raises(error, match=message):
        neighbor_list(**given)


@pytest.mark.parametrize(("change", "error", "message"), [b for b in BAD if not {"threads", "positions"} & set(b[0])])
def test_bad_input_without_atoms(change, error, message):
    given = {"positions": [], "cutoff": 3.0, "cell": np.eye(3) * 4.0, "pbc": False} | change
    if message == "images":
        return
    with pytest.raises(error, match=message):
        neighbor_list(**given)


def test_too_many_edges_for_the_memory():
    import mlip.neighbors.celllist as celllist

    with pytest.raises(StructureError, match="Angstrom"):
        celllist.room_for_edges(10**15)


def test_offsets_without_a_known_number_of_atoms():
    edges = NeighborList(np.array([3, 0]), np.array([0, 2]), np.zeros((2, 3), dtype=np.int32))
    assert edges.offsets.tolist() == [0, 1, 1, 2, 2]
    none = NeighborList(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros((0, 3), dtype=np.int32))
    assert none.offsets.tolist() == [0]
    known = neighbor_list(np.arange(12.0).reshape(4, 3) * 10, 1.0)
    assert known.offsets.tolist() == [0] * 5
    again = pickle.loads(pickle.dumps(known))
    assert again.offsets.tolist() == [0] * 5
    assert known._replace(senders=known.senders).offsets.tolist() == [0]
