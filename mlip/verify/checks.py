"""Measurements that tell whether a potential can be trusted; each returns its largest error as one float.

The test-suite and `mlip verify` call the same functions. All of them work in the precision of the
potential they are given: measure derivatives in float64.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.md.verlet import VelocityVerlet
from ase.units import fs
from numpy.typing import NDArray

from mlip.checkpoints.contacts import SIZES
from mlip.checkpoints.potential import Potential, Prediction
from mlip.elements import NUMBERS
from mlip.errors import StructureError
from mlip.io.ase import structure_of
from mlip.nn.derivatives import evaluate
from mlip.so3.rotation_groups import random_rotations

Array = NDArray[np.float64]
STENCIL = ((-2, 1 / 12), (-1, -8 / 12), (1, 8 / 12), (2, -1 / 12))  # fourth-order central difference
CHUNK = 512  # atoms evaluated as one batch
FAR = 6.0  # A; no two atoms are bound at larger distances


def finite_difference_forces(potential: Potential, atoms: Atoms, eps: float = 5e-4) -> float:
    """Return the largest difference between a force and -dE/dr by central differences, eV/A.

    Every coordinate is displaced (fourth-order stencil, error of order eps^4).

    Args:
        potential: in float64.
        atoms: N atoms.
        eps: step, A.

    Raises:
        StructureError: atoms that cannot be evaluated.
    """
    forces = _forces(_predict(potential, atoms))
    slots = list(itertools.product(range(len(atoms)), range(3)))

    def displaced() -> Iterator[Atoms]:
        for (i, k), (step, _) in itertools.product(slots, STENCIL):
            moved = atoms.copy()
            moved.positions[i, k] += step * eps
            yield moved

    return _largest(_derivatives(potential, displaced(), len(atoms), eps) + forces.reshape(-1))


def finite_difference_stress(potential: Potential, atoms: Atoms, eps: float = 2.5e-4) -> float:
    """Return the largest difference between a stress component and dE/dstrain/V, eV/A^3.

    Symmetric strains act on positions and all cell vectors, r -> r (1 + e); fourth-order stencil.

    Args:
        potential: in float64.
        atoms: N atoms in a cell with a volume.
        eps: strain step.

    Raises:
        StructureError: the structure has no volume.
    """
    volume = structure_of(atoms).volume
    if volume is None:
        raise StructureError("no stress to check: the structure is without volume; give a periodic one")
    stress = _stress(_predict(potential, atoms))
    slots = [(i, j) for i in range(3) for j in range(i, 3)]

    def strained() -> Iterator[Atoms]:
        for (i, j), (step, _) in itertools.product(slots, STENCIL):
            strain = np.zeros((3, 3))
            strain[i, j] += 0.5 * step * eps
            strain[j, i] += 0.5 * step * eps
            yield transformed(atoms, np.eye(3) + strain)

    numeric = _derivatives(potential, strained(), len(atoms), eps) / volume
    return max(_largest(numeric - np.array([stress[s] for s in slots])), _largest(stress - stress.T))


def rotation(potential: Potential, atoms: Atoms, n: int = 4, seed: int = 0) -> float:
    """Return the largest change of energy, back-rotated forces and stress over n random rotations.

    Args:
        potential: any.
        atoms: rotated together with their cell.
        n: number of rotations.
        seed: of the rotations.

    Returns:
        In eV, eV/A or eV/A^3, whichever number is largest.
    """
    return max(_turned(potential, atoms, matrix) for matrix in random_rotations(n, seed))


def inversion(potential: Potential, atoms: Atoms) -> float:
    """Return the largest change of energy, forces and stress when r -> -r; as `rotation`."""
    return _turned(potential, atoms, -np.eye(3))


def permutation(potential: Potential, atoms: Atoms, seed: int = 0) -> float:
    """Return the largest change of energy (eV), energies and forces when the atoms are shuffled."""
    order = np.random.default_rng(seed).permutation(len(atoms))
    shuffled = atoms[order]
    shuffled.info = dict(atoms.info)
    a, b = _predict(potential, atoms), _predict(potential, shuffled)
    return max(abs(a.energy - b.energy), _largest(a.energies[order] - b.energies),
               _largest(_forces(a)[order] - _forces(b)), _stress_change(a, b))


def translation(potential: Potential, atoms: Atoms, seed: int = 0) -> float:
    """Return the largest change of energy, forces and stress when all atoms move by one vector."""
    moved = atoms.copy()
    moved.positions += np.random.default_rng(seed).uniform(-20, 20, 3)
    return _change(_predict(potential, atoms), _predict(potential, moved))


def image_shift(potential: Potential, atoms: Atoms, seed: int = 0) -> float:
    """Return the largest change of energy, forces and stress when atoms move to other periodic images."""
    moved = atoms.copy()
    jumps = np.random.default_rng(seed).integers(-3, 4, (len(atoms), 3)) * atoms.pbc
    moved.positions += jumps @ atoms.cell.array
    return _change(_predict(potential, atoms), _predict(potential, moved))


def supercell(potential: Potential, atoms: Atoms, repeat: tuple[int, int, int] = (2, 2, 2)) -> float:
    """Return the largest deviation of a supercell from its unit cell.

    Compared are energy per unit cell (eV), energies, forces (eV/A) and stress (eV/A^3).

    Args:
        potential: any.
        atoms: the unit cell; repeated along its periodic directions only.
        repeat: repetitions.
    """
    times = tuple(int(n) if periodic else 1 for n, periodic in zip(repeat, atoms.pbc, strict=True))
    copies = int(np.prod(times))
    small, large = _predict(potential, atoms), _predict(potential, atoms.repeat(times))
    return max(abs(large.energy / copies - small.energy),
               _largest(large.energies - np.tile(small.energies, copies)),
               _largest(_forces(large) - np.tile(_forces(small), (copies, 1))), _stress_change(small, large))


def far_apart(potential: Potential, first: Atoms, second: Atoms, distance: float = 50.0) -> float:
    """Return by how much two molecules at a distance differ from the same two on their own, eV and eV/A.

    Args:
        potential: any.
        first: a molecule, no periodic direction.
        second: another.
        distance: A, between the closest coordinates; more than the cutoff.
    """
    moved = second.copy()
    moved.positions[:, 0] += first.positions[:, 0].max() - second.positions[:, 0].min() + distance
    a, b, both = _predict(potential, first), _predict(potential, second), _predict(potential, first + moved)
    return max(abs(both.energy - a.energy - b.energy),
               _largest(_forces(both) - np.concatenate([_forces(a), _forces(b)])))


def isolated(potential: Potential) -> float:
    """Return by how much surroundings beyond the cutoff matter to an atom (eV, eV/A, eV/A^3): exactly 0.

    Each element of the model is evaluated in a wide periodic cell and beside an atom beyond the cutoff,
    and compared with the atom alone; forces and stress must be zero, and no atoms have no energy.
    """
    side = potential.cutoff + 1.0
    info = _state(potential, potential.heads[0])
    alone = {s: _predict(potential, Atoms(s, info=info)).energy for s in potential.elements}
    error = abs(_predict(potential, Atoms(info=info)).energy)
    for symbol, other in zip(potential.elements, reversed(potential.elements), strict=True):
        for atoms in (Atoms(symbol, info=info), Atoms(symbol, cell=[side] * 3, pbc=True, info=info),
                      Atoms([symbol, other], [[0, 0, 0], [0, 0, side]], info=info)):
            p = _predict(potential, atoms)
            expected = [alone[s] for s in atoms.symbols]
            error = max(error, abs(p.energy - sum(expected)), _largest(p.energies - np.array(expected)),
                        _largest(_forces(p)), 0.0 if p.stress is None else _largest(p.stress))
    return error


def isolated_energies(potential: Potential) -> float:
    """Return the largest difference between the energy of a single atom and the model's E0, eV.

    Zero for models whose isolated atoms receive no energy but E0; MACE with a residual first layer gives them one.
    Charge and spin are 0 and 1, or the first that the model knows.
    """
    config, e0 = potential.model.config, potential.model.atomic_energies.cpu().numpy()
    return max(abs(_predict(potential, Atoms(numbers=[z], info=_state(potential, name))).energy - float(e0[h, k]))
               for h, name in enumerate(potential.heads) for k, z in enumerate(config.atomic_numbers))


def smoothness(potential: Potential, pair: tuple[str, str], start: float = 0.7,
               spacing: float = 0.0025) -> float:
    """Return the largest jump of the energy along a dimer scan from `start` to beyond the cutoff, eV.

    A jump is what Boole's rule over the forces does not explain of an energy difference between points
    close to each other, or the energy left over beyond the cutoff.

    Args:
        potential: any; its first head is used.
        pair: two symbols.
        start: shortest distance, A.
        spacing: of the scan, A; two points lie 1e-6 A on either side of the cutoff.
    """
    info = _state(potential, potential.heads[0])
    inner = np.arange(potential.cutoff + 0.1, start, -spacing)[::-1]
    edge = potential.cutoff + np.array([-1e-6, 1e-6])
    dimers = [Atoms(pair, [[0, 0, 0], [0, 0, r]], info=info) for r in np.concatenate([inner, edge])]
    predictions = list(_predict_many(potential, dimers, forces=True))
    energy = np.array([p.energy for p in predictions])
    slope = -np.array([_forces(p)[1, 2] for p in predictions])
    alone = sum(_predict(potential, Atoms(s, info=info)).energy for s in pair)
    windows = np.lib.stride_tricks.sliding_window_view(slope[: len(inner)], 5)
    boole = windows @ np.array([7, 32, 12, 32, 7]) * 2 * spacing / 45
    unexplained = energy[4 : len(inner)] - energy[: len(inner) - 4] - boole
    return max(_largest(unexplained), _largest(energy[len(inner) :] - alone),
               _largest(energy[len(inner) - 10 : len(inner)] - alone))


def binding(potential: Potential, pairs: Iterable[tuple[str, str]], spacing: float = 0.02) -> float:
    """Return the energy that binds two atoms most, eV, beside what the model gives each of them alone.

    Distances go from where dynamics stop (`mlip.checkpoints.contacts`) to the cutoff, at most 6 A. Nothing binds two
    atoms by more than carbon monoxide: 11.2 eV, up to 13 eV in density functionals. A model that says much more has a
    hole where its data do not reach.

    Args:
        potential: any; its first head is used.
        pairs: of symbols.
        spacing: of distances, A.
    """
    info, deepest, far = _state(potential, potential.heads[0]), 0.0, min(potential.cutoff - 1e-6, FAR)
    pairs = list(pairs)
    lone = {s: _predict(potential, Atoms(s, info=info)).energy for s in set(itertools.chain.from_iterable(pairs))}
    for pair in pairs:
        closest, alone = sum(SIZES[NUMBERS[s]] for s in pair), sum(lone[s] for s in pair)
        distances = np.append(np.arange(closest, far, spacing), far)
        dimers = [Atoms(pair, [[0, 0, 0], [0, 0, r]], info=info) for r in distances]
        energies = np.array([p.energy for p in _predict_many(potential, dimers, forces=False)])
        deepest = np.maximum(deepest, np.max(alone - energies))  # NaN stays
    return float(deepest)


def batching(potential: Potential, structures: Sequence[Atoms]) -> float:
    """Return the largest difference between structures predicted as one batch and one by one."""
    together = potential.predict(list(structures))
    return max((_change(_predict(potential, a), p) for a, p in zip(structures, together, strict=True)),
               default=0.0)


def precision(potential: Potential, atoms: Atoms) -> float:
    """Return the largest difference between float32 and float64 (eV per atom, eV/A, eV/A^3)."""
    a = _predict(potential.to(dtype="float64"), atoms)
    b = _predict(potential.to(dtype="float32"), atoms)
    return max(abs(a.energy - b.energy) / max(len(atoms), 1), _largest(_forces(a) - _forces(b)),
               _stress_change(a, b))


def skin(potential: Potential, atoms: Atoms, calculator: Calculator, steps: int = 100, timestep: float = 1.0,
         wrap_every: int = 7) -> float:
    """Return the largest deviation of a calculator that reuses its neighbour list from fresh lists.

    Molecular dynamics at constant energy run with the calculator; the atoms are wrapped back into the
    cell now and then, and every step is repeated by `potential.predict`, which makes its own list.

    Args:
        potential: the potential of the calculator.
        atoms: with momenta; they are copied.
        calculator: the ASE calculator to test.
        steps: number of steps.
        timestep: fs.
        wrap_every: steps between two wrappings.

    Returns:
        Largest deviation of energy (eV), forces (eV/A) and stress (eV/A^3).
    """
    moving = atoms.copy()
    moving.calc = calculator
    dynamics = VelocityVerlet(moving, timestep * fs)
    error = 0.0
    for step in range(steps):
        dynamics.run(1)
        if step % wrap_every == 0:
            moving.wrap()
        fresh = _predict(potential, moving)
        error = max(error, abs(moving.get_potential_energy() - fresh.energy),
                    _largest(moving.get_forces(apply_constraint=False) - _forces(fresh)))
        if fresh.stress is not None:
            error = max(error, _largest(moving.get_stress(voigt=False) - fresh.stress))
    return error


def transformed(atoms: Atoms, matrix: Array) -> Atoms:
    """Return a copy whose positions and cell rows are multiplied by `matrix` [3, 3] from the right."""
    new = atoms.copy()
    new.set_constraint()
    new.set_cell(atoms.cell.array @ matrix)
    new.positions = atoms.positions @ matrix
    return new


def _state(potential: Potential, head: str) -> dict[str, int | str]:
    """Return the head, and charge and spin that the model knows."""
    return {"head": head, **potential.model.config.usual_state}


def _predict(potential: Potential, atoms: Atoms) -> Prediction:
    p: Prediction = potential.predict(atoms)
    return p


def _turned(potential: Potential, atoms: Atoms, matrix: Array) -> float:
    a, b = _predict(potential, atoms), _predict(potential, transformed(atoms, matrix))
    error = max(abs(a.energy - b.energy), _largest(_forces(a) @ matrix - _forces(b)))
    if a.stress is not None and b.stress is not None:
        error = max(error, _largest(matrix.T @ a.stress @ matrix - b.stress))
    return error


def _predict_many(potential: Potential, structures: Sequence[Atoms], *, forces: bool) -> Iterator[Prediction]:
    size = max(1, CHUNK // max(len(a) for a in structures))
    for first in range(0, len(structures), size):
        yield from potential.predict(structures[first : first + size], forces=forces, stress=False)


def _derivatives(potential: Potential, moved: Iterator[Atoms], size: int, eps: float) -> Array:
    """Return dE/dx from structures of `size` atoms moved by each step of the stencil, x by x; [x] eV.

    The isolated-atom energies, thousands of eV without influence, are left out: they would cost digits.
    """
    energies: list[float] = []
    while chunk := list(itertools.islice(moved, max(1, CHUNK // max(size, 1)))):
        graph = potential.graph([structure_of(atoms) for atoms in chunk])
        interaction = evaluate(potential.model, graph, forces=False).interaction
        energies += interaction.new_zeros(len(chunk)).index_add(0, graph.batch, interaction).tolist()
    weights = np.array([w for _, w in STENCIL])
    return np.asarray(np.reshape(energies, (-1, len(STENCIL))) @ weights / eps, dtype=np.float64)


def _largest(values: Array | Sequence[float]) -> float:
    array = np.abs(np.asarray(values, dtype=np.float64))
    return float(array.max()) if array.size else 0.0


def _forces(p: Prediction) -> Array:
    assert p.forces is not None
    return p.forces


def _stress(p: Prediction) -> Array:
    assert p.stress is not None
    return p.stress


def _stress_change(a: Prediction, b: Prediction) -> float:
    if a.stress is None or b.stress is None:
        return 0.0 if a.stress is b.stress else float("inf")
    return _largest(a.stress - b.stress)


def _change(a: Prediction, b: Prediction) -> float:
    return max(abs(a.energy - b.energy), _largest(a.energies - b.energies), _largest(_forces(a) - _forces(b)),
               _stress_change(a, b))
