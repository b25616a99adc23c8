"""eval, card."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read, write

import mlip
from mlip.verify.card import counts


@pytest.fixture
def data(place: Path, model: str) -> Path:
    """Twelve labelled molecules: energies 0.01 eV/atom too high, forces 0.1 eV/A off in x."""
    potential, rng, frames = mlip.load(model), np.random.default_rng(0), []
    for i in range(12):
        atoms = molecule(("CH3OH", "H2O", "CO")[i % 3])
        atoms.positions += rng.normal(0, 0.03, atoms.positions.shape)
        p = potential.predict(atoms)
        assert p.forces is not None
        atoms.info = {"REF_energy": p.energy - 0.01 * len(atoms), "config_type": "organic" if i % 3 == 0 else "small"}
        atoms.arrays["REF_forces"] = p.forces + np.array([0.1, 0.0, 0.0])
        frames.append(atoms)
    write("data.xyz", frames)
    return place / "data.xyz"


def test_eval(run, model, data) -> None:
    code, out, err = run("eval", model, data, "--json", "found.json", "--plot", "pictures")
    assert (code, err) == (0, "")
    rows = {line[:34].strip(): line[34:].split() for line in out.splitlines()}
    assert rows["energy (meV/atom)"] == ["10.000", "10.000", "12"]
    assert rows["forces (meV/A)"][:2] == ["57.735", "33.333"]
    assert rows["small"] == ["10.000", "57.735", "-", "8"]
    found = json.loads(Path("found.json").read_text())
    assert found["forces_rmse_mev_per_angstrom"] == pytest.approx(57.735, abs=1e-3)
    assert found["config_types"]["organic"]["structures"] == 4
    assert Path("pictures/parity.png").read_bytes().startswith(b"\x89PNG")


def test_eval_of_a_committee(run, model, data) -> None:
    """The mean of two models."""
    elements = mlip.load(model).elements
    mlip.create("mace", elements, seed=9, channels=4, correlation=1, radial_mlp=(8,)).save("other.mlip")
    code, _, err = run("eval", model, data, "--with", "other.mlip", "--json", "found.json", "--plot", "pictures")
    assert (code, err) == (0, "")
    both = mlip.Committee([model, "other.mlip"])
    frames = read(data, ":")
    off = np.concatenate([both.predict(a).forces - a.arrays["REF_forces"] for a in frames])
    found = json.loads(Path("found.json").read_text())
    assert found["forces_rmse_mev_per_angstrom"] == pytest.approx(1e3 * np.sqrt(np.mean(off**2)), rel=1e-4)
    assert Path("pictures/parity.png").is_file()
    code, _, err = run("eval", model, data, "--with", model)
    assert code == 2
    assert "the same model" in err


def test_eval_of_several_files_in_another_precision(run, model, data) -> None:
    code, out, err = run("eval", model, data, data, "--dtype", "float32")
    assert (code, err) == (0, "")
    assert out.startswith("24 structures")


def test_eval_with_names_and_units(run, model, place) -> None:
    atoms = molecule("H2O")
    p = mlip.load(model).predict(atoms)
    atoms.info = {"dft_energy": 1e3 * p.energy}
    write("water.xyz", atoms)
    command = ("eval", model, "water.xyz", "--energy-key", "dft_energy", "--energy-unit", "meV")
    code, _, err = run(*command)
    assert code == 2
    assert "no forces under" in err
    code, out, err = run(*command, "--energies-only")
    assert (code, err) == (0, "")
    assert "forces on 0 atoms" in out
    assert next(line for line in out.splitlines() if line.startswith("energy (meV/atom)")).split()[2] == "0.000"


def test_eval_of_a_head(run, two_heads, place) -> None:
    structure = mlip.Structure.create([6, 8], [[0, 0, 0], [0, 0, 1.15]], head="a")
    energies = [p.energy for p in mlip.load(two_heads).evaluate([structure, dataclasses.replace(structure, head="b")])]
    write("co.xyz", Atoms([6, 8], structure.positions, info={"REF_energy": energies[0]}))
    for head, expected in zip("ab", energies, strict=True):
        code, out, err = run("eval", two_heads, "co.xyz", "--energies-only", "--head", head)
        assert (code, err) == (0, "")
        found = next(line for line in out.splitlines() if line.startswith("energy (meV) ")).split()[2]
        assert float(found) == pytest.approx(1e3 * abs(expected - energies[0]), abs=2e-3)


def test_card(run, model, data) -> None:
    command = ("card", model, "-o", "new.mlip", "--validation", data, "--test", f"again={data}", "--training", data,
               data, "--name", "mine", "--licence", "MIT", "--recommended", "Methanol.", "--limits", "Not for gold.",
               "--picoseconds", 0.02)
    code, out, err = run(*command)
    assert (code, err) == (0, "")
    assert [line.split()[1] for line in out.splitlines()] == ["new.mlip", "new.card.md", "new.card.json"]
    info = mlip.load("new.mlip").info
    assert (info.name, info.licence) == ("mine", "MIT")
    assert info.validation["energy_rmse_mev_per_atom"] == pytest.approx(10.0, abs=1e-3)
    assert set(info.card["errors"]) == {"validation", "again"}
    assert info.card["data"]["training"]["structures"] == 24
    assert info.card["speed"]["threads"] == 1
    assert json.loads(Path("new.card.json").read_text())["info"]["card"] == info.card
    text = Path("new.card.md").read_text()
    assert run("models", "show", "new.mlip")[1] == text
    for line in ("# mine", "Methanol.", "- Not for gold.", "## Errors", "| again | 12 | 10 / 10 |", info.sha256):
        assert line in text
    assert mlip.load("new.mlip").predict(molecule("H2O")).energy == mlip.load(model).predict(molecule("H2O")).energy


def test_bad_cards(run, model, data) -> None:
    for arguments, text in ((("--test", "data.xyz"), "NAME=FILE"), (("--test", "validation=data.xyz"), "another name"),
                            (("-o", "new.txt"), ".mlip")):
        code, _, err = run("card", model, "-o", "new.mlip", "--validation", data, *arguments)
        assert code == 2
        assert text in err
    assert not list(Path().glob("new*"))


def test_counts_of_a_stream(data) -> None:
    from mlip.io.dataset import iter_labelled

    assert counts(iter_labelled(data)) == {
        "structures": 12, "atoms": 44, "elements": {"H": 24, "C": 8, "O": 12},
        "config_types": {"organic": 4, "small": 8}}
