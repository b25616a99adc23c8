"""The models of the package: each loads, tells what it is good for, and belongs to a recipe and a log."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import mlip
from mlip.checkpoints import bundled
from mlip.training.recipe import Recipe

TRAINING = Path(__file__).parents[2] / "data" / "training"
NAMES = sorted(bundled())
EXACT = "batch = single", "forces = -dE/dr", "permutation", "rotation", "translation"


@pytest.mark.parametrize("name", NAMES)
def test_tells_what_it_is_good_for(name: str) -> None:
    potential = mlip.load(name)
    info, card = potential.info, potential.info.card
    assert (info.name, str(potential.dtype)) == (name, "torch.float32")
    assert all((info.licence, info.citation, info.training_data, info.description, card["recommended"]))
    assert bundled()[name].stat().st_size < 4 << 20
    assert card["errors"]["validation"]["structures"] == card["data"]["validation"]["structures"] > 0
    assert card["data"]["training"]["structures"] > card["data"]["validation"]["structures"]
    assert "failed" not in card["dynamics"]
    checks = card["checks"]["checks"]
    exact = set(EXACT) if potential.model.rotation_invariant else set(EXACT) - {"rotation"}
    assert all(checks[check]["error"] < checks[check]["limit"] for check in exact)


@pytest.mark.parametrize("name", NAMES)
def test_belongs_to_a_recipe_and_a_log(name: str) -> None:
    recipe, errors = Recipe.read(TRAINING / f"{name}.toml"), mlip.load(name).info.card["errors"]["validation"]
    assert recipe.card["name"] == name
    with (TRAINING / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = errors["energy_rmse_mev_per_atom"], errors["forces_rmse_mev_per_angstrom"]
    logged = [(float(row["energy_rmse"]), float(row["forces_rmse"])) for row in rows]
    assert any(found == pytest.approx(row, rel=2e-3) for row in logged[-len(logged) // 2 :])
    assert int(rows[-1]["epoch"]) == sum(stage.epochs for stage in recipe.training.parts)
