"""The data of a run: parts, isolated atoms, the cache, and what a preflight says about them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from mlip.errors import DataError, MLIPError
from mlip.training.preflight import preflight
from mlip.training.sources import DataConfig, load_data
from mlip.training.statistics import fitted, outliers
from mlip.units import HARTREE

Crystals = Callable[..., list[Atoms]]
Save = Callable[[str, list[Atoms]], Path]


def atom(energy: float, **more: object) -> Atoms:
    return Atoms("Cu", info={"REF_energy": energy}, **more)


def test_a_share_is_held_out(crystals: Crystals, save: Save, tmp_path: Path) -> None:
    frames = crystals(20)
    save("train.xyz", frames)
    table = {"train": "train.xyz", "valid_fraction": 0.25}
    data = load_data(DataConfig.from_table(table), tmp_path / "run", tmp_path)
    assert {name: len(part) for name, part in data.parts.items()} == {"training": 15, "validation": 5, "test": 0}
    assert data.isolated is None
    energies = [e.energy for part in (data.training, data.validation) for e in part]
    assert sorted(energies) == sorted(atoms.info["REF_energy"] for atoms in frames)
    same, other = (load_data(DataConfig.from_table({**table, "seed": seed}), tmp_path / "run", tmp_path)
                   for seed in (0, 1))
    assert same.validation.fingerprint == data.validation.fingerprint != other.validation.fingerprint


def test_three_files(crystals: Crystals, save: Save, tmp_path: Path) -> None:
    for seed, name in enumerate(("a", "b", "c", "d")):
        save(f"{name}.xyz", crystals(4 + seed, seed))
    data = load_data(DataConfig.from_table({"train": ["a.xyz", "b.xyz"], "valid": ["c.xyz"], "test": "d.xyz"}),
                     tmp_path / "run", tmp_path)
    assert [len(part) for part in data.parts.values()] == [9, 6, 7]
    assert data.test.origin(0) == "structure 0 of d.xyz"
    assert data.training.origin(4) == "structure 0 of b.xyz"


def test_some_are_left_out(crystals: Crystals, save: Save, tmp_path: Path) -> None:
    """Whatever their labels are; the others keep their names."""
    frames = crystals(12)
    frames[3].info["REF_energy"] = np.nan
    del frames[8].arrays["REF_forces"]
    save("a.xyz", frames)
    save("b.xyz", crystals(5, 1))
    table = {"train": ["a.xyz", "b.xyz"], "valid_fraction": 0.2}
    config = DataConfig.from_table({**table, "leave_out": {"a.xyz": [8, 3, 8], "b.xyz": [0]}})
    for _ in range(2):  # read, then opened
        data = load_data(config, tmp_path / "run", tmp_path)
        whole = data.training.joined(data.validation)
        assert sorted(whole.origin(i) for i in range(len(whole))) == sorted(
            [f"structure {i} of a.xyz" for i in range(12) if i not in (3, 8)]
            + [f"structure {i} of b.xyz" for i in range(1, 5)])
        energies = {whole.origin(i): whole[i].energy for i in range(len(whole))}
        assert energies["structure 9 of a.xyz"] == frames[9].info["REF_energy"]
        report = preflight(data, cutoff=4.0, stress=False)
        assert report.left_out == 3
        assert "left out: 3 structure(s)" in str(report)
    with pytest.raises(DataError, match=r"structure 3 of a\.xyz.*leave_out"):
        load_data(DataConfig.from_table({**table, "leave_out": {"a.xyz": [8]}}), tmp_path / "run", tmp_path)


@pytest.mark.parametrize(("wrong", "text"), [
    ({"a.xyz": 3}, r"leave_out must give places"), ({"a.xyz": [-1]}, r"leave_out must give places"),
    ([3], r"leave_out must give places"), ({"a.xyz": [True]}, r"leave_out must give places"),
    ({"a.xyz": list(range(12))}, r"all 12 structures of .*a\.xyz are to be left out; do not give the file"),
    ({"b.xyz": [0]}, r"leave_out names b\.xyz, none of the files: a\.xyz"),
    ({"a.xyz": [1, 12]}, r"no structure 12 to leave out; it holds 12, the first is 0")])
def test_what_cannot_be_left_out(wrong: object, text: str, crystals: Crystals, save: Save, tmp_path: Path) -> None:
    save("a.xyz", crystals(12))
    with pytest.raises(MLIPError, match=text):
        load_data(DataConfig.from_table({"train": "a.xyz", "leave_out": wrong}), tmp_path / "run", tmp_path)


def test_the_cache(crystals: Crystals, save: Save, tmp_path: Path) -> None:
    path = save("train.xyz", crystals(8))
    config = DataConfig.from_table({"train": "train.xyz"})
    load_data(config, tmp_path / "run", tmp_path)
    stamp = (tmp_path / "run" / "frames" / "store.json").stat().st_mtime_ns

    def packed_anew(table: dict[str, object]) -> bool:
        nonlocal stamp
        load_data(DataConfig.from_table({"train": "train.xyz", **table}), tmp_path / "run", tmp_path)
        before, stamp = stamp, (tmp_path / "run" / "frames" / "store.json").stat().st_mtime_ns
        return before != stamp

    assert [packed_anew(t) for t in ({}, {"seed": 3}, {"valid_fraction": 0.5})] == [False] * 3
    assert [packed_anew(t) for t in ({"energy_unit": "meV"}, {}, {"energy_key": "REF_energy"}, {})] == [True] * 4
    os.utime(path, ns=(1, 1))
    assert packed_anew({})
    save("train.xyz", crystals(9))
    assert packed_anew({})
    assert len(load_data(config, tmp_path / "run", tmp_path).training) == 8


class TestIsolatedAtoms:
    def test_among_the_data(self, crystals: Crystals, save: Save, tmp_path: Path) -> None:
        boxed = atom(-0.5, cell=[9, 9, 9], pbc=True)
        boxed.info["config_type"] = "IsolatedAtom"
        crystal = atom(-3.0, cell=[2.5, 2.5, 2.5], pbc=True)
        save("train.xyz", [*crystals(6), boxed, atom(-0.5), crystal])
        save("valid.xyz", [*crystals(3, 1), atom(-7.0)])
        data = load_data(DataConfig.from_table({"train": "train.xyz", "valid": "valid.xyz"}), tmp_path, tmp_path)
        assert data.isolated == {"Cu": -0.5}
        assert [len(part) for part in data.parts.values()] == [7, 3, 0]

    def test_of_a_file_and_by_hand(self, crystals: Crystals, save: Save, tmp_path: Path) -> None:
        save("train.xyz", [*crystals(6), atom(-0.5)])
        save("atoms.xyz", [atom(-0.25)])
        for table, expected in (({"isolated": "atoms.xyz"}, {"Cu": -0.25}),
                                ({"isolated_energies": {"Cu": -1}}, {"Cu": -1.0}), ({}, {"Cu": -0.5})):
            data = load_data(DataConfig.from_table({"train": "train.xyz", **table}), tmp_path, tmp_path)
            assert data.isolated == expected
            assert len(data.training) + len(data.validation) == 6
        hartree = {"train": "train.xyz", "isolated_energies": {"Cu": -1.0}, "energy_unit": "Hartree"}
        assert load_data(DataConfig.from_table(hartree), tmp_path, tmp_path).isolated == {"Cu": -HARTREE}


def test_copies_are_not_held_out(crystals: Crystals, save: Save, tmp_path: Path) -> None:
    frames = crystals(10)
    save("train.xyz", [*frames, *frames[:8]])
    data = load_data(DataConfig.from_table({"train": "train.xyz", "valid_fraction": 0.4}), tmp_path, tmp_path)
    seen = {e.energy for e in data.training}
    assert not seen & {e.energy for e in data.validation}
    assert len(data.training) + len(data.validation) == 18
    report = preflight(data, cutoff=4.0, stress=False)
    assert any("occur before" in text for text in report.warnings)


def test_energies_alone(crystals: Crystals, save: Save, tmp_path: Path) -> None:
    frames = crystals(8)
    for atoms in frames:
        del atoms.arrays["REF_forces"]
    save("train.xyz", frames)
    data = load_data(DataConfig.from_table({"train": "train.xyz"}), tmp_path, tmp_path, forces=False)
    assert all(e.forces is None for e in data.training)
    report = preflight(data, cutoff=4.0, stress=False)
    assert report.parts["training"].forces is None
    assert not report.warnings


def test_the_report(crystals: Crystals, save: Save, tmp_path: Path) -> None:
    frames, foreign = crystals(20), crystals(6, 2, "Ni")
    for i, atoms in enumerate(frames):
        atoms.info["config_type"] = "hot" if i % 2 else "cold"
    save("train.xyz", [*frames, *foreign])
    save("valid.xyz", crystals(5, 3))
    data = load_data(DataConfig.from_table({"train": "train.xyz", "valid": "valid.xyz"}), tmp_path, tmp_path)
    report = preflight(data, cutoff=4.0, stress=True)
    part = report.parts["training"]
    assert (part.structures, part.atoms, part.sizes, part.with_stress) == (26, 208, (8, 8), 26)
    assert (part.elements, part.periodic) == (("Ni", "Cu"), (0, 0, 26))
    assert part.config_types == {"cold": 10, "hot": 10, "": 6}
    forces = np.concatenate([a.arrays["REF_forces"] for a in [*frames, *foreign]])
    assert part.forces == pytest.approx(np.sqrt(np.mean(forces**2)), rel=1e-6)
    assert part.largest_force == pytest.approx(np.linalg.norm(forces, axis=1).max(), rel=1e-6)
    stress = np.array([a.info["REF_stress"] for a in [*frames, *foreign]])
    assert part.stress == pytest.approx(np.sqrt(np.mean(stress**2)), rel=1e-6)
    mean = {s: np.mean([a.info["REF_energy"] / 8 for a in group]) for s, group in (("Cu", frames), ("Ni", foreign))}
    assert report.references == pytest.approx(mean, rel=1e-9)
    assert report.fitted
    assert report.determined
    energies = np.concatenate([[a.info["REF_energy"] / 8 - mean[s] for a in group]
                               for s, group in (("Cu", frames), ("Ni", foreign))])
    assert report.residual == pytest.approx(np.sqrt(np.mean(energies**2)), rel=1e-6)
    text = str(report)
    for expected in ("training", "26", "Ni Cu", "hot", "(no config_type)", "least squares", "neighbours"):
        assert expected in text
    assert report.warnings == ()
    assert max(map(len, text.splitlines())) <= 120
    assert report.to_dict()["parts"]["validation"]["structures"] == 5
    assert preflight(data, cutoff=4.0, stress=True) == report  # from remembered numbers


def test_warnings(crystals: Crystals, save: Save, tmp_path: Path) -> None:
    frames = crystals(40)
    frames[1].arrays["REF_forces"][0] += 0.5
    frames[2].info["REF_energy"] += 8.0
    frames[3].arrays["REF_forces"][:] = 0.0
    for atoms in frames:
        atoms.info["REF_stress"] = -np.asarray(atoms.info["REF_stress"])
    del frames[4].info["REF_stress"]
    frames.append(frames[6].copy())
    frames[-1].info["REF_energy"] += 0.1
    save("train.xyz", frames)
    save("valid.xyz", crystals(4, 1))
    config = DataConfig.from_table({"train": "train.xyz", "valid": "valid.xyz"})
    found = "\n".join(preflight(load_data(config, tmp_path, tmp_path), cutoff=4.0, stress=True).warnings)
    for text in ("1 structure(s) have a net force above 0.05 eV/A, most structure 1 of train.xyz (training) with 0.87",
                 "outlying energy", "structure 2 of train.xyz (training): 0.", "exactly zero, first structure 3 of",
                 "1 of 41 training structures have no stress", "stress falls where the volume grows",
                 "1 training structure(s) occur before, first structure 40 of train.xyz (training); energies of 1 "):
        assert text in found


def test_least_squares_in_blocks() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 9, (300, 4)).astype(np.int32)
    energies = counts @ [-13.0, -1000.0, 2.0, 0.0] + rng.normal(size=300)
    expected = np.linalg.lstsq(counts.astype(float), energies, rcond=None)[0]
    for block in (1, 7, 1000):
        np.testing.assert_allclose(fitted(counts, energies, block), expected, rtol=1e-9)
    alone = np.tile(np.array([[1, 2, 0, 0]], dtype=np.int32), (9, 1))  # one composition: the shortest solution
    np.testing.assert_allclose(fitted(alone, np.full(9, 10.0)), [2, 4, 0, 0], atol=1e-9)


def test_outliers() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    assert not len(outliers(values, 8.0, 1e-3))
    values[[5, 7]] = 30, -50
    assert outliers(values, 8.0, 1e-3).tolist() == [7, 5]
    assert outliers(np.array([1.0, 1.0, 1.0, 1.0001]), 8.0, 1e-3).tolist() == []
