"""Bad input is refused when the force is made, with typed errors that say what is allowed."""

from __future__ import annotations

import numpy as np
import openmm
import pytest
import torch

from mlip.errors import ModelNotFoundError, OptionError, StructureError, TopologyError, UnknownElementError
from mlip.potentials import create_force, create_system

WATER = [8, 1, 1]


@pytest.mark.parametrize(("atoms", "text"), [
    ([], "atoms is empty"), ([0, 3], "numbered 0 to 2"), ([-1], "numbered 0 to 2"),
    ([0, 1, 1], "more than once"),
    ([0.0, 1.0], "whole numbers"), ([True, False, True], "whole numbers"), ([[0, 1]], "whole numbers"),
    (["0"], "whole numbers"),
])
def test_atoms(mace, atoms, text) -> None:
    with pytest.raises(TopologyError, match=text):
        create_force(WATER, mace, atoms)


@pytest.mark.parametrize("numbers", [[0, 1], [8.5], [119], [np.nan], ["O", "H"], [-1]])
def test_numbers(mace, numbers) -> None:
    with pytest.raises(StructureError):
        create_force(numbers, mace)


def test_nothing(mace, omm) -> None:
    for empty in ([], omm.topology([])):
        with pytest.raises(TopologyError, match="no atoms"):
            create_force(empty, mace)


@pytest.mark.parametrize(("options", "error", "text"), [
    ({"skin": -0.5}, OptionError, "skin"),
    ({"skin": float("nan")}, OptionError, "skin"),
    ({"charge": 0.5}, StructureError, "charge"),
    ({"spin": 0}, StructureError, "spin"),
    ({"charge": 1}, StructureError, "reads neither"),
    ({"periodic": "False"}, OptionError, "periodic='False'"),
    ({"spin": 2}, StructureError, "reads neither"),
    ({"spin": "two"}, StructureError, "spin"),
    ({"head": "none"}, OptionError, "default"),
    ({"force_group": 32}, OptionError, "0 to 31"),
    ({"force_group": -1}, OptionError, "0 to 31"),
    ({"force_group": 1.5}, OptionError, "0 to 31"),
    ({"dtype": "float16"}, OptionError, "float32"),
    ({"device": "abacus"}, OptionError, "cpu"),
    ({"energy": "free"}, OptionError, "interaction"),
])
def test_options(mace, options, error, text) -> None:
    with pytest.raises(error, match=text):
        create_force(WATER, mace, **options)


def test_models() -> None:
    with pytest.raises(ModelNotFoundError, match="no-such-model"):
        create_force(WATER, "no-such-model")
    for strange in (None, 3, torch.nn.Linear(1, 1)):
        with pytest.raises(OptionError, match="a name, a path or a Potential"):
            create_force(WATER, strange)


def test_unknown_elements_are_named_at_once(mace, omm) -> None:
    with pytest.raises(UnknownElementError, match=r"N .*\[2\].*H, C, O, Cu"):
        create_force([8, 1, 7], mace)
    with pytest.raises(UnknownElementError):
        create_system(omm.topology([8, 1, 7]), mace)
    create_force([8, 1, 7], mace, [0, 1])


def test_atoms_without_element(mace, omm) -> None:
    topology = omm.topology(WATER)
    topology.addAtom("M", None, next(topology.residues()))
    with pytest.raises(TopologyError, match=r"'M'.*three-site"):
        create_system(topology, mace)
    create_force(topology, mace, [0, 1, 2])


def test_boxes(mace, omm) -> None:
    with pytest.raises(TopologyError, match="no box"):
        create_system(omm.topology(WATER), mace, periodic=True)
    with pytest.raises(TopologyError, match=r"needs an openmm\.app\.Topology; list"):
        create_system(WATER, mace)
    boxed = omm.topology(WATER, np.eye(3) * 20)
    assert create_system(boxed, mace).usesPeriodicBoundaryConditions()
    assert not create_system(boxed, mace, periodic=False).usesPeriodicBoundaryConditions()


def test_a_system_of_another_size(mace, methanol, omm) -> None:
    force = create_force(methanol.numbers, mace)
    positions = np.concatenate([methanol.positions, [[9.0, 9.0, 9.0]]])
    with pytest.raises(openmm.OpenMMException, match=r"TopologyError: the System has 7 .*for 6 atoms"):
        omm.results(omm.context(omm.system(7, force), positions))
