"""Replayed data: their share of batches, their labels, and the level of theory of their files."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write

from mlip import Potential, Structure
from mlip.errors import DataError, OptionError, StructureError, UnknownElementError
from mlip.graph.labelled import Labelled
from mlip.training import DataConfig, FrameStore, ReplayConfig, StartConfig, load_data, starting_potential
from mlip.training.offsets import offsets, sample
from mlip.training.plan import replay_batches
from mlip.training.preflight import preflight, replayed
from mlip.training.replay import load_replay, relabel
from mlip.training.report import Report


def batches(new: int, replay: int, size: int, fraction: float, seed: int = 0) -> list[list[int]]:
    return [b.tolist() for b in replay_batches(new, replay, size, fraction, np.random.default_rng(seed))]


class TestBatches:
    @pytest.mark.parametrize(("new", "replay", "size", "fraction", "old"), [
        (20, 100, 8, 0.25, 2), (21, 5, 8, 0.25, 2), (7, 3, 4, 0.9, 3), (7, 3, 4, 0.01, 1), (3, 50, 8, 0.5, 4),
        (1, 1, 2, 0.5, 1)])
    def test_shares(self, new: int, replay: int, size: int, fraction: float, old: int) -> None:
        """Each new structure once; the replayed ones as evenly as possible."""
        found = batches(new, replay, size, fraction)
        assert sorted(i for b in found for i in b if i < new) == list(range(new))
        drawn = Counter(i for b in found for i in b if i >= new)
        assert all(sum(i >= new for i in b) == old and len(b) <= size for b in found)
        assert all(len(b) == size for b in found[:-1])
        assert set(drawn) <= set(range(new, new + replay))
        assert max(drawn.values()) - (min(drawn.values()) if len(drawn) == replay else 0) <= 1

    def test_what_is_drawn(self) -> None:
        assert batches(9, 50, 4, 0.5) == batches(9, 50, 4, 0.5)
        first, second = batches(9, 50, 4, 0.5, 1), batches(9, 50, 4, 0.5, 2)
        assert {i for b in first for i in b if i >= 9} != {i for b in second for i in b if i >= 9}

    def test_no_room(self) -> None:
        with pytest.raises(OptionError, match="batch of 1 has no room"):
            batches(9, 50, 1, 0.5)


def config(**options: str) -> ReplayConfig:
    return ReplayConfig(files=("old.xyz",), **options)  # type: ignore[arg-type]


def atoms_of(examples: Sequence[Labelled], energy: str = "REF_energy", forces: str = "REF_forces",
             scale: float = 1.0) -> list[Atoms]:
    """Atoms with energies in eV and forces in eV/A, over and times the scale of lengths."""
    found = [Atoms(e.structure.numbers, e.structure.positions / scale, info={energy: e.energy}) for e in examples]
    for atoms, e in zip(found, examples, strict=True):
        assert e.forces is not None
        atoms.new_array(forces, e.forces * scale)
    return found


class TestLabels:
    def test_of_the_model(self, start: Potential, examples: list[Labelled]) -> None:
        """As a whole and one by one; crystals have a stress."""
        crystal = Structure.create([8, 1], [[0, 0, 0], [1.2, 1.1, 1.3]], [2.8, 2.9, 3.0], True)
        given = [*examples, Labelled(crystal, math.nan, None, config_type="salt")] * 10
        found = list(relabel(start, given))
        assert [(f.structure, f.config_type) for f in found] == [(g.structure, g.config_type) for g in given]
        for i in (0, 7, 20, 209):
            one = start.evaluate([given[i].structure])[0]
            assert found[i].energy == pytest.approx(one.energy, abs=1e-9)
            assert np.abs(found[i].forces - one.forces).max() < 1e-12
        assert found[0].stress is None
        assert np.abs(found[20].stress - start.evaluate([crystal])[0].stress).max() < 1e-12

    @pytest.mark.parametrize("references", ["keep", "data"])
    def test_fit_the_start(self, start: Potential, examples: list[Labelled], references: str, tmp_path: Path) -> None:
        """Whatever became of its references; files need no labels, and those of a wrong method are not looked at."""
        new = {"H": -20.0, "O": -1990.0} if references == "data" else {"H": -13.6, "O": -2013.8}
        predicted = start.evaluate([e.structure for e in examples])
        data = [dataclasses.replace(e, energy=p.energy + 2 * (new["H"] + 13.6) + new["O"] + 2013.8)
                for e, p in zip(examples, predicted, strict=True)]
        tuned = starting_potential(StartConfig("a model", references=references), data, new, base=start)
        bare = [Atoms(a.numbers, a.positions) for a in atoms_of(examples[:5])]
        write(tmp_path / "old.xyz", [*bare, *atoms_of(examples[5:8])])
        found = load_replay(config(energy_key="absent"), tuned, tmp_path / "run", tmp_path)
        assert len(found) == 8
        assert offsets(tuned, found).typical < 1e-10
        assert offsets(tuned, data).typical < 1e-10

    def test_of_the_file(self, start: Potential, examples: list[Labelled], tmp_path: Path) -> None:
        """With names and units of its own."""
        near = list(relabel(start, examples))
        write(tmp_path / "old.xyz", atoms_of(near, "E", "F", scale=0.529177210903))
        own = config(labels="file", energy_key="E", forces_key="F", length_unit="Bohr")
        found = load_replay(own, start, tmp_path / "run", tmp_path)
        for one, other in zip(found, near, strict=True):
            assert np.abs(one.structure.positions - other.structure.positions).max() < 1e-7
            assert one.energy == pytest.approx(other.energy, abs=1e-7)
            assert np.abs(one.forces - other.forces).max() < 1e-7
        far = [dataclasses.replace(e, energy=e.energy + 9.0) for e in near]
        write(tmp_path / "old.xyz", atoms_of(far))
        with pytest.raises(DataError, match=r"by 3.000 eV/atom .*labels = \"model\""):
            load_replay(config(labels="file"), start, tmp_path / "run", tmp_path)

    def test_refusals(self, start: Potential, examples: list[Labelled], tmp_path: Path) -> None:
        write(tmp_path / "old.xyz", [Atoms("O"), Atoms("H")])
        with pytest.raises(DataError, match=r"old\.xyz, hold isolated atoms"):
            load_replay(config(), start, tmp_path / "run", tmp_path)
        methylidyne = Atoms("CH", [[0, 0, 0], [0, 0, 1.1]], info={"REF_energy": 0.0})
        methylidyne.new_array("REF_forces", np.zeros((2, 3)))
        write(tmp_path / "old.xyz", [*atoms_of(examples), methylidyne])
        for labels in ("model", "file"):
            with pytest.raises(UnknownElementError, match=r"structure 20 of old\.xyz: .*C"):
                load_replay(config(labels=labels), start, tmp_path / "run", tmp_path)
        write(tmp_path / "old.xyz", [*atoms_of(examples), *atoms_of(examples)])
        frames = read(tmp_path / "old.xyz", ":")
        frames[33].info["charge"] = 1
        write(tmp_path / "old.xyz", frames)
        for labels in ("model", "file"):
            with pytest.raises(StructureError, match=r"structure 33 of old\.xyz: charge 1"):
                load_replay(config(labels=labels), start, tmp_path / "run", tmp_path)

    def test_what_is_kept(self, start: Potential, examples: list[Labelled], tmp_path: Path,
                          monkeypatch: pytest.MonkeyPatch) -> None:
        """The same files and the same model are not labelled twice; others are."""
        write(tmp_path / "old.xyz", atoms_of(examples))
        first = load_replay(config(), start, tmp_path / "run", tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(Potential, "evaluate", None)
            assert load_replay(config(), start, tmp_path / "run", tmp_path).fingerprint == first.fingerprint
        other = starting_potential(StartConfig("a model", references="data"), examples, {"H": -20.0, "O": -1990.0},
                                   base=start)
        assert load_replay(config(), other, tmp_path / "run", tmp_path)[0].energy != first[0].energy
        write(tmp_path / "old.xyz", atoms_of(examples[:3]))
        assert len(load_replay(config(), other, tmp_path / "run", tmp_path)) == 3

    def test_forces_are_read_when_they_are_wanted(self, start: Potential, examples: list[Labelled],
                                                  tmp_path: Path) -> None:
        write(tmp_path / "old.xyz", atoms_of(list(relabel(start, examples))))
        for forces in (False, True):
            found = load_replay(config(labels="file"), start, tmp_path / "run", tmp_path, forces=forces)
            assert (found[0].forces is not None) == forces

    @pytest.mark.parametrize("labels", ["model", "file"])
    def test_isolated_atoms_are_left_out(self, start: Potential, examples: list[Labelled], labels: str,
                                         tmp_path: Path) -> None:
        """One without periodicity, and one in a box that its group tells; not a crystal of one atom."""
        def lone(**info: str) -> Atoms:
            found = Atoms("O", cell=[9, 9, 9], pbc=bool(info), info={"REF_energy": -2013.8, **info})
            found.new_array("REF_forces", np.zeros((1, 3)))
            return found

        write(tmp_path / "old.xyz", [lone(), *atoms_of(list(relabel(start, examples))),
                                     lone(config_type="IsolatedAtom"), lone(config_type="gas")])
        found = load_replay(config(labels=labels), start, tmp_path / "run", tmp_path)
        assert [len(e) for e in found] == [3] * 20 + [1]
        assert found[20].config_type == "gas"


class TestInspection:
    def report(self, examples: Sequence[Labelled], replay: list[Atoms], start: Potential, place: Path,
               **options: str) -> tuple[Report, FrameStore]:
        """On half of the examples, the last two of which are held out."""
        write(place / "new.xyz", atoms_of(examples[:8]))
        write(place / "valid.xyz", atoms_of(examples[8:10]))
        write(place / "old.xyz", replay)
        data = load_data(DataConfig(train=("new.xyz",), valid=("valid.xyz",)), place / "run", place)
        found = load_replay(config(**options), start, place / "run", place)
        return replayed(preflight(data, cutoff=4.0, stress=False), found, data.validation.joined(data.test), cutoff=4.0,
                        stress=True)

    def test_a_column_of_its_own(self, start: Potential, examples: list[Labelled], tmp_path: Path) -> None:
        report, left = self.report(examples, atoms_of(examples[10:]), start, tmp_path)
        assert len(left) == report.parts["replay"].structures == 10
        assert report.parts["replay"].config_types == {"": 10}
        assert report.parts["training"].structures == 8
        assert str(report).splitlines()[0].split() == ["training", "validation", "replay"]

    def test_what_is_held_out(self, start: Potential, examples: list[Labelled], tmp_path: Path) -> None:
        """Structures that validate are not trained on through the back door, whatever the order of their atoms."""
        turned = [atoms[[2, 0, 1]] for atoms in atoms_of(examples)]
        report, left = self.report(examples, turned, start, tmp_path)
        assert len(left) == 18
        held = {e.structure.positions[0].tobytes() for e in examples[8:10]}
        assert not held & {e.structure.positions[1].tobytes() for e in left}
        assert "2 structure(s) to replay are held out for validation or test and not replayed, first structure 8 of " \
               "old.xyz" in report.warnings
        with pytest.raises(DataError, match=r"all structures to replay, such as structure 0 of old\.xyz"):
            self.report(examples, turned[8:10], start, tmp_path)

    def test_stress_that_is_missing(self, start: Potential, examples: list[Labelled], tmp_path: Path) -> None:
        crystals = atoms_of(list(relabel(start, examples[10:])))
        for atoms in crystals[6:]:
            atoms.set_cell([9, 9, 9])
            atoms.pbc = True
        said = "4 structure(s) to replay have no stress, which is trained, first structure 6 of old.xyz"
        assert said in self.report(examples, crystals, start, tmp_path, labels="file")[0].warnings
        assert "no stress" not in str(self.report(examples, crystals, start, tmp_path)[0].warnings)

    @pytest.mark.parametrize(("labels", "scale"), [("model", 1.89), ("file", 1.89), ("model", 0.5)])
    def test_positions_in_another_unit(self, start: Potential, examples: list[Labelled], tmp_path: Path, labels: str,
                                       scale: float) -> None:
        near = list(relabel(start, examples))
        with pytest.raises(DataError, match=r"of old\.xyz \(replay\).*length_unit"):
            self.report(near, atoms_of(near[10:], scale=scale), start, tmp_path, labels=labels)

    def test_forces_that_are_gradients(self, start: Potential, examples: list[Labelled], tmp_path: Path) -> None:
        near = list(relabel(start, examples))
        wrong = [dataclasses.replace(e, forces=-e.forces) for e in near[10:]]  # type: ignore[operator]
        with pytest.raises(DataError, match=r"\(replay\), energies rise where forces point"):
            self.report(near, atoms_of(wrong), start, tmp_path, labels="file")


class TestOffsets:
    def test_two_compositions(self, start: Potential, examples: list[Labelled]) -> None:
        hydroxyl = [Structure.create([8, 1], [[0, 0, 0], [0.9 + 0.02 * i, 0, 0]]) for i in range(10)]
        own = list(relabel(start, [*(Labelled(s, math.nan, None) for s in hydroxyl), *examples]))
        off = [dataclasses.replace(e, energy=e.energy + 0.5 * np.count_nonzero(e.structure.numbers == 1) - 0.3)
               for e in own]
        found = offsets(start, off)
        assert found.by_element == pytest.approx({"H": 0.5, "O": -0.3}, abs=1e-9)
        assert found.remaining < 1e-9
        assert found.determined
        assert found.typical == pytest.approx(0.7 / 3, abs=1e-9)
        assert "H +0.500, O -0.300 eV;" in str(found)

    def test_one_composition(self, start: Potential, examples: list[Labelled]) -> None:
        own = list(relabel(start, examples))
        found = offsets(start, [dataclasses.replace(e, energy=e.energy + 1.5) for e in own])
        assert not found.determined
        assert 2 * found.by_element["H"] + found.by_element["O"] == pytest.approx(1.5, abs=1e-9)
        assert "one choice of many" in str(found)

    def test_samples_hold_all_elements(self) -> None:
        def atom(z: int) -> Labelled:
            return Labelled(Structure.create([z], [[0, 0, 0]]), 0.0, None)

        some = [atom(1), Labelled(Structure.create([], np.zeros((0, 3))), 0.0, None), atom(2)]
        assert sample(some) == [some[0], some[2]]
        many = [atom(8 if i == 1234 else 1) for i in range(2500)]
        found = sample(many)
        assert len(found) == 835
        assert found[-1] is many[1234]
