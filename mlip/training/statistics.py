"""Numbers of a data set that a preflight looks at, computed in blocks of structures so that memory stays flat."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip.models.mace.radii import COVALENT_RADII
from mlip.neighbors import neighbor_list
from mlip.training.store import FrameStore

SAMPLE, SAMPLE_ATOMS = 2000, 200_000  # structures whose neighbours are searched, and atoms of them, at most
GROUP = 100  # structures of the same atoms and cell that are compared with each other, at most
NEAR = 0.5  # A, root mean square displacement between structures whose energies are compared
CORRELATION = 0.95  # of energies and work, from which their ratio says something
NOBLE = (2, 10, 18, 36, 54, 86)  # elements without bonds
F8 = NDArray[np.float64]


@dataclass(frozen=True)
class Facts:
    """Numbers of each of n structures.

    Attributes:
        numbers: [k] the elements that occur in the folder of the structures.
        counts: [n, k] atoms of each.
        square: [n] sum of the squares of force components, (eV/A)^2.
        largest: [n] largest norm of a force, eV/A; NaN where a force is NaN.
        net: [n] norm of the sum of forces, eV/A.
    """

    numbers: NDArray[np.int64]
    counts: NDArray[np.int32]
    square: F8
    largest: F8
    net: F8


def facts(store: FrameStore) -> Facts:
    """Return the numbers of each structure."""
    n, k = len(store), len(store.elements)
    column = np.zeros(256, dtype=np.int64)
    column[store.elements] = np.arange(k)
    counts, square, largest, net = np.zeros((n, k), dtype=np.int32), np.zeros(n), np.zeros(n), np.zeros(n)
    for places, rows, arrays in store.blocks():
        owner = np.repeat(np.arange(len(rows)), np.diff(np.append(rows, len(arrays["numbers"]))))
        kinds = np.bincount(owner * k + column[arrays["numbers"]], minlength=len(rows) * k)
        counts[places] = kinds.reshape(len(rows), k)
        norms = np.square(arrays["forces"]).sum(axis=1)
        square[places] = np.add.reduceat(norms, rows)
        largest[places] = np.sqrt(np.maximum.reduceat(norms, rows))
        net[places] = np.linalg.norm(np.add.reduceat(arrays["forces"], rows), axis=1)
    return Facts(store.elements, counts, square, largest, net)


def fitted(counts: NDArray[Any], energies: F8, block: int = 10_000) -> F8:
    """Return [k] energies of the elements, the shortest least-squares solution of counts [n, k] @ x = energies [n]."""
    k = counts.shape[1]
    reduced = np.zeros((0, k + 1))
    for start in range(0, len(energies), block):
        rows = np.column_stack([counts[start : start + block], energies[start : start + block]])
        reduced = np.asarray(np.linalg.qr(np.vstack([reduced, rows]), mode="r"))
    return np.asarray(np.linalg.lstsq(reduced[:, :k], reduced[:, k], rcond=1e-10)[0])


def outliers(values: F8, sigmas: float, least: float) -> NDArray[np.int64]:
    """Return the places of values beyond so many robust standard deviations of the median, the farthest first.

    Args:
        values: [n].
        sigmas: standard deviations, taken as 1.4826 median absolute deviations.
        least: the standard deviation is taken no smaller.
    """
    distance = np.abs(values - np.median(values))
    sigma = max(1.4826 * float(np.median(distance)), least)
    found = np.flatnonzero(distance > sigmas * sigma)
    return found[np.argsort(-distance[found])]


def sample_of(store: FrameStore) -> NDArray[np.int64]:
    """Return the places, in order, of all structures of several atoms, or of enough of them drawn at random."""
    several = np.flatnonzero((store.column("atoms") > 1) | store.column("pbc").any(axis=1))
    drawn = np.random.default_rng(0).permutation(several)[:SAMPLE]
    fits = np.cumsum(store.column("atoms")[drawn]) <= SAMPLE_ATOMS
    return np.sort(drawn[fits | (np.arange(len(drawn)) == 0)])


def pairs(store: FrameStore, cutoff: float) -> dict[str, Any]:
    """Return numbers of the neighbours in a sample of the structures, as JSON keeps them.

    Returns:
        `structures` searched; `closest` distance, A, in structure `where`; `bond`, the median over structures of the
        smallest distance in units of the sum of covalent radii, None where nothing has bonds; `neighbors`, their mean
        number; `lonely` atoms without any, first in structure `lonely_where`; `reached`, structures with any.
    """
    sample, bonds = sample_of(store), []
    closest, where, edges, atoms, lonely, lonely_where, reached = float("inf"), -1, 0, 0, 0, -1, 0
    for place in sample.tolist():
        s = store[place].structure
        found = neighbor_list(s.positions, cutoff, s.cell, s.pbc)
        lengths = np.linalg.norm(found.vectors(s.positions, s.cell), axis=1)
        edges, atoms, reached = edges + len(lengths), atoms + len(s), reached + (len(lengths) > 0)
        alone = int((np.diff(found.offsets) == 0).sum())
        if alone and not lonely:
            lonely_where = place
        lonely += alone
        if len(lengths) and lengths.min() < closest:
            closest, where = float(lengths.min()), place
        radii = np.array(COVALENT_RADII)[s.numbers]
        bonding = ~np.isin(s.numbers, NOBLE)
        ratios = (lengths / (radii[found.senders] + radii[found.receivers]))[bonding[found.senders]
                                                                              & bonding[found.receivers]]
        if len(ratios):
            bonds.append(float(ratios.min()))
    return {"structures": len(sample), "closest": closest, "where": where, "neighbors": edges / max(atoms, 1),
            "bond": float(np.median(bonds)) if bonds else None, "lonely": lonely, "lonely_where": lonely_where,
            "reached": reached}


def work(store: FrameStore) -> dict[str, Any]:
    """Compare differences of energy with the work of the forces, between structures that lie close to each other.

    Between structures of the same atoms and cell, moved by d, a smooth energy changes by -(F_1 + F_2).d / 2 up to third
    order, so that the ratio is near 1 if both are in the units they are said to be in, and forces are no gradients.

    Returns:
        `count` of pairs; `ratio`, the least-squares factor from work to energy; `correlation`; and `where`, a structure
        of the pair that the two differ most for. None and -1 without pairs.
    """
    groups: dict[bytes, list[int]] = defaultdict(list)
    for place in sample_of(store).tolist():
        s = store[place].structure
        key = s.numbers.tobytes() + s.pbc.tobytes() + np.round(s.cell * s.pbc[:, None], 4).tobytes()
        if len(groups[key]) < GROUP:
            groups[key].append(place)
    found = [pair for group in groups.values() if len(group) > 1 for pair in _neighbours(store, group)]
    energy, done, places = np.array(found).reshape(-1, 3).T
    if len(found) < 2 or not (energy.std() > 0 and done.std() > 0):
        return {"count": len(found), "ratio": None, "correlation": None, "where": -1}
    return {"count": len(found), "ratio": float(energy @ done / (done @ done)),
            "correlation": float(np.corrcoef(energy, done)[0, 1]),
            "where": int(places[np.abs(energy - done).argmax()])}


def follows_volume(store: FrameStore, found: Facts) -> float:
    """Return the correlation of the mean normal stress with the volume, between structures of one composition.

    It is positive where stress is positive under tension; 0 without enough structures of different volumes.
    """
    chosen = np.flatnonzero(store.column("has_stress"))
    kinds, group = np.unique(found.counts[chosen], axis=0, return_inverse=True)
    sizes = np.bincount(group.ravel(), minlength=len(kinds))
    volume = np.log(np.abs(np.linalg.det(store.column("cell")[chosen])) / store.column("atoms")[chosen])
    normal = np.trace(store.column("stress")[chosen], axis1=1, axis2=2)
    deviations = [values - (np.bincount(group.ravel(), values) / sizes)[group.ravel()] for values in (volume, normal)]
    several = sizes[group.ravel()] >= 5
    x, y = (values[several] for values in deviations)
    if len(x) < 10 or x.std() < 0.01 or y.std() == 0:
        return 0.0
    return float((x @ y) / np.sqrt((x @ x) * (y @ y)))


def _neighbours(store: FrameStore, group: list[int]) -> list[tuple[float, float, int]]:
    """Return change of energy, work of the forces and place, from each of some structures to the nearest other."""
    examples = [store[place] for place in group]
    s = examples[0].structure
    positions = np.array([e.structure.positions for e in examples])
    forces = [e.forces for e in examples]
    box = np.where(s.pbc[:, None], s.cell, np.eye(3))
    fold = np.linalg.inv(box) if s.pbc.any() and abs(np.linalg.det(box)) > 1e-6 else np.zeros((3, 3))
    found = []
    for i, example in enumerate(examples):
        moves = positions - positions[i]
        moves = moves - (np.round(moves @ fold) * s.pbc) @ box
        moves = moves - moves.mean(axis=1, keepdims=True)
        distances = np.sqrt(np.square(moves).sum(axis=(1, 2)) / len(s))
        distances[i] = np.inf
        j = int(distances.argmin())
        mine, other = forces[i], forces[j]
        if distances[j] <= NEAR and mine is not None and other is not None:
            done = -0.5 * float(((mine + other) * moves[j]).sum())
            found.append((examples[j].energy - example.energy, done, group[i]))
    return found
