"""Extended XYZ read here is what ASE reads."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import iread, read, write

from mlip.io.extxyz import iter_extxyz
from mlip.io.frames import Frame, iter_frames

COMMENTS = [
    'Properties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=-1.5 pbc="F F F"',
    'Lattice="5 0 0 0.5 6 0 0 -0.25 7" Properties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=-1.5 note="a b = c"',
    'Lattice="5.0 0.0 0.0 0.0 6.0 0.0 0.0 0.0 7.0" pbc="T F T" Properties=species:S:1:pos:R:3:f:R:3 s="1 2 3 4 5 6"',
    "Properties=species:S:1:pos:R:3:f:R:3 stress='1 2 3 2 4 5 3 5 6' done",
    "Properties=species:S:1:pos:R:3:f:R:3 {a b}=[1 2 3] x=\\\"y\\\" uid=007",
    "Properties=species:S:1:pos:R:3:f:R:3 REF_energy=1e-3 n=3 word=abc flag=T list=\"1.5 2\" REF_energy=2",
    "Properties=species:S:1:f:R:3:pos:R:3 e=-1",
    "Properties=species:S:1:pos:R:3:q:R:1:tags:I:2 e=-1",
    "Properties=species:S:1:pos:R:3:name:S:1:x:R:2 e=-1",
    "",
]
ROWS = "H 0.1 -2e-1 3 1 0 0\nO 1.0 1.5 2.25 0 1 2\nCl 3 4 5 7 8 9\n"


def text_of(comment: str) -> str:
    return f"3\n{comment}\n{ROWS}"


def read_here(text: str) -> list[Frame]:
    return [Frame.of_atoms(c) if isinstance(c, Atoms) else Frame(*c) for c in iter_extxyz(io.StringIO(text))]


def assert_same(ours: Frame, theirs: Frame) -> None:
    assert np.array_equal(ours.numbers, theirs.numbers)
    assert np.array_equal(ours.positions, theirs.positions)
    assert np.array_equal(np.zeros((3, 3)) if ours.cell is None else ours.cell, theirs.cell)
    assert np.array_equal(np.broadcast_to(ours.pbc, 3), theirs.pbc)
    mine, other = ({**frame.arrays, **frame.info} for frame in (ours, theirs))
    for name in set(other) - {"numbers", "positions", "stress"}:
        assert np.array_equal(mine[name], other[name]), name
        assert np.asarray(mine[name]).dtype == np.asarray(other[name]).dtype


@pytest.mark.parametrize("comment", COMMENTS)
def test_the_words_of_a_comment(comment: str) -> None:
    text = text_of(comment)
    (ours,) = read_here(text)
    assert_same(ours, Frame.of_atoms(read(io.StringIO(text), format="extxyz")))


def test_the_usual_frame_is_not_read_by_ase() -> None:
    found = [isinstance(next(iter_extxyz(io.StringIO(text_of(comment)))), Atoms) for comment in COMMENTS]
    assert found == [False] * 7 + [True] * 3  # the last has columns that nothing names


def test_stress_of_nine_numbers() -> None:
    (ours,) = read_here(text_of(COMMENTS[3]))
    assert np.asarray(ours.info["stress"]).tolist() == [[1, 2, 3], [2, 4, 5], [3, 5, 6]]


def test_files_that_ase_writes(tmp_path: Path) -> None:
    rng, frames = np.random.default_rng(0), []
    for i in range(6):
        atoms = molecule("CH3OH") if i % 2 else bulk("NaCl", "rocksalt", a=5.6) * (1, 1, 2)
        atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
        atoms.info.update(config_type=f"kind{i}", numbers=[1, 2], words="a b", nothing=None, nested={"a": [1, 2]})
        atoms.new_array("extra", rng.normal(size=(len(atoms), 2)))
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0 * i, forces=rng.normal(size=(len(atoms), 3)),
                                           stress=rng.normal(size=6))
        frames.append(atoms)
    write(tmp_path / "data.xyz", frames)
    ours, theirs = list(iter_frames(tmp_path / "data.xyz")), list(iread(tmp_path / "data.xyz", ":"))
    assert len(ours) == len(theirs) == 6
    for mine, other in zip(ours, theirs, strict=True):
        assert_same(mine, Frame.of_atoms(other))


@pytest.mark.parametrize("name", ["acac/train_300K.xyz.gz", "nbmotaw/train_elastic.xyz", "mlearn/Li_train.xyz.gz"])
def test_public_data(name: str, shared_dir: Path) -> None:
    path = shared_dir / "data" / name
    for mine, other in zip(iter_frames(path), iread(path, ":", format="extxyz"), strict=True):
        assert_same(mine, Frame.of_atoms(other))


@pytest.mark.parametrize(("text", "match"), [
    (text_of(COMMENTS[0]) + "\n\n" + text_of(COMMENTS[0]), "text after an empty line"),
    (text_of(COMMENTS[0]) + "2\nProperties=species:S:1:pos:R:3\nH 0 0 0\n", "1 of 2 atoms"),
    ("x\n", "invalid literal"),
])
def test_damaged_files(text: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        read_here(text)


def test_empty_lines_at_the_end() -> None:
    assert len(read_here(text_of(COMMENTS[0]) * 2 + "\n \n")) == 2
