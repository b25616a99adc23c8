"""Names, units and stress of labels."""

from __future__ import annotations

from pathlib import Path

import ase.units
import numpy as np
import pytest

from mlip.errors import DataError, OptionError
from mlip.io.dataset import iter_labelled, read_labelled
from mlip.io.labels import Keys, Units

HEAD = 'Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:'
ROWS = "H 0 0 0 1 2 3\nH 0 0 1 4 5 6"


def write(folder: Path, *frames: str) -> Path:
    path = folder / "data.xyz"
    path.write_text("".join(f"{len(rows.splitlines())}\n{comment}\n{rows}\n" for comment, _, rows in
                            (frame.partition("\n") for frame in frames)))
    return path


def test_units_beside_those_of_ase(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + f'REF_forces:R:3 REF_energy=-2.5 REF_stress="1 2 3 4 5 6"\n{ROWS}')
    (plain,) = read_labelled(path)
    for name, factor in (("eV", 1.0), ("meV", 1e-3), ("Hartree", ase.units.Hartree), ("Ry", ase.units.Rydberg),
                         ("kcal/mol", ase.units.kcal / ase.units.mol), ("kJ/mol", ase.units.kJ / ase.units.mol)):
        for length, size in (("Angstrom", 1.0), ("Bohr", ase.units.Bohr), ("nm", ase.units.nm)):
            (found,) = read_labelled(path, units=Units(name, length))
            assert found.energy == pytest.approx(plain.energy * factor, rel=1e-7)
            np.testing.assert_allclose(found.forces, plain.forces * factor / size, rtol=1e-7)
            np.testing.assert_allclose(found.structure.positions, plain.structure.positions * size, rtol=1e-7)
            np.testing.assert_allclose(found.structure.cell, plain.structure.cell * size, rtol=1e-7)
            np.testing.assert_array_equal(found.stress, plain.stress)
    for name, factor in (("GPa", ase.units.GPa), ("kbar", 0.1 * ase.units.GPa)):
        (found,) = read_labelled(path, units=Units(stress=name))
        np.testing.assert_allclose(found.stress, plain.stress * factor, rtol=1e-7)
    with pytest.raises(OptionError, match="energy must be one of eV"):
        Units("cal")


def test_stress_in_all_shapes(tmp_path: Path) -> None:
    expected = [[1, 6, 5], [6, 2, 4], [5, 4, 3]]
    for name, text in (("REF_stress", "1 2 3 4 5 6"), ("REF_stress", "1 6 5 6 2 4 5 4 3"),
                       ("stress", "1 6 5 6 2 4 5 4 3")):
        energy = name.replace("stress", "energy")
        forces = name.replace("stress", "forces")
        (found,) = read_labelled(write(tmp_path, HEAD + f'{forces}:R:3 {energy}=1 {name}="{text}"\n{ROWS}'))
        assert found.stress is not None
        assert found.stress.tolist() == expected


def test_stress_where_it_is(tmp_path: Path) -> None:
    with_stress = HEAD + f'REF_forces:R:3 REF_energy=1 REF_stress="1 2 3 4 5 6"\n{ROWS}'
    without = HEAD + f"REF_forces:R:3 REF_energy=1\n{ROWS}"
    molecule = f'pbc="F F F" {with_stress}'
    for keys in (None, Keys(stress="REF_stress")):
        found = read_labelled(write(tmp_path, without, with_stress, molecule), keys)
        assert [e.stress is not None for e in found] == [False, True, False]
    assert len(read_labelled(write(tmp_path, molecule), Keys(stress="REF_stress"))) == 1  # nothing has a volume
    with pytest.raises(DataError, match="no stress under REF_stress"):
        read_labelled(write(tmp_path, without), Keys(stress="REF_stress"))


def test_named_keys(tmp_path: Path) -> None:
    both = HEAD + f"forces:R:3:my_f:R:3 energy=-1 REF_energy=-2 my_e=-3 kind=5\n{ROWS.replace('1 2 3', '1 2 3 7 7 7')}"
    path = write(tmp_path, both.replace("4 5 6", "4 5 6 8 8 8"))
    (found,) = read_labelled(path, Keys("my_e", "my_f", config_type="kind"))
    assert (found.energy, found.config_type) == (-3.0, "5")
    assert found.forces is not None
    assert found.forces[1].tolist() == [8, 8, 8]
    (found,) = read_labelled(path, Keys("my_e"))  # of whatever method: the forces that are there
    assert found.forces is not None
    assert found.forces[1].tolist() == [4, 5, 6]
    with pytest.raises(DataError, match=r"no forces under REF_forces; .* forces, my_f; name"):
        read_labelled(path)


def test_energies_alone(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD + f"f:R:3 REF_energy=1\n{ROWS}")
    assert [e.forces for e in iter_labelled(path, forces=False)] == [None]


def test_it_streams(tmp_path: Path) -> None:
    """What comes before a damaged place is yielded, and the place is named."""
    good = HEAD + f"REF_forces:R:3 REF_energy=1\n{ROWS}"
    path = write(tmp_path, good, good, good)
    path.write_text(path.read_text() + "2\nhalf")
    stream = iter_labelled(path)
    assert [next(stream).energy for _ in range(3)] == [1.0] * 3
    with pytest.raises(DataError, match=r"from number 3 on: .* 0 of 2 atoms"):
        next(stream)
