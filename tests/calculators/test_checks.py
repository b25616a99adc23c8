"""The checks themselves: each of them must notice the mistake it is there for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from ase import Atoms
from ase.build import molecule

from mlip import Potential, Prediction
from mlip.errors import StructureError
from mlip.verify import checks

Mistake = Callable[[Atoms, Prediction, int], Prediction]


class Wrong:
    """A potential whose predictions hold a mistake; the mistake also sees the size of the batch."""

    def __init__(self, potential: Potential, mistake: Mistake) -> None:
        self.potential, self.mistake = potential, mistake

    def __getattr__(self, name: str) -> Any:
        return getattr(self.potential, name)

    def to(self, dtype: str) -> Wrong:
        return Wrong(self.potential.to(dtype=dtype), self.mistake)

    def predict(self, atoms: Atoms | Sequence[Atoms], **options: bool) -> Any:
        listed = [atoms] if isinstance(atoms, Atoms) else list(atoms)
        results = [self.mistake(a, p, len(listed))
                   for a, p in zip(listed, self.potential.predict(listed, **options), strict=True)]
        return results[0] if isinstance(atoms, Atoms) else results


def plus(p: Prediction, energy: float) -> Prediction:
    return dataclasses.replace(p, energy=p.energy + energy)


def forces_off(atoms: Atoms, p: Prediction, size: int) -> Prediction:
    return p if p.forces is None else dataclasses.replace(p, forces=p.forces * 1.001)


def stress_sign(atoms: Atoms, p: Prediction, size: int) -> Prediction:
    return p if p.stress is None else dataclasses.replace(p, stress=-p.stress)


def absolute_position(atoms: Atoms, p: Prediction, size: int) -> Prediction:
    return plus(p, 1e-4 * atoms.positions[0, 0])


def constant(atoms: Atoms, p: Prediction, size: int) -> Prediction:
    return plus(p, 1e-3)


def step(atoms: Atoms, p: Prediction, size: int) -> Prediction:
    return plus(p, 1e-4 * (len(atoms) == 2 and atoms.get_distance(0, 1) < 2.0))


def tail(atoms: Atoms, p: Prediction, size: int) -> Prediction:
    return plus(p, 1e-4 * (len(atoms) == 2))


def batch_size(atoms: Atoms, p: Prediction, size: int) -> Prediction:
    return plus(p, 1e-5 * size)


def alone(atoms: Atoms, p: Prediction, size: int) -> Prediction:
    return plus(p, 1e-6 * (len(atoms) == 1 and atoms.pbc.any()))


@pytest.mark.parametrize(("mistake", "check"), [
    (forces_off, lambda q, a: checks.finite_difference_forces(q, a["triclinic"])),
    (stress_sign, lambda q, a: checks.finite_difference_stress(q, a["triclinic"])),
    (absolute_position, lambda q, a: checks.rotation(q, a["molecule"])),
    (absolute_position, lambda q, a: checks.inversion(q, a["molecule"])),
    (absolute_position, lambda q, a: checks.permutation(q, a["molecule"])),
    (absolute_position, lambda q, a: checks.translation(q, a["molecule"])),
    (absolute_position, lambda q, a: checks.image_shift(q, a["triclinic"])),
    (constant, lambda q, a: checks.supercell(q, a["triclinic"])),
    (constant, lambda q, a: checks.far_apart(q, a["molecule"], molecule("H2O"))),
    (alone, lambda q, a: checks.isolated(q)),
    (constant, lambda q, a: checks.isolated_energies(q)),
    (step, lambda q, a: checks.smoothness(q, ("C", "O"))),
    (tail, lambda q, a: checks.smoothness(q, ("C", "O"))),
    (batch_size, lambda q, a: checks.batching(q, [a["molecule"], a["cubic"]])),
], ids=lambda value: getattr(value, "__name__", ""))
def test_a_check_notices_the_mistake(mace: Potential, structures: dict[str, Atoms], mistake: Mistake,
                                     check: Callable[[Any, dict[str, Atoms]], float]) -> None:
    def none(atoms: Atoms, p: Prediction, size: int) -> Prediction:
        return p

    assert check(Wrong(mace, none), structures) <= 1e-7
    assert check(Wrong(mace, mistake), structures) >= 1e-7


def test_the_stress_of_a_molecule_cannot_be_checked(mace: Potential) -> None:
    with pytest.raises(StructureError, match="without volume"):
        checks.finite_difference_stress(mace, molecule("H2O"))
