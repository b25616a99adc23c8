"""What a molecule does: its distance from the first frame, and the torsions of its rotatable bonds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip.analysis.molecules import Molecules, whole
from mlip.analysis.statistics import Mean
from mlip.analysis.trajectory import Motion
from mlip.elements import SYMBOLS

F8 = NDArray[np.float64]

BINS = 72  # of 5 degrees
WIDTH = 10.0  # degrees, of the Gaussian that smooths histograms
LEAST = 0.05  # of the highest maximum, below which there is no state
CORE = 30.0  # degrees around the middle of a state, which an atom must come within to have gone there
STRAIGHT = -0.94  # cosine of 160 degrees: beyond, a torsion has no meaning


@dataclass(frozen=True)
class Torsion:
    """One torsion over the run.

    Attributes:
        atoms: four indices.
        name: symbols and indices, `C0-C1-C2-C3`.
        angle: [F] degrees, from -180 to 180; the sign of IUPAC: clockwise is positive.
        states: angles, degrees, and populations of the maxima of the smoothed histogram; populations count the nearest.
        changes: how often it went from the core of one state to that of another.
    """

    atoms: tuple[int, ...]
    name: str
    angle: F8
    states: list[tuple[float, float]]
    changes: int

    def numbers(self) -> dict[str, Any]:
        """Return states and changes, JSON-compatible."""
        return {"atoms": list(self.atoms), "name": self.name, "changes": self.changes,
                "states": [{"degrees": angle, "population": share} for angle, share in self.states]}


@dataclass(frozen=True)
class Conformation:
    """A molecule over the run.

    Attributes:
        formula: of its atoms.
        atoms: their indices.
        copies: molecules of as many atoms, of which it is the first.
        fitted: what the distance is of: `"all atoms"` or `"heavy atoms"`.
        rmsd: [F] A, to the first frame after superposition.
        torsions: of its rotatable bonds.
    """

    formula: str
    atoms: list[int]
    copies: int
    fitted: str
    rmsd: F8
    torsions: list[Torsion]

    def numbers(self) -> dict[str, Any]:
        """Return the mean distance and all torsions, JSON-compatible."""
        return {"formula": self.formula, "atoms": len(self.atoms), "copies": self.copies, "fitted": self.fitted,
                "rmsd_a": vars(Mean.of(self.rmsd)), "torsions": [t.numbers() for t in self.torsions]}


def conformation(motion: Motion, molecules: Molecules) -> Conformation | None:
    """Return what the largest molecule does, the first of several; None without a molecule of 4 atoms.

    The distance is that of atoms other than hydrogen where there are three of them, else of all.
    """
    import mdtraj

    atoms = molecules.largest()
    if not atoms:
        return None
    numbers = motion.numbers[atoms]
    frames = mdtraj.Trajectory(whole(motion, atoms, molecules), motion.frames.topology.subset(atoms))
    heavy = np.flatnonzero(numbers > 1)
    chosen = heavy if len(heavy) >= 3 else np.arange(len(atoms))
    rmsd = 10.0 * np.asarray(mdtraj.rmsd(frames, frames, 0, atom_indices=chosen), dtype=np.float64)
    local = {atom: k for k, atom in enumerate(atoms)}
    bonds = [[local[b] for b in molecules.neighbors[atom]] for atom in atoms]
    quadruples = rotatable(numbers, bonds, frames.xyz[0])
    angles = np.zeros((frames.n_frames, len(quadruples)))
    if quadruples:
        angles = np.degrees(mdtraj.compute_dihedrals(frames, quadruples, periodic=False))
    torsions = []
    for quadruple, angle in zip(quadruples, angles.T.astype(np.float64), strict=True):
        states, changes = states_of(angle)
        name = "-".join(f"{SYMBOLS[numbers[k]]}{atoms[k]}" for k in quadruple)
        torsions.append(Torsion(tuple(atoms[k] for k in quadruple), name, angle, states, changes))
    copies, fitted = int((molecules.sizes == len(atoms)).sum()), "heavy atoms" if len(heavy) >= 3 else "all atoms"
    return Conformation(_formula(numbers), atoms, copies, fitted, rmsd, torsions)


def rotatable(numbers: NDArray[np.int64], bonds: list[list[int]],
              positions: NDArray[np.floating]) -> list[tuple[int, int, int, int]]:
    """Return torsions, one for each bond that may rotate: not in a ring, and with something to see at both ends.

    An end with hydrogens alone, two or more, such as a methyl group, shows nothing but their exchange; neither does one
    that is straight. Orders of bonds are not known: double bonds are among them, and keep their state. The ends of a
    torsion are the heaviest neighbours, of equal ones the first.

    Args:
        numbers: [N] atomic numbers.
        bonds: neighbours of each atom.
        positions: [N, 3], any unit.
    """
    found = []
    for b, partners in enumerate(bonds):
        for c in partners:
            if b < c and not _in_ring(b, c, bonds):
                a, d = (_end(here, there, numbers, bonds, positions) for here, there in ((b, c), (c, b)))
                if a is not None and d is not None:
                    found.append((a, b, c, d))
    return found


def _end(here: int, there: int, numbers: NDArray[np.int64], bonds: list[list[int]],
         positions: NDArray[np.floating]) -> int | None:
    """Return the atom that a torsion around the bond from `here` to `there` begins at; None where there is none."""
    others = [k for k in bonds[here] if k != there]
    if not others or (len(others) > 1 and all(numbers[k] == 1 for k in others)):
        return None
    axis = positions[there] - positions[here]
    arms = positions[others] - positions[here]
    cosines = arms @ axis / (np.linalg.norm(arms, axis=1) * np.linalg.norm(axis))
    if cosines.min() < STRAIGHT:
        return None
    return max(others, key=lambda k: (int(numbers[k]), -k))


def _in_ring(b: int, c: int, bonds: list[list[int]]) -> bool:
    """Return whether there is a way from b to c that does not take their bond."""
    seen, waiting = {b}, [k for k in bonds[b] if k != c]
    while waiting:
        k = waiting.pop()
        if k == c:
            return True
        if k not in seen:
            seen.add(k)
            waiting.extend(bonds[k])
    return False


def states_of(angle: F8) -> tuple[list[tuple[float, float]], int]:
    """Return states, as angles and populations in the order of angles, and the number of changes between them.

    Args:
        angle: [F] degrees.
    """
    counts, edges = np.histogram(angle, bins=BINS, range=(-180.0, 180.0))
    middle = 0.5 * (edges[1:] + edges[:-1])
    smooth = np.exp(-0.5 * np.square(_apart(middle[:, None], middle) / WIDTH)) @ counts
    peaks = (smooth > np.roll(smooth, 1)) & (smooth >= np.roll(smooth, -1)) & (smooth > LEAST * smooth.max())
    places = middle[peaks] if peaks.any() else middle[[int(np.argmax(smooth))]]
    nearest = np.argmin(np.abs(_apart(angle[:, None], places)), axis=1)
    centres = np.array([_circular_mean(angle[nearest == k]) for k in range(len(places))])
    shares = np.bincount(nearest, minlength=len(places)) / len(angle)
    visited = nearest[np.abs(_apart(angle, centres[nearest])) < CORE]
    return list(zip(centres.tolist(), shares.tolist(), strict=True)), int((np.diff(visited) != 0).sum())


def _apart(a: F8, b: F8) -> F8:
    """Return differences of angles, degrees, from -180 to 180."""
    return np.asarray((a - b + 180.0) % 360.0 - 180.0)


def _circular_mean(angle: F8) -> float:
    turned = np.exp(1j * np.radians(angle)).sum()
    return float(np.degrees(np.angle(turned)))


def _formula(numbers: NDArray[np.int64]) -> str:
    from ase.formula import Formula

    return str(Formula.from_list([SYMBOLS[z] for z in numbers]).format("hill"))
