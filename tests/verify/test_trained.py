"""What a run leaves for people: it says what the recipe says now, and what can fail does so before the first step."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.io import write

from mlip import load
from mlip.errors import DataError, OptionError, StructureError
from mlip.training import Recipe, check, load_data, run
from mlip.training.sources import DataConfig
from mlip.verify.trained import document, set_names

MODEL = {"channels": 2, "edge_lmax": 1, "hidden_lmax": 0, "num_layers": 1, "correlation": 1, "radial_mlp": [8],
         "cutoff": 3.5}
FAST = {"epochs": 2, "batch_size": 4, "energy_weight": 100.0}


def labelled(count: int, seed: int, forces: bool = True) -> list[Atoms]:
    """Return rattled molecules with the energies, and forces, of EMT."""
    frames = []
    for i in range(count):
        atoms = molecule("CH3OH")
        atoms.rattle(0.05, seed=100 * seed + i)
        atoms.calc = EMT()
        plain = Atoms(atoms.symbols, atoms.positions)
        plain.info["REF_energy"] = atoms.get_potential_energy()
        if forces:
            plain.arrays["REF_forces"] = atoms.get_forces()
        frames.append(plain)
    return frames


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with files to train on and to test with."""
    (tmp_path / "hot").mkdir()
    for name, count in {"train": 12, "test": 2, "hot/test": 3, "validation": 2}.items():
        write(tmp_path / f"{name}.xyz", labelled(count, count))
    write(tmp_path / "bare.xyz", labelled(12, 1, forces=False))
    return tmp_path


def recipe(place: Path, training: dict[str, Any] | None = None, card: dict[str, str] | None = None,
           **data: Any) -> Recipe:
    """Return a recipe for a tiny model."""
    return Recipe.from_dict({"data": {"train": "train.xyz", "valid_fraction": 0.2, **data}, "model": MODEL,
                             "training": {**FAST, **(training or {})}, "card": card or {}}, place)


def made(asked: Recipe, folder: Path) -> Path:
    """Train, or resume, and document."""
    (best,) = run(asked, folder, report=str)
    return document(asked, folder, best)


def test_a_card_says_what_the_recipe_says_now(place: Path) -> None:
    folder, texts = place / "run", {"name": "first", "licence": "MIT", "limits": "Not for ice.", "description": "Old."}
    path = made(recipe(place, card=texts), folder)
    before = path.stat().st_mtime_ns
    assert made(recipe(place, card=texts), folder) == path
    assert path.stat().st_mtime_ns == before  # nothing to do
    weights = load(path)
    changed = recipe(place, card={"name": "second", "licence": "CC-BY-4.0", "description": "New."},
                     test=["test.xyz", "hot/test.xyz", "validation.xyz"])
    again = load(made(changed, folder))
    assert (again.info.name, again.info.licence, again.info.description) == ("second", "CC-BY-4.0", "New.")
    assert "Not for ice." not in again.info.card["limits"]
    found = {name: errors["structures"] for name, errors in again.info.card["errors"].items()}
    assert found == {"validation": 2, "test": 2, "test-2": 3, "validation-2": 2}
    assert {f.name for f in folder.glob("parity-*")} == {f"parity-{name}.png" for name in found}
    for old, new in zip(weights.model.parameters(), again.model.parameters(), strict=True):
        assert old.equal(new)


def test_energies_alone(place: Path) -> None:
    asked = recipe(place, {"forces_weight": 0.0}, train="bare.xyz", test="test.xyz")
    potential = load(made(asked, place / "run"))
    assert "energy_rmse_mev_per_atom" in potential.info.validation
    assert "forces_rmse_mev_per_angstrom" not in potential.info.validation
    assert potential.info.card["errors"]["test"]["structures"] == 2


def test_names_of_sets() -> None:
    files = ["a/test.xyz.gz", "b/test.xyz", "test-2.xyz", "run.1.xyz", "run.2.db", "training.xyz", "folder"]
    assert set_names(files) == ["test", "test-2", "test-2-2", "run.1", "run.2", "training-2", "folder"]


@pytest.mark.parametrize("name", ["org/model", "..", ".hidden", "a\\b", "c:model"])
def test_names_of_no_file(place: Path, name: str) -> None:
    with pytest.raises(OptionError, match="name is also that of a file"):
        recipe(place, card={"name": name})


def test_what_cannot_be_tested_is_refused_at_once(place: Path) -> None:
    frames = labelled(3, 1)
    frames[2].info["charge"] = 1
    write(place / "charged.xyz", frames)
    for asked in (recipe(place, test="charged.xyz"), recipe(place, train=["train.xyz", "charged.xyz"])):
        for attempt in (run, check):
            with pytest.raises(StructureError, match=r"^structure 2 of charged\.xyz: .*charge"):
                attempt(asked, place / "run")
    assert not (place / "run" / "log.csv").exists()


def test_a_seed_that_is_none(place: Path) -> None:
    with pytest.raises(OptionError, match="seed must be a whole number from 0; -1"):
        run(recipe(place), place / "run", seeds=[0, -1], report=str)
    assert not (place / "run" / "seed-0").exists()


@pytest.mark.parametrize(("rate", "told"), [(3.0, True), (1e-3, False)])
def test_a_run_that_learns_nothing_says_so(place: Path, rate: float, told: bool) -> None:
    said: list[str] = []
    run(recipe(place, {"learning_rate": rate, "max_gradient": 0.0}), place / "run", report=said.append)
    assert said[-1].startswith("warning: no validation was better than that of the start") is told


def test_a_stage_that_cannot_be_validated(place: Path) -> None:
    stressed = []
    for i, frame in enumerate([bulk("Cu", cubic=True) for _ in range(6)]):
        frame.rattle(0.05, seed=i)
        frame.calc = EMT()
        frame.info |= {"REF_energy": frame.get_potential_energy(), "REF_stress": frame.get_stress()}
        frame.arrays["REF_forces"] = frame.get_forces()
        frame.calc = None
        stressed.append(frame)
    write(place / "crystals.xyz", stressed[:4])
    for frame in stressed[4:]:
        del frame.info["REF_stress"]
    write(place / "bare-crystals.xyz", stressed[4:])
    stages = [{"epochs": 1}, {"epochs": 1, "energy_weight": 0.0, "forces_weight": 0.0, "stress_weight": 1e4}]
    asked = recipe(place, {"stages": stages}, train="crystals.xyz", valid="bare-crystals.xyz")
    with pytest.raises(DataError, match="training is of stress, which no structure of the validation has"):
        run(asked, place / "run", report=str)


def test_rare_elements_are_not_held_out(place: Path) -> None:
    frames = labelled(40, 1)
    for frame, symbol in zip(frames, ("Ni", "Pd", "Pt", "Ag", "Au", "Al"), strict=False):
        frame.symbols[0] = symbol
    write(place / "rare.xyz", frames)
    config = DataConfig(train=("rare.xyz",), valid_fraction=0.5)
    for seed in range(4):
        data = load_data(dataclasses.replace(config, seed=seed), place / "run", place)
        known = set(np.concatenate([e.structure.numbers for e in data.training]).tolist())
        assert known == {1, 6, 8, 13, 28, 46, 47, 78, 79}
        assert len(data.training) + len(data.validation) == 40
        assert 14 <= len(data.validation) <= 20
