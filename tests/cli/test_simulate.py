"""quickstart, predict, relax, md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc111, molecule
from ase.io import read, write

import mlip


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
    assert Path("trajectory.pdb").is_file()


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
