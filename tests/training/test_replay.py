"""Replayed data: their share of batches, their labels, and the level of theory of their files."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest

from mlip import Potential, Structure, load
from mlip.errors import DataError, OptionError, UnknownElementError
from mlip.graph.labelled import Labelled
from mlip.io.ase import structure_of
from mlip.simulation.quickstart import acetylacetone
from mlip.training.offsets import offsets, sample
from mlip.training.replay import relabel, replay_batches, replay_examples
from mlip.training.start import StartConfig, starting_potential


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


def config(**options: str) -> StartConfig:
    return StartConfig("a model", replay=("old.xyz",), **options)  # type: ignore[arg-type]


class TestLabels:
    def test_of_the_model(self, start: Potential, examples: list[Labelled]) -> None:
        """As a whole and one by one; crystals have a stress."""
        crystal = Structure.create([8, 1], [[0, 0, 0], [1.2, 1.1, 1.3]], [2.8, 2.9, 3.0], True)
        structures = [*(e.structure for e in examples), crystal] * 10
        found = list(relabel(start, structures))
        assert [f.structure for f in found] == structures
        for i in (0, 7, 20, 209):
            one = start.evaluate([structures[i]])[0]
            assert found[i].energy == pytest.approx(one.energy, abs=1e-9)
            assert np.abs(found[i].forces - one.forces).max() < 1e-12
        assert found[0].stress is None
        assert np.abs(found[20].stress - start.evaluate([crystal])[0].stress).max() < 1e-12

    @pytest.mark.parametrize("references", ["keep", "data"])
    def test_fit_the_start(self, start: Potential, examples: list[Labelled], references: str) -> None:
        """Whatever became of its references."""
        new = {"H": -20.0, "O": -1990.0} if references == "data" else {"H": -13.6, "O": -2013.8}
        predicted = start.evaluate([e.structure for e in examples])
        data = [dataclasses.replace(e, energy=p.energy + 2 * (new["H"] + 13.6) + new["O"] + 2013.8)
                for e, p in zip(examples, predicted, strict=True)]
        tuned = starting_potential(config(references=references), data, new, base=start)
        replayed = replay_examples(config(), tuned, examples[:5])
        assert offsets(tuned, replayed).typical < 1e-10
        assert offsets(tuned, data).typical < 1e-10

    def test_positions_in_another_unit(self) -> None:
        """Angstrom that are taken for Bohr."""
        atoms = acetylacetone()
        atoms.positions *= 0.529177
        squeezed = Labelled(structure_of(atoms), 0.0, None)
        with pytest.raises(DataError, match=r"structure 0 of the replay file.* old\.xyz has forces of .*length_unit"):
            replay_examples(config(), load("mace-acac"), [squeezed])

    def test_of_the_file(self, start: Potential, examples: list[Labelled]) -> None:
        near = list(relabel(start, (e.structure for e in examples)))
        assert replay_examples(config(replay_labels="file"), start, near) is near
        far = [dataclasses.replace(e, energy=e.energy + 9.0) for e in near]
        with pytest.raises(DataError, match=r"by 3.000 eV/atom .*replay_labels = \"model\""):
            replay_examples(config(replay_labels="file"), start, far)

    def test_refusals(self, start: Potential, examples: list[Labelled]) -> None:
        with pytest.raises(DataError, match=r"old\.xyz hold no structures"):
            replay_examples(config(), start, [])
        carbon = dataclasses.replace(examples[0], structure=Structure.create([6], [[0, 0, 0]]))
        with pytest.raises(UnknownElementError, match="C"):
            replay_examples(config(), start, [*examples, carbon])


class TestOffsets:
    def test_two_compositions(self, start: Potential, examples: list[Labelled]) -> None:
        hydroxyl = [Structure.create([8, 1], [[0, 0, 0], [0.9 + 0.02 * i, 0, 0]]) for i in range(10)]
        own = list(relabel(start, [*hydroxyl, *(e.structure for e in examples)]))
        off = [dataclasses.replace(e, energy=e.energy + 0.5 * np.count_nonzero(e.structure.numbers == 1) - 0.3)
               for e in own]
        found = offsets(start, off)
        assert found.by_element == pytest.approx({"H": 0.5, "O": -0.3}, abs=1e-9)
        assert found.remaining < 1e-9
        assert found.determined
        assert found.typical == pytest.approx(0.7 / 3, abs=1e-9)
        assert "H +0.500, O -0.300 eV;" in str(found)

    def test_one_composition(self, start: Potential, examples: list[Labelled]) -> None:
        own = list(relabel(start, (e.structure for e in examples)))
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
