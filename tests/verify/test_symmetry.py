"""The report of what rotations do: zero where nothing may change, else the numbers of a plain loop over ASE atoms."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import write

import mlip
from mlip import Potential, Structure
from mlip.checkpoints import symmetry
from mlip.checkpoints.symmetry import symmetry_reports
from mlip.cli.main import main
from mlip.errors import OptionError, StructureError, UnknownElementError
from mlip.graph import build_graph
from mlip.io.ase import structure_of
from mlip.so3.rotation_groups import random_rotations
from mlip.verify import checks
from mlip.verify.model import verify_model
from mlip.verify.symmetry import symmetry_report

NUMBERS = ("energy_rot_std", "forces_rot_std", "force_error_relative", "stress_rot_std", "torque")


def by_loop(potential: Potential, atoms: Atoms, rotations: int, seed: int) -> dict[str, float]:
    """Return the numbers of a report from rotated atoms, one at a time."""
    energy, forces, stress, torque = [], [], [], []
    for matrix in random_rotations(rotations, seed):
        turned = checks.transformed(atoms, matrix)
        p = potential.predict(turned)
        energy.append(p.energy)
        forces.append(p.forces @ matrix.T)
        torque.append(np.cross(turned.positions, p.forces).sum(axis=0))
        if p.stress is not None:
            stress.append(matrix @ p.stress @ matrix.T)
    spread = np.sqrt(np.var(forces, axis=0).mean())
    found = {"energy_rot_std": np.std(energy), "forces_rot_std": spread,
             "force_error_relative": spread / np.sqrt(np.square(np.mean(forces, axis=0)).mean())}
    if stress:
        found["stress_rot_std"] = np.sqrt(np.var(stress, axis=0).mean())
    else:
        found["torque"] = np.abs(torque).max()
    return found


@pytest.mark.parametrize("most", [4096, 20, 1])
def test_numbers_of_a_loop(lopsided: Potential, structure: Atoms, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symmetry, "MOST_ATOMS", most)
    report = symmetry_report(lopsided, structure, rotations=9, seed=5)
    for name, value in by_loop(lopsided, structure, 9, 5).items():
        assert getattr(report, name) == pytest.approx(value, rel=1e-6, abs=1e-13), name
        assert value > 1e-4, name
    assert (report.stress_rot_std is None) == (structure_of(structure).volume is None)
    assert report.energy_rot_std_per_atom == pytest.approx(1000 * report.energy_rot_std / len(structure))
    assert report.torque > 0.01


def test_nothing_of_an_equivariant_model(invariant: Potential, structure: Atoms) -> None:
    report = symmetry_report(invariant, structure, rotations=8)
    for name in NUMBERS:
        value = getattr(report, name)
        if name == "torque" and not invariant.model.conservative:
            assert value is None
        elif name != "stress_rot_std" or structure_of(structure).volume is not None:
            assert value < 1e-10, name


def test_a_batch_gives_the_reports_of_its_structures(lopsided: Potential, structures: dict[str, Atoms]) -> None:
    chosen = [structures[name] for name in ("triclinic", "molecule", "slab")]
    graph = lopsided.graph([structure_of(atoms) for atoms in chosen])
    for found, atoms in zip(symmetry_reports(lopsided.model, graph, 6, 1), chosen, strict=True):
        alone = symmetry_report(lopsided.model, atoms, 6, 1)
        assert (found.atoms, found.rotations, found.precision) == (len(atoms), 6, "float64")
        for name in NUMBERS:
            value = getattr(alone, name)
            assert getattr(found, name) == (None if value is None else pytest.approx(value, rel=1e-10)), name
    assert symmetry_reports(lopsided.model, build_graph([], 4.0)) == []


def test_one_neighbour_search(lopsided: Potential, structures: dict[str, Atoms], monkeypatch: pytest.MonkeyPatch
                              ) -> None:
    from mlip.graph import build

    calls: list[Any] = []
    search = build.neighbor_list
    monkeypatch.setattr(build, "neighbor_list", lambda *a, **k: (calls.append(a), search(*a, **k))[1])
    symmetry_report(lopsided, structures["cubic"], 16)
    assert len(calls) == 1


def test_precision_is_that_of_the_model(mace: Potential, structures: dict[str, Atoms]) -> None:
    report = symmetry_report(mace.to(dtype="float32"), structures["triclinic"], 8)
    assert report.precision == "float32"
    assert 1e-10 < report.energy_rot_std < 1e-4


def test_text(lopsided: Potential, structures: dict[str, Atoms]) -> None:
    text = str(symmetry_report(lopsided, structures["triclinic"], 4))
    assert text.startswith("3 atoms under 4 random rotations, in float64\n")
    for words in ("energy_rot_std", "meV/atom", "eV/A\n", "eV/A^3", "of the mean forces", "torque"):
        assert words in text
    without = dataclasses.replace(symmetry_report(lopsided, structures["molecule"], 4), torque=None)
    assert [line.split() for line in str(without).splitlines()[-2:]] == [["stress_rot_std", "-"], ["torque", "-"]]


def test_lone_atoms(lopsided: Potential) -> None:
    report = symmetry_report(lopsided, Atoms("Cu"), 4)
    assert [getattr(report, name) for name in NUMBERS] == [0, 0, 0, None, 0]


@pytest.mark.parametrize("wrong", [0, 1, -3, 2.5, True, "many"], ids=repr)
def test_too_few_rotations(lopsided: Potential, wrong: Any) -> None:
    with pytest.raises(OptionError, match="at least 2"):
        symmetry_report(lopsided, molecule("H2O"), wrong)


def test_no_atoms(lopsided: Potential) -> None:
    with pytest.raises(StructureError, match="no atoms"):
        symmetry_report(lopsided, Atoms())


def test_atoms_that_the_model_cannot_evaluate(mace: Potential) -> None:
    """Not with the model alone, either, which would take any number for an index."""
    paper = mlip.create("transip", ["H", "O"], mode="paper", channels=8, num_layers=1, num_heads=1, charges=(-1, 1))
    charged = Atoms(molecule("H2O"), info={"charge": 1, "spin": 1})
    for model in (paper, paper.model):
        assert symmetry_report(model, charged, 2).energy_rot_std > 0
        with pytest.raises(UnknownElementError, match="Au"):
            symmetry_report(model, Atoms("Au2", [[0, 0, 0], [0, 0, 2]]), 2)
        for atoms, words in ((Atoms(charged, cell=[9] * 3, pbc=True), "pbc=False"),
                             (molecule("H2O"), "must be told the charge"),
                             (Atoms(charged, info={"charge": 2}), "made for -1, 1")):
            with pytest.raises(StructureError, match=words):
                symmetry_report(model, atoms, 2)


def test_verify_model_of_ions(recwarn: pytest.WarningsRecorder) -> None:
    """Lone atoms and dimers, too, have a charge that the model knows."""
    for charges, spins in (((1, 2), (2, 3)), ((0, 1), (1, 2))):
        model = mlip.create("transip", ["H", "O"], channels=8, num_layers=1, num_heads=1, charges=charges, spins=spins)
        found = verify_model(model, Atoms(molecule("H2O"), info={"charge": 1, "spin": 2}))
        assert all(check.passed for check in found)
    assert not recwarn.list


def test_verify_model_reports_rotations_of_a_model_that_promises_none(
        lopsided: Potential, mace: Potential, structures: dict[str, Atoms]) -> None:
    check = {c.name: c for c in verify_model(lopsided, structures["triclinic"])}
    assert check["rotation"].error > 0.01
    assert check["rotation"].limit == np.inf
    assert all(c.passed for c in check.values())
    assert {c.name: c.limit for c in verify_model(mace, structures["molecule"])}["rotation"] == 1e-8


def test_command_line(mace: Potential, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = copy.copy(mace).save(tmp_path / "model.mlip")
    write(tmp_path / "water.xyz", molecule("H2O"))
    assert main(["verify", "symmetry", str(model), str(tmp_path / "water.xyz"), "--rotations", "5"]) == 0
    report = symmetry_report(mlip.load(model), molecule("H2O"), 5)
    assert capsys.readouterr().out == f"{report}\n"
    assert main(["verify", "symmetry", str(model), str(tmp_path / "water.xyz"), "--rotations", "1"]) == 2
    assert "at least 2" in capsys.readouterr().err


def test_structures_without_ase(lopsided: Potential) -> None:
    """As the training does: a batch of structures, no ASE."""
    structure = Structure.create([8, 1, 1], molecule("H2O").positions)
    (found,) = symmetry_reports(lopsided.model, build_graph([structure], 4.0))
    assert found.rotations == 64
    assert found == symmetry_report(lopsided, molecule("H2O"))
