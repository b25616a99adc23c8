"""Model cards: what they say is what was measured, and files keep it."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

import mlip
from mlip import Potential
from mlip.checkpoints import ModelInfo
from mlip.checkpoints import format as file_format
from mlip.checkpoints.card import card_dict, failures, markdown
from mlip.errors import ModelFileError, OptionError
from mlip.graph.labelled import Labelled
from mlip.io.ase import structure_of
from mlip.training import evaluate_on
from mlip.verify.card import make_card, representative, stamped
from mlip.verify.checks import binding
from mlip.verify.model import pairs_of, verify_model


def labelled(potential: Potential, atoms: Any, count: int, kind: str = "") -> list[Labelled]:
    """Return rattled structures with the labels of the potential, 0.01 eV too high."""
    found = []
    for seed in range(count):
        moved = atoms.copy()
        moved.rattle(0.02 * (seed + 1), seed=seed)
        p = potential.predict(moved)
        assert p.forces is not None
        found.append(Labelled(structure_of(moved), p.energy + 0.01, p.forces, p.stress, kind))
    return found


@pytest.fixture(scope="module")
def potential() -> Potential:
    """A small random MACE."""
    return mlip.create("mace", ["H", "O", "Cu"], seed=1, channels=2, edge_lmax=1, correlation=1, radial_mlp=(8,),
                       cutoff=3.0, pair_repulsion=True)


@pytest.fixture(scope="module")
def card(potential: Potential) -> dict[str, Any]:
    water = labelled(potential, molecule("H2O"), 4, "gas")
    copper = labelled(potential, bulk("Cu", cubic=True), 4, "fcc")
    bare = iter([dataclasses.replace(e, forces=None) for e in water])
    return make_card(potential, water, {"mixed": water + copper, "bare": bare},
                     training=iter(water + copper), recommended="Water.", limits="Not for ice.", picoseconds=0.05)


def test_errors_and_counts(potential: Potential, card: dict[str, Any]) -> None:
    water = labelled(potential, molecule("H2O"), 4, "gas")
    expected = {k: v for k, v in evaluate_on(potential, water).to_dict().items() if not k.startswith("worst")}
    assert card["errors"]["validation"] == expected
    assert card["errors"]["mixed"]["config_types"].keys() == {"gas", "fcc"}
    assert "stress_rmse_gpa" in card["errors"]["mixed"]
    assert "forces_rmse_mev_per_angstrom" not in card["errors"]["bare"]
    assert card["data"]["training"] == card["data"]["mixed"] == {
        "structures": 8, "atoms": 28, "elements": {"H": 8, "O": 4, "Cu": 16}, "config_types": {"gas": 4, "fcc": 4}}


def test_physics(card: dict[str, Any]) -> None:
    assert card["symmetry"]["invariant_by_construction"]
    assert card["symmetry"]["energy_rot_std_mev_per_atom"] < 1e-3
    assert (card["dynamics"]["structure"], card["dynamics"]["timestep_fs"]) == ("H2O", 0.5)
    assert card["dynamics"]["mean_temperature_k"] > 0
    assert np.isfinite([card["dynamics"][k] for k in ("drift_mev_per_atom_per_ps", "fluctuation_mev_per_atom")]).all()
    assert card["checks"]["checks"]["forces = -dE/dr"]["error"] < 1e-7
    assert card["speed"]["atoms_per_second"] == pytest.approx(3e3 / card["speed"]["milliseconds"], rel=0.02)
    assert any("H, O, Cu only" in line for line in card["limits"])
    assert card["limits"][-1] == "Not for ice."


def test_failures_are_told(potential: Potential, card: dict[str, Any]) -> None:
    assert failures(card["checks"]["checks"]) == []
    assert "FAILED" not in markdown(stamped(potential, card, {}))
    for error in (25.3, float("nan")):
        checks = {**card["checks"]["checks"], "rotation": {"error": error, "limit": 1e-8}}
        assert failures(checks) == [f"It fails the check 'rotation': {error:.1e}, at most 1e-08 is right."]
        text = markdown(stamped(potential, {**card, "checks": {**card["checks"], "checks": checks}}, {}))
        assert f"| rotation | {error:.1e} | 1e-08 FAILED |" in text


@pytest.fixture(scope="module")
def steep(potential: Potential) -> Potential:
    """Weights thirty times as large: the energy leaps along a bond."""
    steep = Potential(copy.deepcopy(potential.model), potential.info)
    with torch.no_grad():
        for weight in steep.model.parameters():
            weight.mul_(30.0)
    return steep


def test_a_model_that_is_too_steep_says_so(potential: Potential, steep: Potential) -> None:
    card = make_card(steep, labelled(potential, molecule("H2O"), 2), picoseconds=0.01)
    for name in ("smooth with distance", "binding of two atoms"):
        (said,) = [line for line in card["limits"] if name in line]
        assert said in failures(card["checks"]["checks"])


def test_holes_between_two_atoms(potential: Potential, steep: Potential) -> None:
    """Beside atoms alone, from where dynamics stop to the cutoff; of the elements that occur together."""
    copper, water = bulk("Cu"), molecule("H2O")
    assert pairs_of([copper.numbers, water.numbers]) == [("H", "H"), ("H", "O"), ("O", "O"), ("Cu", "Cu")]
    depth = {}
    for a, b, closest in (("H", "H", 0.36), ("H", "O", 0.51), ("O", "O", 0.66)):
        alone = sum(steep.predict(Atoms(s)).energy for s in (a, b))
        scan = [steep.predict(Atoms([a, b], [[0, 0, 0], [0, 0, r]])).energy for r in np.arange(closest, 3.0, 0.02)]
        depth[a, b] = max(0.0, alone - min(scan))
        assert binding(steep, [(a, b)]) == pytest.approx(depth[a, b], rel=0.05)
    assert binding(steep, [("H", "H"), ("H", "O"), ("O", "O")]) == pytest.approx(max(depth.values()), rel=0.05)
    assert max(depth.values()) > 12.0 > binding(potential, depth)
    assert binding(mlip.create("mace", ["Cu"], channels=2, correlation=1, cutoff=1.0), [("Cu", "Cu")]) == 0.0
    found = {check.name: check for check in verify_model(steep, water)}["binding of two atoms"]
    assert found.error == pytest.approx(max(depth.values()), rel=0.05)
    assert not found.passed


def test_small_cells_are_repeated(potential: Potential) -> None:
    """One atom has nowhere to go."""
    card = make_card(potential, labelled(potential, bulk("Cu"), 2), picoseconds=0.01)
    assert (card["dynamics"]["structure"], card["dynamics"]["atoms"], card["checks"]["atoms"]) == ("Cu8", 8, 8)
    assert card["dynamics"]["mean_temperature_k"] > 0


def test_files_keep_it(potential: Potential, card: dict[str, Any], tmp_path: Path) -> None:
    marked = stamped(potential, card, {"licence": "MIT"})
    again = mlip.load(marked.save(tmp_path / "new.mlip"))
    assert again.info.card == card
    assert again.info.licence == "MIT"
    assert again.info.sha256 == marked.info.sha256 != potential.info.sha256
    assert set(again.info.validation) == {"energy_rmse_mev_per_atom", "energy_mae_mev_per_atom",
                                          "forces_rmse_mev_per_angstrom", "forces_mae_mev_per_angstrom"}
    assert json.loads(json.dumps(card_dict(again))) == card_dict(again)


def test_files_without_a_card_are_as_before(potential: Potential, tmp_path: Path) -> None:
    bare = Potential(potential.model, dataclasses.replace(potential.info, card={}))
    document, _ = file_format.read(bare.save(tmp_path / "copy.mlip"))
    assert document["info"].keys() == bare.info.to_dict().keys() - {"sha256"}
    assert "card" not in document["info"]
    with pytest.raises(ModelFileError, match="card must be a table"):
        ModelInfo.from_dict({**bare.info.to_dict(), "card": "good"})


def test_markdown(potential: Potential, card: dict[str, Any], tmp_path: Path) -> None:
    again = mlip.load(stamped(potential, card, {"name": "small", "description": "a | b"}).save(tmp_path / "new.mlip"))
    text = markdown(again)
    titles = [line for line in text.splitlines() if line.startswith("#")]
    assert titles == ["# small", "## Recommended use", "## Limits", "## Data", "## Errors", "## Rotations",
                      "## Dynamics", "## Derivatives and symmetries", "## Speed", "## Made with"]
    assert "| description | a \\| b |" in text
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    rows = {first: rest for first, *rest in cells}
    assert rows["mixed: fcc"][:2] == ["4", "2.5 / 2.5"]
    assert rows["bare"] == ["-", "-", "-"]  # of its forces, element by element
    counted = [row[0] for row in cells if "".join(row[1:2]) in ("H O", "H O Cu") and row[0] != "elements"]
    assert counted == ["training", "validation", "bare", "mixed"]
    plain = markdown(potential)
    assert [line for line in plain.splitlines() if line.startswith("#")] == ["# mace"]


def test_dynamics_that_fail_are_told(potential: Potential, card: dict[str, Any]) -> None:
    broken = {**card, "dynamics": {"structure": "H2O", "atoms": 3, "temperature_k": 300.0, "failed": "it exploded"}}
    assert "Dynamics of H2O (3 atoms) from 300 K failed: it exploded" in markdown(stamped(potential, broken, {}))


def test_the_representative(potential: Potential) -> None:
    water = labelled(potential, molecule("H2O"), 4)
    strengths = (3.0, 1.0, 2.0, 4.0)
    quiet = [dataclasses.replace(e, forces=np.full((3, 3), f)) for e, f in zip(water, strengths, strict=True)]
    assert representative(quiet) is quiet[1].structure
    atom = Labelled(structure_of(molecule("H")), 0.0, np.zeros((1, 3)))
    crystal = Labelled(structure_of(bulk("Cu").repeat(5)), 0.0, np.zeros((125, 3)))
    assert representative([atom, *quiet, crystal]) is quiet[1].structure
    assert representative([crystal]) is crystal.structure
    with pytest.raises(OptionError, match="validation set"):
        representative([])


def test_names_that_are_taken(potential: Potential) -> None:
    water = labelled(potential, molecule("H2O"), 1)
    with pytest.raises(OptionError, match="another name"):
        make_card(potential, water, {"training": water})
