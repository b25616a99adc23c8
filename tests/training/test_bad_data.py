"""Data that no model should be trained on: each a typed error, before the first step, that says what to do."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

from mlip.errors import DataError, MLIPError, OptionError
from mlip.training.preflight import preflight
from mlip.training.sources import DataConfig, load_data
from mlip.units import BOHR, HARTREE

Frames = list[Atoms]
Spoil = Callable[[Frames], Any]


def each(change: Callable[[Atoms], Any]) -> Spoil:
    return lambda frames: [change(atoms) for atoms in frames]


def third(change: Callable[[Atoms], Any]) -> Spoil:
    return lambda frames: change(frames[3])


def set_info(**values: Any) -> Callable[[Atoms], Any]:
    return lambda atoms: atoms.info.update(values)


def scaled(energy: float = 1.0, forces: float = 1.0, length: float = 1.0,
           stress: float = 1.0) -> Callable[[Atoms], None]:
    """Give labels in another unit than the table says."""
    def change(atoms: Atoms) -> None:
        atoms.info["REF_energy"] *= energy
        atoms.info["REF_stress"] = np.asarray(atoms.info["REF_stress"]) * stress
        atoms.arrays["REF_forces"] *= forces
        atoms.set_cell(atoms.cell * length, scale_atoms=True)
    return change


def rename(old: str, new: str) -> Callable[[Atoms], None]:
    def change(atoms: Atoms) -> None:
        place = atoms.info if old in atoms.info else atoms.arrays
        place[new] = place.pop(old)
    return change


def one_force(value: float) -> Callable[[Atoms], None]:
    def change(atoms: Atoms) -> None:
        atoms.arrays["REF_forces"][2, 1] = value
    return change


def gas(atoms: Atoms) -> None:
    atoms.positions *= 30.0
    atoms.pbc = False


def lone(symbol: str, energy: float) -> Atoms:
    return Atoms(symbol, info={"REF_energy": energy})


def strange_element(frames: Frames) -> None:
    frames[3].numbers[:] = 28


CASES: dict[str, tuple[Spoil, dict[str, Any], str]] = {
    # labels that are missing, or under another name
    "no forces": (each(lambda a: a.arrays.pop("REF_forces")), {}, r"structure 0 of train.xyz .* no forces under"),
    "no forces in one": (third(lambda a: a.arrays.pop("REF_forces")), {}, r"structure 3 of .* no forces under"),
    "forces under another name": (each(rename("REF_forces", "dft_forces")), {}, r"dft_forces; name .* forces_key"),
    "no energy": (each(lambda a: a.info.pop("REF_energy")), {}, r"has no energy \(REF_energy or energy\)"),
    "energy under another name": (each(rename("REF_energy", "pbe_energy")), {}, r"pbe_energy; name .* energy_key"),
    "named forces": (each(set_info()), {"forces_key": "my_forces"}, r"no forces under my_forces; .* REF_forces"),
    "named energy": (each(set_info()), {"energy_key": "my_energy"}, r"no energy \(my_energy\); .* REF_energy"),
    "named stress": (each(set_info()), {"stress_key": "my_stress"}, r"no stress under my_stress .* virials are not"),
    "only virials": (each(rename("REF_stress", "REF_virial")), {}, r"no training structure .* stress = -virial"),
    "named group": (each(set_info()), {"config_type_key": "kind"}, r"has no kind; .* config_type_key"),
    "two methods": (third(rename("REF_energy", "energy")), {}, r"structure 3 .* under energy, forces, stress, those "),
    # labels that are no labels
    "NaN energy": (third(set_info(REF_energy=np.nan)), {}, r"structure 3 .* REF_energy .* NaN or infinite"),
    "NaN force": (third(one_force(np.nan)), {}, r"structure 3 .* REF_forces .* NaN or infinite"),
    "infinite stress": (third(set_info(REF_stress=np.full(6, np.inf))), {}, r"structure 3 .* REF_stress .* NaN or inf"),
    "energy of text": (third(set_info(REF_energy="low")), {}, r"structure 3 .* REF_energy are no numbers"),
    "stress of five": (third(set_info(REF_stress=np.ones(5))), {}, r"structure 3 .* 5 numbers; a stress has 6"),
    "skew stress": (third(set_info(REF_stress=np.arange(9.0).reshape(3, 3))), {}, r"structure 3 .* not symmetric"),
    "flat forces": (third(lambda a: a.arrays.update(REF_forces=np.zeros(8))), {}, r"shape \(8,\); 8 atoms need"),
    "half a charge": (third(set_info(charge=0.5)), {}, r"structure 3 .* charge must be a whole number"),
    # units
    "energies in Hartree": (each(scaled(energy=1 / HARTREE)), {}, r"change by 0.03.* times the work"),
    "forces in Hartree/Bohr": (each(scaled(forces=BOHR / HARTREE)), {}, r"by [45]\d.* times the work .* Hartree"),
    "gradients": (each(scaled(forces=-1.0)), {}, r"opposite sign"),
    "positions in Bohr": (each(scaled(length=1 / BOHR)), {}, r"covalent radii apart; .* length_unit"),
    "positions in nm": (each(scaled(length=0.1)), {}, r"structure 0 .* Angstrom|structure .* A apart"),
    "Angstrom that are no nm": (each(set_info()), {"length_unit": "nm"}, r"no atom has a neighbour"),
    "stress in kbar": (each(scaled(stress=1602.0)), {}, r"GPa\), structure .* the largest; set stress_unit"),
    "isolated in Hartree": (each(set_info()), {"isolated_energies": {"Cu": -45000.0}}, r"isolated atoms is 45"),
    "one wrong energy": (third(set_info(REF_energy=1e6)), {}, r"structure 3 .* energy_unit, or leave"),
    "one wrong force": (third(one_force(1e4)), {}, r"structure 3 .* force of 10000 eV/A"),
    # structures
    "flat cell": (third(lambda a: a.set_cell([[1, 0, 0], [2, 0, 0], [0, 0, 3]])), {}, r"structure 3 .* dependent"),
    "no cell": (third(lambda a: a.set_cell(np.zeros((3, 3)))), {}, r"structure 3 .* cell vector is zero"),
    "two atoms in one place": (third(lambda a: a.positions.__setitem__(1, a.positions[0] + 0.01)), {}, r"0\.017 A"),
    "far apart": (each(gas), {}, r"no atom has a neighbour within the cutoff of 5 A"),
    "isolated atoms that differ": (lambda f: f.extend([lone("Cu", -1.0), lone("Cu", -2.0)]), {}, r"second isolated"),
    "an isolated atom too few": (each(set_info()), {"isolated_energies": {"Ni": 0.0}}, r"atom\(s\) Cu have no"),
    "nothing": (lambda f: f.clear(), {}, r"holds no structures|no file"),
    "one structure": (lambda f: f.__delitem__(slice(1, None)), {}, r"1 structure\(s\) to train on are too few"),
    "isolated atoms alone": (lambda f: f.__setitem__(slice(None), [lone("Cu", -1.0)]), {}, r"0 structure\(s\)"),
    "only copies": (lambda f: f.__setitem__(slice(None), [f[0].copy() for _ in range(9)]), {}, r"copies of others"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_is_refused(case: str, crystals: Callable[..., Frames], save: Callable[[str, Frames], Path],
                         tmp_path: Path) -> None:
    spoil, table, text = CASES[case]
    frames = crystals()
    spoil(frames)
    save("train.xyz", frames)
    with pytest.raises(DataError, match=text):
        preflight(load_data(DataConfig.from_table({"train": "train.xyz", **table}), tmp_path, tmp_path), cutoff=5.0,
                  stress=True)


def test_the_same_data_unspoiled(crystals: Callable[..., Frames], save: Callable[[str, Frames], Path],
                                 tmp_path: Path) -> None:
    save("train.xyz", crystals())
    report = preflight(load_data(DataConfig.from_table({"train": "train.xyz"}), tmp_path, tmp_path), cutoff=5.0,
                       stress=True)
    assert report.warnings == ()
    assert report.work["ratio"] == pytest.approx(1.0, abs=0.1)
    assert report.work["correlation"] > 0.95


@pytest.mark.parametrize(("change", "text"), [
    (strange_element, r"structure 3 of valid.xyz \(validation\) holds Ni, which no training structure has"),
    (lambda f: f.__setitem__(3, None), r"structure 3 of valid.xyz \(validation\) is structure 5 of train.xyz"),
])
def test_parts_that_do_not_fit(change: Spoil, text: str, crystals: Callable[..., Frames],
                               save: Callable[[str, Frames], Path], tmp_path: Path) -> None:
    training, valid = crystals(), crystals(8, seed=1)
    change(valid)
    if valid[3] is None:  # a copy, its atoms in another order
        valid[3] = training[5][np.random.default_rng(0).permutation(8)]
    save("train.xyz", training)
    save("valid.xyz", valid)
    config = DataConfig.from_table({"train": "train.xyz", "valid": "valid.xyz"})
    with pytest.raises(DataError, match=text):
        preflight(load_data(config, tmp_path, tmp_path), cutoff=5.0, stress=False)


@pytest.mark.parametrize(("content", "name", "text"), [
    ("2\nProperties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=1.0\nH 0 0 0 0 0 0\n", "train.xyz", "1 of 2 atoms"),
    ("once upon a time\n", "train.xyz", "cannot be read"),
    (pickle.dumps({"pos": [0, 0, 0]}), "train.lmdb", "cannot be read"),
    (b"junk", "train.db", "cannot be read"),
    (None, "absent.xyz", "there is no file"),
    (None, ".", "folder without LMDB files"),
])
def test_files_that_are_none(content: str | bytes | None, name: str, text: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError, match=text):
        load_data(DataConfig.from_table({"train": name}), tmp_path / "run", tmp_path)
    assert not list(tmp_path.glob("run/data*"))  # nothing that a second try would take for the data


@pytest.mark.parametrize(("table", "text"), [
    ({}, "train is missing"), ({"train": []}, "train is empty"), ({"train": 3}, "list of files; 3 was given"),
    ({"train": ["a", 1]}, "list of files"), ({"train": "a", "tset": "b"}, r"unknown .* tset; allowed are train"),
    ({"train": "a", "valid_fraction": 1.0}, "between 0 and 1; 1.0"), ({"train": "a", "seed": -1}, "seed must be"),
    ({"train": "a", "energy_unit": "ev"}, "energy must be one of eV, meV, Hartree.*'ev' was given"),
    ({"train": "a", "length_unit": "A"}, "length must be one of Angstrom, Bohr, nm; 'A'"),
    ({"train": "a", "stress_unit": "Pa"}, "stress must be one of"), ({"train": "a", "forces_key": 3}, "must be a text"),
    ({"train": "a", "isolated": "b", "isolated_energies": {"H": -1.0}}, "give one"),
    ({"train": "a", "isolated_energies": {"Xx": 1.0}}, "by symbol"),
    ({"train": "a", "isolated_energies": {"H": float("nan")}}, "by symbol"),
    ({"train": "a", "isolated_energies": [1]}, "by symbol"),
])
def test_tables_that_are_none(table: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        DataConfig.from_table(table)


def test_a_file_in_two_parts(crystals: Callable[..., Frames], save: Callable[[str, Frames], Path],
                             tmp_path: Path) -> None:
    path = save("train.xyz", crystals(4))
    for table in ({"train": ["train.xyz", "train.xyz"]}, {"train": "train.xyz", "test": str(path)}):
        with pytest.raises(DataError, match="given twice"):
            load_data(DataConfig.from_table(table), tmp_path, tmp_path)
    assert issubclass(DataError, MLIPError)
