"""`mlip bench learned-symmetry`: runs with and without the loss of the embeddings, and what is made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import molecule

import mlip
from mlip.bench.learned_symmetry import MEASURES, bench_learned_symmetry, measured, table
from mlip.bench.rows import Row, save
from mlip.errors import OptionError
from mlip.graph.labelled import Labelled
from mlip.io.ase import structure_of
from mlip.training import TrainingConfig
from mlip.verify.symmetry import symmetry_report

MODEL: dict[str, Any] = {"channels": 16, "num_layers": 1, "num_heads": 2, "num_gaussians": 6, "cutoff": 4.0}
CONFIG = TrainingConfig(epochs=2, batch_size=3, learning_rate=0.001, ema_decay=0.5)
ISOLATED = {"H": -13.6, "O": -2040.0}


@pytest.fixture(scope="module")
def data() -> list[Labelled]:
    """Distorted water with the energies and forces of a random MACE."""
    teacher = mlip.create("mace", ["H", "O"], seed=1, dtype="float64", channels=4, edge_lmax=1, radial_mlp=(8,))
    generator, found = np.random.default_rng(0), []
    for _ in range(10):
        atoms = molecule("H2O")
        atoms.positions += generator.normal(0, 0.1, (3, 3))
        p = teacher.predict(atoms)
        found.append(Labelled(structure_of(atoms), p.energy - 2067.2, p.forces))
    return found


@pytest.fixture(scope="module")
def rows(data: list[Labelled], tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    return bench_learned_symmetry(data[:7], data[7:], tmp_path_factory.mktemp("runs"), seeds=(0, 1),
                                  weights=((0.0, 0.0), (10.0, 0.5)), config=CONFIG, isolated=ISOLATED, **MODEL)


def test_rows(rows: list[Row], data: list[Labelled], tmp_path: Path) -> None:
    assert [(r["seed"], r["latent_weight"], r["torque_weight"]) for r in rows] == [
        (0, 0.0, 0.0), (0, 10.0, 0.5), (1, 0.0, 0.0), (1, 10.0, 0.5)]
    for row in rows:
        assert all(0 < row[name] < np.inf for name in MEASURES)
        assert row["structures"] == [7, 3]
        assert (row["training"]["latent_weight"], row["training"]["seed"]) == (row["latent_weight"], row["seed"])
        assert (row["model"]["channels"], row["training"]["epochs"]) == (16, 2)
    assert len({r["forces_rmse"] for r in rows}) == 4
    save(rows, tmp_path / "rows.json")
    assert table(json.loads((tmp_path / "rows.json").read_text())) == table(rows)


def test_measures(data: list[Labelled]) -> None:
    """In meV, of a model that was not trained, from plain predictions."""
    potential = mlip.create("transip", ["H", "O"], seed=0, dtype="float64", **MODEL)
    found = measured(potential, data[7:])
    assert set(found) == set(MEASURES)
    predictions = potential.evaluate([e.structure for e in data[7:]])
    energy = [(p.energy - e.energy) / 3 for p, e in zip(predictions, data[7:], strict=True)]
    forces = np.array([p.forces - e.forces for p, e in zip(predictions, data[7:], strict=True)])
    assert found["energy_mae"] == pytest.approx(1000 * np.mean(np.abs(energy)), rel=1e-9)
    assert found["forces_mae"] == pytest.approx(1000 * np.mean(np.abs(forces)), rel=1e-9)
    assert found["forces_rmse"] == pytest.approx(1000 * np.sqrt(np.mean(forces**2)), rel=1e-9)
    reports = [symmetry_report(potential, molecule_of(e), 32) for e in data[7:]]
    spread = np.sqrt(np.mean([(1000 * r.energy_rot_std / 3) ** 2 for r in reports]))
    assert found["energy_rot_std_mev_per_atom"] == pytest.approx(spread, rel=1e-4)


def molecule_of(example: Labelled) -> Any:
    atoms = molecule("H2O")
    atoms.positions = example.structure.positions
    return atoms


def test_the_same_call_again(data: list[Labelled], tmp_path: Path) -> None:
    """Nothing is trained twice, and the numbers are those of the first time."""
    def run() -> list[Row]:
        return bench_learned_symmetry(data[:7], data[7:], tmp_path, seeds=(3,), weights=((0.0, 0.0),), config=CONFIG,
                                      isolated=ISOLATED, **MODEL)

    (first,) = run()
    folder = tmp_path / "latent-0-torque-0-seed-3"
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    (second,) = run()
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == files
    assert {n: first[n] for n in MEASURES} == {n: second[n] for n in MEASURES}


def test_table(rows: list[Row]) -> None:
    lines = table(rows).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:5]]
    assert cells[0] == ["latent weight", "torque weight", "seeds", *MEASURES.values()]
    assert [row[:3] for row in cells[2:]] == [["0", "0", "2"], ["10", "0.5", "2"], ["10", "0.5", "improvement"]]
    place = cells[0].index(MEASURES["forces_rmse"])
    zero, ten = ([r["forces_rmse"] for r in rows if r["latent_weight"] == w] for w in (0.0, 10.0))
    assert cells[2][place] == f"{np.mean(zero):.3g} +- {np.std(zero, ddof=1):.3g}"
    better = 100 * (1 - np.divide(ten, zero))
    assert cells[4][place] == f"{np.mean(better):.1f} +- {np.std(better, ddof=1):.1f} %"
    assert lines[-1].startswith("TransIP, 16 channels, 1 layers, cutoff 4 A; 7 structures, 2 epochs of batches of 3")
    alone = table([r for r in rows if r["seed"] == 0])
    assert "+-" not in alone
    assert len(alone.splitlines()[2].split("|")) == 2 + 3 + len(MEASURES)


@pytest.mark.parametrize("options", [{"weights": ((1.0, 0.0),)}, {"weights": ()}, {"seeds": ()}, {"test": []}], ids=str)
def test_nothing_to_compare_with(options: dict[str, Any], data: list[Labelled], tmp_path: Path) -> None:
    test = options.pop("test", data[7:])
    with pytest.raises(OptionError, match="for comparison, at least one seed and a test set"):
        bench_learned_symmetry(data[:7], test, tmp_path / "runs", config=CONFIG, isolated=ISOLATED, **options, **MODEL)
    assert not (tmp_path / "runs").exists()
