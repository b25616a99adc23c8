"""Charge and spin of models that read them: what is accepted, refused, and assumed with a warning."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from torch import Tensor, nn

from mlip import AtomGraph, Potential, Structure
from mlip.calculators import MLIPCalculator
from mlip.checkpoints import ModelInfo
from mlip.errors import DefaultedWarning, StructureError
from mlip.graph.labelled import Labelled
from mlip.models import EnergyModel, ModelConfig
from mlip.training.data import fingerprint


@dataclass(frozen=True)
class StateConfig(ModelConfig):
    """Charges and spins that a toy model knows."""

    family: ClassVar[str] = "state"
    charges: tuple[int, ...] = (0,)
    spins: tuple[int, ...] = (1,)

    @property
    def known_charges(self) -> tuple[int, ...]:
        return self.charges

    @property
    def known_spins(self) -> tuple[int, ...]:
        return self.spins


class StateModel(EnergyModel):
    """E = charge + 10 spin + springs between neighbours, in shares of the atoms."""

    def __init__(self, config: StateConfig) -> None:
        super().__init__()
        self.config = config
        self.scale = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self._register_elements(torch.zeros(1, len(config.atomic_numbers), dtype=torch.float64))

    def forward(self, graph: AtomGraph) -> Tensor:
        share = 1 / graph.batch.bincount(minlength=graph.num_structures)[graph.batch]
        state = (graph.charge + 10 * graph.spin)[graph.batch] * share
        springs = graph.vectors(self.dtype).square().sum(dim=1)
        bonds = springs.new_zeros(graph.num_atoms).index_add(0, graph.edge_index[1], springs)
        return self.scale * (state + bonds).to(self.dtype)


def potential(charges: tuple[int, ...] = (-1, 0, 1), spins: tuple[int, ...] = (1, 2, 3)) -> Potential:
    config = StateConfig(atomic_numbers=(1, 8), cutoff=2.0, charges=charges, spins=spins)
    return Potential(StateModel(config), ModelInfo(family="state", name="state"))


def water(**info: int) -> Atoms:
    return Atoms(molecule("H2O"), info=info)


@pytest.fixture
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.usefixtures("no_warning")
def test_given_values_reach_the_model() -> None:
    model = potential()
    energy = {(q, s): model.predict(water(charge=q, spin=s)).energy for q in (-1, 0, 1) for s in (1, 3)}
    assert energy[1, 1] - energy[0, 1] == pytest.approx(1)
    assert energy[-1, 3] - energy[-1, 1] == pytest.approx(20)


@pytest.mark.parametrize(("charges", "spins", "info", "words"), [
    ((-1, 0, 1), (1, 2), {"charge": 2, "spin": 1}, ("charge 2", "-1, 0, 1", "atoms.info['charge']")),
    ((-1, 0, 1), (1, 2), {"charge": 0, "spin": 4}, ("spin (2S+1) 4", "1, 2", "atoms.info['spin']")),
    (tuple(range(-100, 101)), (1,), {"charge": 101}, ("charge 101", "-100 to 100")),
    ((0,), (1, 2), {"charge": 1, "spin": 1}, ("charge 1", "made for 0")),
    ((-2, -1), (1,), {}, ("must be told the charge", "-2, -1", "default 0", "atoms.info['charge']")),
    ((1,), (1,), {}, ("must be told the charge", "made for 1")),
    ((0,), (2, 4), {"charge": 0}, ("must be told the spin (2S+1)", "2, 4", "default 1")),
    ((0,), (1,), {"charge": 1}, ("charge 1 and spin (2S+1) 1 were given", "reads neither")),
], ids=str)
def test_refused(charges: tuple[int, ...], spins: tuple[int, ...], info: dict[str, int],
                 words: tuple[str, ...]) -> None:
    model = potential(charges, spins)
    for energy in (model.predict, MLIPCalculator(model).get_potential_energy):
        with pytest.raises(StructureError) as caught:
            energy(water(**info))
        for word in words:
            assert word in str(caught.value)
    with pytest.raises(StructureError, match=r"structure 1: .*" + words[0].split()[0]):
        model.predict([water(charge=charges[0], spin=spins[0]), water(**info)])


@pytest.mark.parametrize(("info", "words"), [
    ({}, "no charge and no spin (2S+1) was given"), ({"spin": 2}, "no charge was given"),
    ({"charge": 1}, "no spin (2S+1) was given"),
])
def test_one_warning_for_a_potential(info: dict[str, int], words: str) -> None:
    model = potential()
    with pytest.warns(DefaultedWarning) as caught:
        found = model.predict(water(**info))
    assert words in str(caught[0].message)
    assert "charge 0 and multiplicity 1 are assumed" in str(caught[0].message)
    assert len(caught) == 1
    assert found.energy == model.predict(water(**{"charge": 0, "spin": 1, **info})).energy
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.predict(water(**info)).energy == found.energy
        model.to(dtype="float32").predict(water(**info))
        MLIPCalculator(model).get_potential_energy(water(**info))
    with pytest.warns(DefaultedWarning):
        potential().predict([water(charge=0, spin=1), water(**info)])


@pytest.mark.usefixtures("no_warning")
def test_no_warning_of_what_the_model_does_not_read() -> None:
    potential((0,), (1,)).predict(water())
    potential((-1, 0), (1,)).predict(water(charge=0))
    potential((0,), (1, 3)).predict(water(spin=1))


def test_openmm() -> None:
    pytest.importorskip("openmm")
    from mlip.potentials import create_force

    numbers, model = [8, 1, 1], potential()
    with pytest.warns(DefaultedWarning):
        create_force(numbers, model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        create_force(numbers, potential(), charge=1, spin=2)
        create_force(numbers, potential(), charge=0, spin=1)
    with pytest.raises(StructureError, match="charge 2 was given"):
        create_force(numbers, model, charge=2)


def test_fingerprints_of_data_do_not_tell_defaults_from_zero_and_one() -> None:
    def of(**state: int) -> str:
        structure = Structure.create([1], [[0, 0, 0]], **state)
        return fingerprint([Labelled(structure, 1.0, np.zeros((1, 3)))])

    assert of() == of(charge=0, spin=1)
    assert of() != of(charge=1)
    assert of() == "fb3268e2978641e88e77e41b7f55a2df21905f966ab3d1c591e02d5df2136cc4"
