"""quickstart, predict, relax, md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111, molecule
from ase.io import read, write

import mlip
from mlip.cli.main import parser


def test_quickstart(run) -> None:
    pytest.importorskip("openmm")
    code, out, err = run("quickstart", "--steps", 4, "-o", "first")
    assert code == 0
    assert err == ""  # no progress bar where nobody looks
    name = mlip.load("mace-acac").info.name
    for text in (f"model     {name}", "acetylacetone", "ASE", "OpenMM", "mean temperature", "first/quickstart.png"):
        assert text in out.replace("\\", "/")
    assert Path("first/quickstart.png").stat().st_size > 10_000


def test_predict(run, model) -> None:
    code, out, err = run("predict", "methanol.xyz", "copper.cif", "-m", model, "-o", "results.xyz")
    assert (code, err) == (0, "")
    potential = mlip.load(model)
    header, first, second, written = out.strip().split("\n")
    assert header.split()[0] == "structure"
    assert first.split()[:2] == ["methanol.xyz[0]", "6"]
    assert float(first.split()[2]) == pytest.approx(potential.predict(molecule("CH3OH")).energy, abs=1e-5)
    assert first.split()[-1] == "-"
    copper = potential.predict(read("copper.cif"))
    assert float(second.split()[2]) == pytest.approx(copper.energy, abs=1e-5)
    assert float(second.split()[4]) == pytest.approx(-np.trace(copper.stress) / 3 * 160.2176634, abs=1e-3)
    assert written.split() == ["written", "results.xyz"]
    found = read("results.xyz", ":")
    assert found[1].get_potential_energy() == pytest.approx(copper.energy, abs=1e-6)
    assert found[0].get_forces().shape == (6, 3)


def test_predict_many_frames(run, model) -> None:
    write("many.xyz", [molecule("H2O"), molecule("CO"), molecule("CH4")])
    code, out, _ = run("predict", "many.xyz", "--model", model, "--dtype", "float32")
    assert code == 0
    assert [line.split()[0] for line in out.split("\n")[1:4]] == [f"many.xyz[{i}]" for i in range(3)]


def test_relax(run, model) -> None:
    code, out, err = run("relax", "copper.cif", "-m", model, "--cell", "--fmax", 0.01, "-o", "done.cif")
    assert (code, err) == (0, "")
    assert out.startswith("converged after")
    assert "done.cif" in out
    assert read("done.cif").get_volume() < read("copper.cif").get_volume()
    code, out, _ = run("relax", "methanol.xyz", "-m", model, "--steps", 1, "--fmax", 1e-6, "--optimizer", "fire")
    assert code == 1
    assert out.startswith("NOT converged after 1 steps")
    assert read("relaxed.xyz").get_potential_energy() < mlip.load(model).predict(molecule("CH3OH")).energy + 1e-3


@pytest.mark.parametrize("engine", ["ase", "openmm"])
@pytest.mark.parametrize("ensemble", ["nve", "nvt"])
def test_md(run, model, engine, ensemble) -> None:
    pytest.importorskip("openmm")
    code, out, err = run("md", "copper.cif", "-m", model, "--engine", engine, "--ensemble", ensemble, "--steps", 6,
                         "--every", 3, "--timestep", 2, "--temperature", 200, "--friction", 5, "--seed", 1)
    assert (code, err) == (0, "")
    assert out.startswith(f"6 steps of 2.0 fs in {engine} ({ensemble}): mean temperature")
    assert "trajectory.xyz" in out
    frames = read("trajectory.xyz", ":")
    assert len(frames) == 3
    assert all(frame.pbc.all() for frame in frames)
    assert frames[1].info["time"] == 6
    assert frames[1].get_potential_energy() == pytest.approx(mlip.load(model).predict(frames[1]).energy, abs=1e-6)
    assert read("trajectory.topology.pdb").numbers.tolist() == frames[0].numbers.tolist()
    assert "trajectory.final.xyz" in out
    code, _, err = run("md", "trajectory.final.xyz", "-m", model, "--engine", engine, "--steps", 2, "-o", "more.xyz")
    assert (code, err) == (0, "")
    assert read("more.xyz", 0).info["kinetic"] == pytest.approx(read("trajectory.final.xyz").get_kinetic_energy(),
                                                                abs=1e-6)


def test_md_keeps_its_frames_when_it_fails(run, model) -> None:
    """Two atoms fall onto each other; what came before is there."""
    falling = Atoms("CO", [[0, 0, 0], [0, 0, 3.0]])
    falling.set_velocities([[0, 0, 0], [0, 0, -0.1]])
    write("falling.xyz", falling)
    code, out, err = run("md", "falling.xyz", "-m", model, "--timestep", 1e6, "--every", 1)
    assert (code, out) == (2, "")
    assert "Error" in err
    assert len(read("trajectory.xyz", ":")) >= 1
    assert not Path("trajectory.final.xyz").exists()


@pytest.mark.parametrize(("index", "count"), [(0, 3), (1, 2), (-1, 5)])
def test_one_of_several(run, model, index, count) -> None:
    assert run("relax", "three.xyz", "-m", model, "--index", index, "--steps", 0)[0] == 1
    assert len(read("relaxed.xyz")) == count
    assert run("md", "three.xyz", "-m", model, "--index", index, "--steps", 1)[0] == 0
    assert len(read("trajectory.xyz")) == count


def test_heads(run, two_heads) -> None:
    """Files such as CIF name no head."""
    write("methanol.pdb", molecule("CH3OH"))
    energies = []
    for head in "ab":
        code, out, err = run("predict", "methanol.pdb", "-m", two_heads, "--head", head, "--charge", 0, "--spin", 1)
        assert (code, err) == (0, "")
        energies.append(float(out.split("\n")[1].split()[2]))
    assert energies[1] - energies[0] > 0.5
    assert run("relax", "methanol.pdb", "-m", two_heads, "--head", "b", "--steps", 0)[0] == 1
    relaxed = read("relaxed.xyz")
    assert relaxed.get_potential_energy() == pytest.approx(energies[1], abs=1e-5)
    assert relaxed.info["head"] == "b"
    assert run("md", "relaxed.xyz", "-m", two_heads, "--steps", 1)[0] == 0
    assert read("trajectory.xyz").info["head"] == "b"
    assert run("verify", "model", two_heads, "methanol.pdb", "--head", "b")[0] == 0


def test_charge_and_spin_reach_the_structures(run) -> None:
    from mlip.cli.common import structure_of, structures_of
    from mlip.io.ase import structure_of as plain

    options = parser().parse_args(["md", "three.xyz", "-m", "x", "--charge", "-1", "--spin", "2", "--index", "1"])
    for atoms in (structure_of(options), *structures_of(options.file, options)):
        atoms = plain(atoms)
        assert (atoms.charge, atoms.spin) == (-1, 2)
    write("radical.xyz", Atoms("O", info={"charge": -2, "spin_multiplicity": 3}))
    options = parser().parse_args(["relax", "radical.xyz", "-m", "x"])
    assert (plain(structure_of(options)).charge, plain(structure_of(options)).spin) == (-2, 3)
    options.spin = 1
    assert plain(structure_of(options)).spin == 1


def test_md_on_a_platform(run, model) -> None:
    pytest.importorskip("openmm")
    common = ("md", "methanol.xyz", "-m", model, "--engine", "openmm", "--steps", 2, "-o", "a.xyz", "--platform")
    assert run(*common, "Reference")[0] == 0
    code, _, err = run(*common, "Abacus")
    assert code == 2
    assert "OptionError" in err
    assert "Reference" in err


def test_slab_in_openmm(run, model) -> None:
    pytest.importorskip("openmm")
    slab = fcc111("Cu", (1, 1, 2), vacuum=5.0)
    write("slab.xyz", Atoms(slab.numbers, slab.positions, cell=slab.cell, pbc=slab.pbc))
    code, _, err = run("md", "slab.xyz", "-m", model, "--engine", "openmm", "--steps", 2)
    assert code == 2
    assert "all directions or none" in err
    assert not Path("trajectory.xyz").exists()


def test_predict_goes_on_after_a_bad_structure(run, model, tmp_path) -> None:
    """One structure the model does not know: a line that says so, the others done and written."""
    write("methanol.xyz", molecule("CH3OH"))
    write("silane.xyz", molecule("SiH4"))
    code, out, _ = run("predict", "silane.xyz", "methanol.xyz", "-m", model, "-o", "results.xyz")
    assert code == 1
    assert "UnknownElementError" in next(line for line in out.splitlines() if line.startswith("silane.xyz[0]"))
    assert len(read("results.xyz", ":")) == 1
