"""train, verify."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

import mlip


@pytest.fixture
def data(place: Path, model: str) -> Path:
    """Labelled methanol molecules and isolated atoms."""
    potential, rng, frames = mlip.load(model), np.random.default_rng(0), []
    for _ in range(8):
        atoms = molecule("CH3OH")
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
        p = potential.predict(atoms)
        atoms.calc = SinglePointCalculator(atoms, energy=p.energy, forces=p.forces)
        frames.append(atoms)
    write("train.xyz", frames)
    atoms = []
    for symbol in "HCO":
        atom = Atoms(symbol)
        atom.calc = SinglePointCalculator(atom, energy=-1.0)
        atoms.append(atom)
    write("isolated.xyz", atoms)
    return place / "train.xyz"


TINY = ("--channels", 2, "--edge-lmax", 1, "--hidden-lmax", 0, "--correlation", 1, "--cutoff", 3.0)


def test_train_and_resume(run, data) -> None:
    command = ("train", data, "-o", "run", "--isolated", "isolated.xyz", "--epochs", 2, "--seed", 3, *TINY)
    code, out, err = run(*command)
    assert (code, err) == (0, "")
    assert out.startswith("best model: ")
    potential = mlip.load("run/best.mlip")
    assert list(potential.elements) == ["H", "C", "O"]
    assert potential.cutoff == 3.0
    assert potential.model.config.channels == 2
    assert len(Path("run/log.csv").read_text().splitlines()) == 3
    assert Path("run/last.pt").is_file()
    assert run(*command)[0] == 0  # done already: nothing is added
    assert len(Path("run/log.csv").read_text().splitlines()) == 3
    code, _, err = run(*command, "--learning-rate", 0.5)
    assert code == 2
    assert "other options" in err


def test_train_another_family(run, data) -> None:
    """Options that only one family has are left to it."""
    command = ("train", data, "-o", "run", "--isolated", "isolated.xyz", "--epochs", 1, "--cutoff", 3.0,
               "--batch-size", 8, "--family", "equiformer_v3", "--channels", 2, "--num-layers", 1)
    code, _, err = run(*command)
    assert (code, err) == (0, "")
    assert mlip.load("run/best.mlip").model.config.family == "equiformer_v3"
    code, _, err = run(*command, "--pair-repulsion")
    assert code == 2
    assert "unknown equiformer_v3 option(s) pair_repulsion" in err


def test_bad_training(run, data) -> None:
    for arguments, text in ((("--epochs", 0), "epochs"), (("--channels", 0), "channels"), (("--family", "x"), "'x'"),
                            (("--isolated", "methanol.xyz"), "methanol.xyz")):
        code, _, err = run("train", data, "-o", "run", *arguments)
        assert code == 2
        assert text in err
    code, _, err = run("train", "methanol.xyz", "-o", "run")
    assert code == 2
    assert "no energy" in err


def test_verify_neighbors(run) -> None:
    code, out, err = run("verify", "neighbors", "--cases", 20, "--seed", 5)
    assert (code, err) == (0, "")
    assert "20" in out


def test_verify_model(run, model) -> None:
    code, out, err = run("verify", "model", model, "methanol.xyz")
    assert (code, err) == (0, "")
    assert "forces = -dE/dr" in out
    assert "FAILED" not in out
