"""An untrained model adapted to data: isolated-atom energies, neighbours, scale and shift."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mlip.checkpoints import Potential, create
from mlip.elements import SYMBOLS
from mlip.errors import OptionError
from mlip.graph.labelled import Labelled
from mlip.training.data import Dataset
from mlip.training.statistics import fitted


def initial_potential(family: str, examples: Sequence[Labelled], isolated: Mapping[str, float] | None = None,
                      seed: int = 0, **config: Any) -> Potential:
    """Return an untrained potential whose constants fit the data.

    The mean number of neighbours normalises the messages, and a model that reads charge and spin knows those of the
    data, unless `config` gives them; the root mean square force is the scale and the mean interaction energy per atom
    the shift of the energies.

    Args:
        family: model family.
        examples: training data; their elements become those of the model.
        isolated: energy of each isolated atom, eV, by symbol; by default a least-squares fit to the data.
        seed: of the weights.
        config: further fields of the configuration.

    Raises:
        OptionError: an isolated atom is missing, or the cutoff reaches no neighbour.
    """
    seen = _Survey(examples)
    numbers = seen.numbers
    energies = seen.fitted() if isolated is None else [_lookup(isolated, z) for z in numbers]
    plain = create(family, numbers, seed, **config)
    neighbors = Dataset(examples, plain).mean_neighbors()
    if neighbors == 0:
        raise OptionError(f"no atom of the data has a neighbour within the cutoff of {plain.cutoff:g} A; is it in "
                          "Angstrom?")
    measured = {"avg_num_neighbors": max(neighbors, 1.0), "charges": tuple(sorted(seen.charges)),
                "spins": tuple(sorted(seen.spins))}
    known = {field.name for field in dataclasses.fields(plain.model.config)}
    potential = create(family, numbers, seed, **{**{k: v for k, v in measured.items() if k in known}, **config})
    model: Any = potential.model
    model.atomic_energies.copy_(torch.tensor([energies] * len(potential.heads), dtype=torch.float64))
    for buffer in (model.scale, *([] if model.conservative else [model.force_scale])):
        buffer.fill_(max(seen.rms_force, 1e-3))
    interaction = (seen.energies - seen.counts @ np.array(energies)) / np.maximum(seen.counts.sum(axis=1), 1)
    model.shift.fill_(float(np.mean(interaction)))
    return potential


class _Survey:
    """What the constants of a model are made of, from one pass over the data.

    Attributes:
        numbers: the elements that occur, atomic numbers in ascending order.
        counts: [B, elements] atoms of each element.
        energies: [B] eV.
        rms_force: root mean square of the force components, eV/A; 1 where there are none.
        charges: total charges that occur.
        spins: multiplicities that occur.
    """

    def __init__(self, examples: Sequence[Labelled]) -> None:
        composition, energies, squares, components = [], [], 0.0, 0
        self.charges: set[int] = set()
        self.spins: set[int] = set()
        for e in examples:
            composition.append(np.unique(e.structure.numbers, return_counts=True))
            energies.append(e.energy)
            if e.forces is not None:
                squares, components = squares + float(np.sum(e.forces**2)), components + e.forces.size
            self.charges.add(e.structure.total_charge)
            self.spins.add(e.structure.multiplicity)
        self.numbers = sorted({int(z) for numbers, _ in composition for z in numbers})
        self.counts = np.zeros((len(composition), len(self.numbers)))
        for row, (numbers, counts) in zip(self.counts, composition, strict=True):
            row[np.searchsorted(self.numbers, numbers)] = counts
        self.energies = np.array(energies)
        self.rms_force = (squares / components) ** 0.5 if components else 1.0

    def fitted(self) -> list[float]:
        """Return the energies of the elements whose sums are nearest to the energies of the structures."""
        return [float(x) for x in fitted(self.counts, self.energies)]


def separate_isolated(examples: Sequence[Labelled]) -> tuple[dict[str, float], list[Labelled]]:
    """Take the isolated atoms, structures of one atom without periodicity, out of a data set.

    Returns:
        Their energies by symbol, eV, and the other structures.

    Raises:
        OptionError: two isolated atoms of one element with different energies.
    """
    energies: dict[str, float] = {}
    others = []
    for example in examples:
        s = example.structure
        if len(s) != 1 or s.pbc.any():
            others.append(example)
        elif energies.setdefault(SYMBOLS[s.numbers[0]], example.energy) != example.energy:
            raise OptionError(f"the data hold two isolated atoms {SYMBOLS[s.numbers[0]]} with different energies")
    return energies, others


def _lookup(isolated: Mapping[str, float], z: int) -> float:
    if SYMBOLS[z] not in isolated:
        raise OptionError(f"the energy of the isolated atom {SYMBOLS[z]} is missing; given: {', '.join(isolated)}")
    return isolated[SYMBOLS[z]]

