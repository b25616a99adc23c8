"""What every model keeps. A new family adds one line to SMALL_MODELS in tests/conftest.py."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from mlip import Potential
from mlip.io.ase import structure_of
from mlip.nn.derivatives import evaluate
from mlip.so3.rotation_groups import rotation_group
from mlip.verify import checks
from mlip.verify.symmetry import symmetry_report

PERIODIC = ("cubic", "triclinic", "left_handed", "small_cell", "slab", "tilted_slab", "wire")


class TestModelContract:
    """Each check is the function a user runs; `potential` goes through all families, the others leave some out."""

    def test_forces_are_the_derivative_of_the_energy(self, conservative: Potential, structure: Atoms) -> None:
        assert checks.finite_difference_forces(conservative, structure) <= 1e-7

    @pytest.mark.parametrize("name", PERIODIC)
    def test_stress_is_the_derivative_of_the_energy(self, conservative: Potential, structures: dict[str, Atoms],
                                                    name: str) -> None:
        assert checks.finite_difference_stress(conservative, structures[name]) <= 1e-8

    def test_rotation(self, invariant: Potential, structure: Atoms) -> None:
        assert checks.rotation(invariant, structure) <= 1e-10

    def test_rotation_is_reported_where_it_is_not_known(self, learning: Potential, structure: Atoms) -> None:
        """And the average over a group is exactly invariant under the group, and closer to it under all rotations."""
        report = symmetry_report(learning, structure, rotations=16)
        assert report.energy_rot_std > 1e-3
        assert report.force_error_relative > 1e-2
        for group in ("O", "I"):
            averaged = learning.to(rotational_average=group)
            expected = averaged.predict(structure)
            for matrix in rotation_group(group)[1::5]:
                found = averaged.predict(checks.transformed(structure, matrix))
                assert found.energy == pytest.approx(expected.energy, rel=0, abs=1e-10)
                np.testing.assert_allclose(found.forces, expected.forces @ matrix, rtol=0, atol=1e-12)
            assert symmetry_report(averaged, structure, rotations=16).energy_rot_std < 0.5 * report.energy_rot_std

    def test_inversion(self, any_mace: Potential, structure: Atoms) -> None:
        assert checks.inversion(any_mace, structure) <= 1e-8

    def test_permutation_translation_images(self, potential: Potential, structure: Atoms) -> None:
        assert checks.permutation(potential, structure) <= 1e-9
        assert checks.translation(potential, structure) <= 1e-9
        assert checks.image_shift(potential, structure) <= 1e-9

    @pytest.mark.parametrize("name", PERIODIC)
    def test_supercell(self, potential: Potential, structures: dict[str, Atoms], name: str) -> None:
        assert checks.supercell(potential, structures[name]) <= 1e-9

    def test_supercell_along_each_vector(self, potential: Potential, structures: dict[str, Atoms]) -> None:
        for repeat in ((1, 1, 2), (1, 3, 1), (2, 1, 1)):
            assert checks.supercell(potential, structures["triclinic"], repeat) <= 1e-9

    def test_two_molecules_far_apart(self, potential: Potential) -> None:
        assert checks.far_apart(potential, molecule("CH3OH"), molecule("H2O")) <= 1e-9

    def test_isolated_atoms(self, conservative: Potential) -> None:
        rounding = 0.0 if conservative.model.rotation_invariant else 1e-11  # products of one row may round in their way
        assert checks.isolated(conservative) <= rounding

    def test_smooth_up_to_and_beyond_the_cutoff(self, conservative: Potential) -> None:
        for pair in itertools.combinations_with_replacement(("H", "O", "Cu"), 2):
            assert checks.smoothness(conservative, pair) <= 1e-7

    def test_batch_equals_single(self, potential: Potential, structures: dict[str, Atoms]) -> None:
        batch = [*structures.values(), Atoms("H"), Atoms(), structures["cubic"]]
        assert checks.batching(potential, batch) <= 1e-9
        assert potential.predict([]) == []

    def test_float32_is_close_to_float64(self, potential: Potential, structure: Atoms) -> None:
        assert checks.precision(potential, structure) <= 1e-4

    def test_same_input_same_numbers(self, potential: Potential, structures: dict[str, Atoms]) -> None:
        a, b = potential.predict(structures["triclinic"]), potential.predict(structures["triclinic"])
        assert a.energy == b.energy
        np.testing.assert_array_equal(a.forces, b.forces)
        np.testing.assert_array_equal(a.stress, b.stress)

    def test_no_net_force_and_no_torque(self, conservative: Potential, structures: dict[str, Atoms]) -> None:
        atoms = structures["molecule"]
        found = evaluate(conservative.model, conservative.graph([structure_of(atoms)]), torque=True)
        forces, torque = found.forces.numpy(), found.torque.numpy()[0]
        assert np.abs(forces.sum(axis=0)).max() <= 1e-11
        assert np.abs(np.cross(atoms.positions, forces).sum(axis=0) - torque).max() <= 1e-11
        if conservative.model.rotation_invariant:
            assert np.abs(torque).max() <= 1e-11
        else:
            assert np.abs(torque).max() > 1e-3


def test_no_energy_but_e0_for_an_isolated_atom(mace: Potential) -> None:
    assert checks.isolated_energies(mace) == 0.0
