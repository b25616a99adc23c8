"""Errors on labelled structures, against plain numpy; streams of structures with and without labels."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mlip import Committee, Potential, Structure, create
from mlip.errors import NonFiniteError, OptionError, StructureError, UnknownElementError
from mlip.graph.labelled import Labelled
from mlip.training import Dataset, errors, evaluate_on
from mlip.training.evaluation import SAMPLE, WORST, Sample
from mlip.training.metrics import Sums
from mlip.units import GPA_PER_EV_A3, to_voigt


@pytest.fixture(scope="module")
def potential() -> Potential:
    """A random model of H and O, float64."""
    return create("mace", ["H", "O"], seed=3, channels=4, edge_lmax=1, correlation=2, radial_mlp=(8,), cutoff=3.0,
                  dtype="float64")


@pytest.fixture(scope="module")
def mixture(potential: Potential) -> list[Labelled]:
    """Forty crystals and molecules of several sizes; some without forces, some without stress."""
    rng, found = np.random.default_rng(0), []
    for i in range(40):
        count, periodic = 2 + i % 5, i % 3 == 0
        numbers = rng.choice([1, 8], count)
        positions = 1.2 * np.arange(count)[:, None] + rng.normal(0, 0.1, (count, 3))
        s = Structure.create(numbers, positions, [8.0, 8.0, 9.0] if periodic else None, periodic)
        p = potential.evaluate([s])[0]
        assert p.forces is not None
        noise = rng.normal(0, 0.01, (3, 3))
        found.append(Labelled(s, p.energy + rng.normal(0, 0.1),
                              None if i % 7 == 0 else p.forces + rng.normal(0, 0.2, (count, 3)),
                              p.stress + noise + noise.T if p.stress is not None and i % 2 == 0 else None,
                              "liquid" if i < 25 else "solid"))
    return found


def two(values: np.ndarray) -> tuple[float, float]:
    return float(np.sqrt(np.mean(values**2))), float(np.mean(np.abs(values)))


@pytest.mark.parametrize("members", [1, 2])
def test_against_numpy(potential: Potential, mixture: list[Labelled], members: int) -> None:
    """A potential, and the mean of a committee with another cutoff among its members."""
    other = create("mace", ["H", "O"], seed=4, channels=2, correlation=1, radial_mlp=(8,), cutoff=4.0, dtype="float64")
    model: Potential | Committee = potential if members == 1 else Committee([potential, other])
    found = evaluate_on(model, iter(mixture), batch_atoms=17)
    predictions = [model.evaluate([e.structure])[0] for e in mixture]
    pairs = list(zip(predictions, mixture, strict=True))
    energy = np.array([p.energy - e.energy for p, e in pairs])
    sizes = np.array([len(e.structure) for e in mixture])
    forces = np.concatenate([p.forces - e.forces for p, e in pairs if e.forces is not None])
    numbers = np.concatenate([e.structure.numbers for e in mixture if e.forces is not None])
    stress = np.array([to_voigt(p.stress - e.stress) for p, e in pairs if e.stress is not None])
    assert len(stress) > 3
    assert (forces.size, stress.size) == (found.total.forces.count, found.total.stress.count)
    numbers_of = found.to_dict()
    for name, expected in (
            ("energy_{}_mev_per_atom", 1e3 * energy / sizes), ("energy_{}_mev_per_structure", 1e3 * energy),
            ("forces_{}_mev_per_angstrom", 1e3 * forces), ("stress_{}_mev_per_angstrom3", 1e3 * stress),
            ("stress_{}_gpa", GPA_PER_EV_A3 * stress)):
        given = numbers_of[name.format("rmse")], numbers_of[name.format("mae")]
        assert given == pytest.approx(two(expected), abs=1e-4)
    assert numbers_of["structures"] == 40
    assert numbers_of["atoms"] == sizes.sum()
    for symbol, z in (("H", 1), ("O", 8)):
        per_element = numbers_of["elements"][symbol]
        assert per_element["atoms"] == sum((e.structure.numbers == z).sum() for e in mixture)
        expected = 1e3 * two(forces[numbers == z])[0]
        assert per_element["forces_rmse_mev_per_angstrom"] == pytest.approx(expected, abs=1e-4)
    solid = np.array([e.config_type == "solid" for e in mixture])
    for name, chosen in (("solid", solid), ("liquid", ~solid)):
        kind = numbers_of["config_types"][name]
        assert kind["structures"] == chosen.sum()
        assert kind["energy_mae_mev_per_atom"] == pytest.approx(1e3 * two(energy[chosen] / sizes[chosen])[1], abs=1e-4)
    worst = np.argsort(-np.abs(energy / sizes))[:WORST]
    assert [o.index for o in found.worst_energy] == worst.tolist()
    longest = [-1 if e.forces is None else np.linalg.norm(p.forces - e.forces, axis=1).max() for p, e in pairs]
    assert [o.index for o in found.worst_forces] == np.argsort(-np.array(longest))[:WORST].tolist()
    assert found.worst_forces[0].error == pytest.approx(1e3 * max(longest), rel=1e-9)
    assert json.loads(json.dumps(numbers_of)) == numbers_of


def test_errors_name_the_member(potential: Potential, mixture: list[Labelled]) -> None:
    hydrogen = create("mace", ["H"], channels=2, correlation=1, radial_mlp=(8,))
    with pytest.raises(UnknownElementError, match=r"member 1 of the committee \(mace\): .*structure 0.*O"):
        evaluate_on(Committee([potential, hydrogen]), mixture)


def test_the_sums_of_training_are_the_same(potential: Potential, mixture: list[Labelled]) -> None:
    complete = [e for e in mixture if e.forces is not None]
    during = errors(Dataset(complete, potential), batch_atoms=16)
    after = evaluate_on(potential, complete).total.errors()
    assert dataclasses.asdict(during) == pytest.approx(dataclasses.asdict(after), rel=1e-9)
    assert during.stress_rmse is not None
    assert set(during.to_dict()) == {f"{name}_{kind}_{unit}" for kind in ("rmse", "mae") for name, unit in (
        ("energy", "mev_per_atom"), ("forces", "mev_per_angstrom"), ("stress", "mev_per_angstrom3"))}


def test_energies_alone(potential: Potential, mixture: list[Labelled]) -> None:
    bare = [dataclasses.replace(e, forces=None, stress=None, config_type="") for e in mixture]
    found = evaluate_on(potential, bare)
    assert found.total.energy == evaluate_on(potential, mixture).total.energy
    assert found.total.errors().present().keys() == {"energy_rmse", "energy_mae"}
    assert not found.worst_forces
    assert not found.config_types
    assert found.to_dict()["elements"]["O"] == {"atoms": found.atoms["O"]}
    assert "forces on 0 atoms" in str(found)
    assert "meV/A" not in str(found)


def test_the_table(potential: Potential, mixture: list[Labelled]) -> None:
    found = evaluate_on(potential, mixture)
    text = str(found)
    assert text.startswith(f"40 structures, {found.total.atoms} atoms: H {found.atoms['H']}, O {found.atoms['O']}; ")
    rows = {line[:34].strip(): line[34:].split() for line in text.splitlines()}
    assert rows["stress (GPa)"][0] == f"{GPA_PER_EV_A3 * (found.total.stress.rmse or 0):.3f}"
    assert rows["forces on H (meV/A)"][2] == str(found.elements["H"].count)
    assert rows["solid"][-1] == "15"
    assert f"{found.worst_energy[0].index} ({found.worst_energy[0].config_type})" in text


def test_pairs_for_plots(potential: Potential, mixture: list[Labelled]) -> None:
    found = evaluate_on(potential, mixture)
    assert [found.samples[k].seen for k in ("energy", "forces", "stress")] == [
        40, found.total.forces.count, found.total.stress.count]
    label, prediction = found.samples["energy"].pairs.T
    e0 = dict(zip((1, 8), potential.model.atomic_energies[0].tolist(), strict=True))
    expected = [(e.energy - sum(e0[int(z)] for z in e.structure.numbers)) / len(e.structure) for e in mixture]
    assert label == pytest.approx(expected, abs=1e-9)
    assert two(prediction - label)[0] == pytest.approx(found.total.energy_per_atom.rmse, rel=1e-6)


def test_samples_are_bounded_and_fair() -> None:
    sample = Sample()
    for start in range(0, 10 * SAMPLE, 1000):
        part = np.arange(start, start + 1000.0)
        sample.add(part, part + 1)
    assert sample.pairs.shape == (SAMPLE, 2)
    assert sample.seen == 10 * SAMPLE
    assert (sample.pairs[:, 1] - sample.pairs[:, 0] == 1).all()
    assert len(np.unique(sample.pairs[:, 0])) == SAMPLE
    assert sample.pairs[:, 0].mean() == pytest.approx(5 * SAMPLE, rel=0.02)  # five standard deviations
    assert (sample.pairs[:, 0] < SAMPLE).sum() == pytest.approx(SAMPLE / 10, rel=0.1)


def test_sums_of_nothing() -> None:
    assert (Sums().rmse, Sums().mae) == (None, None)


class TestMistakes:
    def test_no_structures(self, potential: Potential) -> None:
        with pytest.raises(OptionError, match="no structures"):
            evaluate_on(potential, [])

    def test_an_element_is_named_with_its_structure(self, potential: Potential, mixture: list[Labelled]) -> None:
        gold = Labelled(Structure.create([79], [[0, 0, 0]]), 0.0, np.zeros((1, 3)))
        with pytest.raises(UnknownElementError, match=r"structure 40: .*Au"):
            evaluate_on(potential, [*mixture, gold], batch_atoms=20)

    def test_coincident_atoms(self, potential: Potential, mixture: list[Labelled]) -> None:
        double = Labelled(Structure.create([1, 1], np.zeros((2, 3))), 0.0, np.zeros((2, 3)))
        with pytest.raises(StructureError, match=r"of the structures 0 to 40: structure 40: .*one place"):
            evaluate_on(potential, [*mixture, double])

    def test_nan(self, mixture: list[Labelled], potential: Potential) -> None:
        broken = Potential(copy.deepcopy(potential.model), potential.info).to(backend="reference")
        model: Any = broken.model
        model.atomic_energies[0, 1] = float("nan")  # of oxygen
        first = next(i for i, e in enumerate(mixture) if 8 in e.structure.numbers)
        with pytest.raises(NonFiniteError, match=f"structure {first};"):
            evaluate_on(broken, mixture)

    def test_the_stream_is_not_read_ahead(self, potential: Potential, mixture: list[Labelled]) -> None:
        """Of a stream that breaks off, no more than a batch is held."""
        read = []

        def stream() -> Iterator[Labelled]:
            for i, example in enumerate(mixture):
                read.append(i)
                if i == 10:
                    yield Labelled(Structure.create([79], [[0, 0, 0]]), 0.0, None)
                yield example

        with pytest.raises(UnknownElementError):
            evaluate_on(potential, stream(), batch_atoms=1)
        assert len(read) == 11
