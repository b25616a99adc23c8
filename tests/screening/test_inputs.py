"""Everything that can be screened is read, under a name that stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io import write

from mlip.errors import OptionError
from mlip.screening import read_inputs
from mlip.screening.inputs import content_hash


def test_a_folder(folder: Path) -> None:
    (folder / "deeper").mkdir()
    write(folder / "deeper" / "POSCAR", bulk("Cu"), format="vasp")
    found = read_inputs(folder)
    assert [e.id.removeprefix(f"{folder}/") for e in found] == [
        "broken.cif#0", "deeper/POSCAR#0", "fcc.cif#0", "gold.vasp#0", "molecule.xyz#0", "pair.xyz#0", "pair.xyz#1"]
    assert found[0].atoms is None
    assert found[0].reason.startswith("StructureError")
    assert all(e.atoms is not None for e in found[1:])


def test_patterns_databases_and_json(tmp_path: Path) -> None:
    for name in ("one.db", "two.json"):
        with connect(tmp_path / name) as database:
            database.write(bulk("Cu"))
            database.write(molecule("CH3OH"))
    lattice = {"matrix": [[3.6, 0, 0], [0, 3.6, 0], [0, 0, 3.6]]}
    sites = [{"species": [{"element": "Cu", "occu": 1}], "abc": [0.5, 0, 0.5]}]
    (tmp_path / "three.json").write_text(json.dumps({"lattice": lattice, "sites": sites}))
    (tmp_path / "four.json").write_text(json.dumps([{"lattice": lattice, "sites": [{**sites[0], "species": [
        {"element": "Cu", "occu": 0.5}, {"element": "Au", "occu": 0.5}]}]}]))
    found = {e.id.rpartition("/")[2]: e for e in read_inputs([f"{tmp_path}/*.db", f"{tmp_path}/*.json"])}
    assert list(found) == ["four.json#0", "one.db#0", "one.db#1", "three.json#0", "two.json#0", "two.json#1"]
    assert "disordered" in found["four.json#0"].reason
    cell = found["three.json#0"].atoms
    assert cell is not None
    assert cell.positions.tolist() == [[1.8, 0.0, 1.8]]
    assert cell.pbc.all()
    assert found["one.db#1"].hash == found["two.json#1"].hash


class Foreign:
    """What pymatgen's structures have for ASE."""

    def to_ase_atoms(self) -> Atoms:
        return bulk("Cu")


def test_structures_go_by_their_content() -> None:
    found = read_inputs([bulk("Cu"), Foreign(), molecule("H2O")])
    assert sorted(e.id for e in found) == [e.id for e in found]
    same = [e for e in found if e.hash == content_hash(bulk("Cu"))]
    assert [e.id for e in same] == [same[0].hash[:12], same[0].hash[:12] + "-2"]


def test_what_counts_for_the_hash() -> None:
    base = bulk("Cu")
    moved, charged, held, named = base.copy(), base.copy(), base.copy(), base.copy()
    moved.positions[0, 0] += 1e-12
    charged.info["charge"] = 1
    held.set_constraint(FixAtoms([0]))
    named.info["comment"] = "nothing to the model"
    assert len({content_hash(a) for a in (base, moved, charged, held)}) == 4
    assert content_hash(named) == content_hash(base)


@pytest.mark.parametrize("what", [[], 3, [3], "nothing-here-*.cif", ["absent.cif"]])
def test_refused(what: object) -> None:
    with pytest.raises(OptionError):
        read_inputs(what)
