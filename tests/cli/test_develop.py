"""train, verify."""

from __future__ import annotations

import json
import sys
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


MODEL = "channels = 2\nedge_lmax = 1\nhidden_lmax = 0\ncorrelation = 1\ncutoff = 3.0"


def recipe(data: str = "", model: str = MODEL, training: str = "epochs = 2", more: str = "") -> str:
    """Write a recipe and return its name."""
    Path("recipe.toml").write_text(f"""
[data]
train = "train.xyz"
isolated = "isolated.xyz"
{data}
[model]
{model}
[training]
seed = 3
{training}
{more}
""")
    return "recipe.toml"


def test_train_and_resume(run, data) -> None:
    code, out, err = run("train", recipe(more="[card]\nname = 'methanol'"), "-o", "run")
    assert (code, err) == (0, "")
    assert "structures" in out
    assert out.splitlines()[-2:] == [f"best model: {Path('run/best.mlip')}", f"with card:  {Path('run/methanol.mlip')}"]
    assert "Dynamics" in Path("run/methanol.card.md").read_text()
    assert {path.name for path in Path("run").glob("*.png")} == {"learning.png", "parity-validation.png"}
    potential = mlip.load("run/best.mlip")
    assert list(potential.elements) == ["H", "C", "O"]
    assert (potential.cutoff, potential.model.config.channels, potential.info.name) == (3.0, 2, "methanol")
    assert len(Path("run/log.csv").read_text().splitlines()) == 4  # names, the start and two epochs
    assert Path("run/last.ckpt").is_file()
    assert run("train", "recipe.toml", "-o", "run")[0] == 0  # done already: nothing is added
    assert len(Path("run/log.csv").read_text().splitlines()) == 4  # names, the start and two epochs
    code, _, err = run("train", recipe(training="learning_rate = 0.5"), "-o", "run")
    assert code == 2
    assert "other options" in err


def test_train_another_family(run, data) -> None:
    """Options that only one family has are left to it."""
    small = "family = 'equiformer_v3'\nchannels = 2\nnum_layers = 1\ncutoff = 3.0"
    code, _, err = run("train", recipe(model=small, training="epochs = 1\nbatch_size = 8"), "-o", "run")
    assert (code, err) == (0, "")
    assert mlip.load("run/best.mlip").model.config.family == "equiformer_v3"
    code, _, err = run("train", recipe(model=f"{small}\npair_repulsion = true"), "-o", "run")
    assert code == 2
    assert "unknown equiformer_v3 option(s) pair_repulsion" in err


def test_train_further(run, data, model) -> None:
    start = f"[start]\nmodel = {json.dumps(model)}\nmethod = 'frozen'"
    code, out, err = run("train", recipe(model="", training="epochs = 1", more=start), "-o", "run", "--check")
    assert (code, err) == (0, "")
    assert "fine-tuned from" in out
    assert not Path("run/best.mlip").exists()
    assert run("train", "recipe.toml", "-o", "run")[0] == 0
    assert mlip.load("run/best.mlip").elements == mlip.load(model).elements


MISTAKES = {
    "no TOML": ("", "[[data", "OptionError", "is not TOML"),
    "no such option": ("", "epoch = 3", "OptionError", "[training] has no option epoch"),
    "no epochs": ("", "epochs = 0", "OptionError", "epochs must be a whole number from 1"),
    "stress of molecules": ("", "stress_weight = 1", "DataError", "stress is trained"),
    "no such table": ("", "[trainig]", "OptionError", "no table trainig"),
    "no such family": ("", "[start]\nmodel = 'absent.mlip'", "ModelNotFoundError", "absent.mlip"),
    "no such file": ("valid = 'absent.xyz'", "", "DataError", "absent.xyz"),
    "not labelled": ("valid = 'methanol.xyz'", "", "DataError", "no energy"),
    "no such forces": ("forces_key = 'dft'", "", "DataError", "no forces under dft"),
    "no such unit": ("energy_unit = 'erg'", "", "OptionError", "Hartree"),
    "other lengths": ("length_unit = 'nm'", "", "DataError", "no atom has a neighbour"),
    "torque of MACE": ("", "torque_weight = 1", "OptionError", "torque_weight"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_train_mistakes(run, data, name) -> None:
    """One line, and no model."""
    more, training, kind, text = MISTAKES[name]
    code, out, err = run("train", recipe(more, training=training), "-o", "run")
    assert code == 2
    assert len(err.splitlines()) == 1
    assert err.startswith(f"mlip train: {kind}: ")
    assert text in err
    assert "best model" not in out
    assert not Path("run/best.mlip").exists()


@pytest.mark.parametrize(("options", "text"), [
    (("--devices", 0), "devices must be a whole number from 1; 0"), (("--nodes", -1), "nodes must be a whole"),
    (("--seeds", 1, 1), "seeds of a committee must differ"), (("-o", "train.xyz"), "train.xyz")])
def test_train_options_that_are_wrong(run, data, options, text) -> None:
    code, _, err = run("train", recipe(), "-o", "run", *options)
    assert (code, len(err.splitlines())) == (2, 1)
    assert text in err


def test_train_without_lightning(run, data, monkeypatch) -> None:
    """The data can be checked all the same."""
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    assert run("train", recipe(), "-o", "run", "--check")[0] == 0
    code, _, err = run("train", "recipe.toml", "-o", "run")
    assert (code, len(err.splitlines())) == (2, 1)
    assert err.startswith("mlip train: MissingDependencyError: this needs the package 'lightning'")
    assert "mlip-md[train]" in err


def test_verify_neighbors(run) -> None:
    code, out, err = run("verify", "neighbors", "--cases", 20, "--seed", 5)
    assert (code, err) == (0, "")
    assert "20" in out


def test_verify_model(run, model) -> None:
    code, out, err = run("verify", "model", model, "methanol.xyz")
    assert (code, err) == (0, "")
    assert "forces = -dE/dr" in out
    assert "FAILED" not in out
