"""Every property keeps to one form: settings that are checked, JSON out, a unit for each value, errors that tell."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys

import numpy as np
import pytest
from ase.build import bulk, molecule

from mlip.errors import MissingDependencyError, OptionError, PropertyError, StructureError
from mlip.screening.properties.common import predictions, repeats, settled, symmetry

QUICK = {"eos": {}, "elastic": {}, "phonon": {"supercell": 4.0, "mesh": 10.0}, "vacancy": {"supercell": 4.0},
         "surface": {"thickness": 3.0}, "stability": {"steps": 10, "supercell": 4.0},
         "formation": {"references": {"Cu": -4.0}}}


def module(name: str):
    return importlib.import_module(f"mlip.screening.properties.{name}")


@pytest.mark.parametrize("name", QUICK)
def test_values_are_json_and_have_units(name, elements, relaxed) -> None:
    crystal = relaxed("Cu")
    before = crystal.copy()
    found = module(name).compute(crystal, elements, module(name).Settings(**QUICK[name]))
    assert crystal == before
    assert found == json.loads(json.dumps(found))
    assert set(found) == set(module(name).UNITS)
    assert all(isinstance(unit, str) for unit in module(name).UNITS.values())


@pytest.mark.parametrize("name", [n for n in QUICK if n != "formation"])
def test_molecules_have_no_such_property(name, binding) -> None:
    with pytest.raises(StructureError, match="three periodic directions"):
        module(name).compute(molecule("H2O"), binding, module(name).Settings())


@pytest.mark.parametrize("name", QUICK)
def test_settings_are_checked_and_do_not_change(name) -> None:
    settings = module(name).Settings()
    json.dumps(dataclasses.asdict(settings))
    fields = [f for f in dataclasses.fields(settings) if f.type in ("int", "float")]
    assert fields or name == "formation"
    for field in fields:
        for wrong in (0, -1, float("nan"), float("inf"), "1", None, True, *((1.5,) if field.type == "int" else ())):
            with pytest.raises(OptionError, match=field.name):
                module(name).Settings(**{field.name: wrong})
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.steps = 1


@pytest.mark.parametrize(("name", "options"), [("eos", {"strain": 0.5}), ("eos", {"points": 4}),
                                               ("elastic", {"strains": (0.01, 0.02)}), ("elastic", {"strains": ()}),
                                               ("elastic", {"strains": (-0.3, 0.3)})])
def test_settings_that_measure_nothing(name, options) -> None:
    with pytest.raises(OptionError, match="strain"):
        module(name).Settings(**options)


def test_an_endless_relaxation_is_told(elements) -> None:
    crystal = bulk("Cu", cubic=True)
    crystal.rattle(0.1, seed=1)
    with pytest.raises(PropertyError, match=r"the relaxation of this crystal did not converge.* after 1 steps"):
        settled(crystal, elements, 1e-4, 1, "this crystal")


def test_batches_change_nothing(elements, monkeypatch) -> None:
    crystals = [bulk("Cu", a=a) for a in (3.5, 3.6, 3.7)]
    monkeypatch.setattr("mlip.screening.properties.common.ATOMS_PER_BATCH", 2)
    parts = predictions(crystals, elements, stress=False)
    for crystal, part in zip(crystals, parts, strict=True):
        assert part.energy == pytest.approx(elements.predict(crystal).energy, abs=1e-10)
        assert part.stress is None
    assert predictions([], elements) == []


def test_faces_of_supercells_are_far_enough_apart() -> None:
    cell = bulk("Cu", a=3.6)  # its faces are 2.08 A apart, its vectors 2.55 A long
    size = repeats(cell, 10.0)
    assert size == (5, 5, 5)
    for vectors, n in ((cell.repeat(size).cell.array, 10.0), (cell.repeat((4, 4, 4)).cell.array, 8.0)):
        faces = 1 / np.linalg.norm(np.linalg.inv(vectors), axis=0)
        assert faces.min() > n
    assert repeats(bulk("Cu", a=4.0, cubic=True), 8.0) == (2, 2, 2)


def test_spglib_is_needed_for_symmetry(monkeypatch, relaxed) -> None:
    monkeypatch.setitem(sys.modules, "spglib", None)
    with pytest.raises(MissingDependencyError, match=r"mlip-md\[screen\]"):
        symmetry(relaxed("Cu"), 1e-3)


def test_atoms_in_one_place_have_no_symmetry() -> None:
    crystal = bulk("Cu", cubic=True)
    crystal.positions[1] = crystal.positions[0]
    with pytest.raises(PropertyError, match=r"no symmetry .* within 0.001 A: .*(close|one place)"):
        symmetry(crystal, 1e-3)
