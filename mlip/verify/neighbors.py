"""Random structures of every kind: the neighbour list against the comparison of all pairs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from mlip.errors import OptionError
from mlip.neighbors import NeighborList, VerletSkin, neighbor_list
from mlip.neighbors.brute import brute_force
from mlip.verify.neighbor_cases import CLASSES, Case, triclinic_cell

SKIN_STEPS = 6


@dataclass
class FuzzReport:
    """What `fuzz` found.

    Attributes:
        cases: structures compared; a walk of the skin list counts as one.
        mismatches: cases in which the lists differ.
        classes: number of cases of each class.
        failed: number of mismatches of each class that has any.
        edges: edges compared in all.
        seed: of the random numbers.
        seconds: time taken.
        first_failure: the first mismatch in words, with all numbers needed to repeat it.
    """

    cases: int = 0
    mismatches: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    edges: int = 0
    seed: int = 0
    seconds: float = 0.0
    first_failure: str | None = None

    @property
    def passed(self) -> bool:
        """Whether there was no mismatch."""
        return self.mismatches == 0

    def __str__(self) -> str:
        lines = [f"{self.mismatches} mismatches in {self.cases} structures of {len(self.classes)} classes, "
                 f"{self.edges} edges, seed {self.seed}, {self.seconds:.0f} s"]
        lines += [f"  {name}: {count} of {self.classes[name]} wrong" for name, count in self.failed.items()]
        return "\n".join([*lines, self.first_failure] if self.first_failure else lines)

    def as_dict(self) -> dict[str, Any]:
        """Return all fields, for JSON."""
        return asdict(self)


def fuzz(cases: int = 200_000, seed: int = 0, progress: bool = False) -> FuzzReport:
    """Compare the neighbour list with the oracle on random structures.

    The sets of edges (i, j, S) must be equal, bit by bit: both decide by the same arithmetic, so
    there is no tolerance for pairs at the cutoff. Edges must be sorted by receiver, and the offsets
    must fit. Two classes move a `VerletSkin` (with wrapping, changes of cell, jumps, and pairs that
    close in just as far as the skin bears) and compare it with fresh lists.

    Args:
        cases: how many; the classes take turns.
        seed: of the random numbers; each case depends on it and its own number only.
        progress: show a bar.

    Raises:
        OptionError: less than one case.
    """
    if cases < 1:
        raise OptionError(f"cases must be 1 or more; {cases!r} was given")
    names = [*CLASSES, *SKIN_CLASSES]
    report = FuzzReport(classes=dict.fromkeys(names, 0), seed=seed)
    start = time.perf_counter()
    for number in _counted(cases, progress):
        name = names[number % len(names)]
        rng = np.random.default_rng([seed, number])
        compare = _comparison(CLASSES[name]) if name in CLASSES else SKIN_CLASSES[name]
        difference, edges = compare(rng)
        report.cases += 1
        report.edges += edges
        report.classes[name] += 1
        if difference is not None:
            report.mismatches += 1
            report.failed[name] = report.failed.get(name, 0) + 1
            report.first_failure = report.first_failure or f"seed {seed}, case {number} ({name}): {difference}"
    report.seconds = time.perf_counter() - start
    return report


def _counted(cases: int, progress: bool) -> Iterator[int]:
    if not progress:
        return iter(range(cases))
    from tqdm import tqdm

    return iter(tqdm(range(cases), desc="neighbour lists", unit="case"))


def _comparison(make: Callable[[Generator], Case]) -> Callable[[Generator], tuple[str | None, int]]:
    def compare(rng: Generator) -> tuple[str | None, int]:
        case = make(rng)
        found = neighbor_list(case.positions, case.cutoff, case.cell, case.pbc)
        expected = brute_force(case.positions, case.cutoff, case.cell, case.pbc)
        difference = differ(found, expected, len(case.positions))
        return None if difference is None else f"{difference}; {case!r}", len(expected.senders)

    return compare


def rows(edges: NeighborList) -> NDArray[np.int64]:
    """Return [E, 5] receiver, sender and shift of all edges, sorted."""
    table = np.column_stack([edges.receivers, edges.senders, edges.shifts]).astype(np.int64)
    return table[np.lexsort(table.T[::-1])]


def differ(found: NeighborList, expected: NeighborList, atoms: int) -> str | None:
    """Say in what a list found is not the one expected (as sets of edges) or not well formed; None if in nothing."""
    if (np.diff(found.receivers) < 0).any():
        return "the edges are not sorted by receiver"
    offsets = np.concatenate([[0], np.cumsum(np.bincount(found.receivers, minlength=atoms))])
    if not np.array_equal(found.offsets, offsets):
        return f"offsets {found.offsets.tolist()} do not fit the receivers {found.receivers.tolist()}"
    types = [a.dtype for a in found], found.offsets.dtype, found.shifts.shape
    if types != ([np.dtype("int64"), np.dtype("int64"), np.dtype("int32")], np.dtype("int64"), (len(found[0]), 3)):
        return f"wrong types or shapes: {types}"
    a, b = rows(found), rows(expected)
    if np.array_equal(a, b):
        return None
    have, want = set(map(tuple, a.tolist())), set(map(tuple, b.tolist()))
    twice = len(a) - len(have)
    return (f"{len(want - have)} edges missing, {len(have - want)} too many, {twice} twice; for one (i, j, S) "
            f"{sorted(want ^ have)[:1]}")


def walk(rng: Generator) -> tuple[str | None, int]:
    """Move a system at random and compare its `VerletSkin` with fresh lists; return what differs, and the edges."""
    names = [name for name in CLASSES if "skew" not in name]
    case = CLASSES[names[rng.integers(len(names))]](rng)
    skin = VerletSkin(case.cutoff, rng.choice([0.0, 0.1, 0.5, 1.0]))
    path = [case]
    for _ in range(SKIN_STEPS):
        r, cell = _moved(rng, path[-1].positions, path[-1].cell, case.pbc)
        path.append(case._replace(positions=r, cell=cell))
    return follow(skin, path)


def pinch(rng: Generator) -> tuple[str | None, int]:
    """Let pairs just outside cutoff + skin close in about as far as a list bears; return as `walk`."""
    skin = VerletSkin(rng.uniform(1, 3), rng.uniform(0.1, 1.0))
    cell, pbc = triclinic_cell(rng), rng.random(3) < 0.7
    r = rng.random((int(rng.integers(1, 4)), 3)) @ cell
    apart = rng.normal(size=r.shape)
    apart *= (skin.cutoff + skin.skin) * (1 + rng.choice([1e-12, 1e-3])) / np.linalg.norm(apart, axis=1, keepdims=True)
    path = [Case(np.concatenate([r, r + apart]), skin.cutoff, cell, pbc)]
    for _ in range(SKIN_STEPS):
        closer = rng.choice([0.0, 0.5, 0.9, 0.999, 1.001, 1.1, 1.3]) * 0.5 * skin.skin
        move = closer * apart / np.linalg.norm(apart, axis=1, keepdims=True)
        shrink = rng.choice([1.0, 1.0, 0.97, skin.cutoff / (skin.cutoff + skin.skin) - rng.choice([-1e-6, 1e-6])])
        moved = np.concatenate([r + move, r + apart - move]) * shrink
        turns = (rng.integers(-1, 2, size=moved.shape) * pbc) @ (cell * shrink)
        path.append(path[0]._replace(positions=moved + turns, cell=cell * shrink))
    return follow(skin, path)


def follow(skin: VerletSkin, path: Sequence[Case]) -> tuple[str | None, int]:
    """Compare a list with a skin along a path with fresh lists; return what differs, and the edges."""
    edges = 0
    for step, (r, cutoff, cell, pbc) in enumerate(path):
        found = skin.update(r, cell, pbc)
        expected = neighbor_list(r, cutoff, cell, pbc)
        edges += len(expected.senders)
        difference = differ(found, expected, len(r))
        if difference is not None:
            return f"step {step} with skin {skin.skin}: {difference}; {list(path[:step + 1])!r}", edges
    return None, edges


SKIN_CLASSES = {"walk with a skin": walk, "pinch with a skin": pinch}


def _moved(rng: Generator, r: NDArray[np.float64], cell: NDArray[np.float64] | None,
           pbc: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Return a later moment: small steps, now and then a strain, a jump by lattice vectors or a new place."""
    r = r + rng.normal(scale=rng.choice([0.0, 0.01, 0.1]), size=r.shape)
    if cell is not None and rng.random() < 0.5:
        strain = np.eye(3) + rng.normal(scale=rng.choice([0.001, 0.02]), size=(3, 3))
        r, cell = r @ strain, cell @ strain
    if cell is not None and pbc.any() and rng.random() < 0.5:
        r = r + (rng.integers(-2, 3, size=r.shape) * pbc) @ cell
    if len(r) and rng.random() < 0.1:
        r[rng.integers(len(r))] = rng.normal(size=3)
    return r, cell
