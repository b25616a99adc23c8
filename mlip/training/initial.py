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
    numbers = sorted({int(z) for e in examples for z in e.structure.numbers})
    energies = _fit(examples, numbers) if isolated is None else [_lookup(isolated, z) for z in numbers]
    plain = create(family, numbers, seed, **config)
    neighbors = Dataset(examples, plain).mean_neighbors()
    if neighbors == 0:
        raise OptionError(f"no atom of the data has a neighbour within the cutoff of {plain.cutoff:g} A; is it in "
                          "Angstrom?")
    measured = {"avg_num_neighbors": max(neighbors, 1.0), **_states(examples)}
    known = {field.name for field in dataclasses.fields(plain.model.config)}
    potential = create(family, numbers, seed, **{**{k: v for k, v in measured.items() if k in known}, **config})
    model: Any = potential.model
    reference = dict(zip(numbers, energies, strict=True))
    interaction = [(e.energy - sum(reference[int(z)] for z in e.structure.numbers)) / max(len(e.structure), 1)
                   for e in examples]
    forces = np.concatenate([np.zeros((0, 3)), *(e.forces for e in examples if e.forces is not None)])
    model.atomic_energies.copy_(torch.tensor([energies] * len(potential.heads), dtype=torch.float64))
    scale = max(float(np.sqrt(np.mean(forces**2))), 1e-3) if len(forces) else 1.0
    for buffer in (model.scale, *([] if model.conservative else [model.force_scale])):
        buffer.fill_(scale)
    model.shift.fill_(float(np.mean(interaction)))
    return potential


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


def _states(examples: Sequence[Labelled]) -> dict[str, tuple[int, ...]]:
    """Return the charges and multiplicities that occur."""
    structures = [e.structure for e in examples]
    return {"charges": tuple(sorted({s.total_charge for s in structures})),
            "spins": tuple(sorted({s.multiplicity for s in structures}))}


def _lookup(isolated: Mapping[str, float], z: int) -> float:
    if SYMBOLS[z] not in isolated:
        raise OptionError(f"the energy of the isolated atom {SYMBOLS[z]} is missing; given: {', '.join(isolated)}")
    return isolated[SYMBOLS[z]]


def _fit(examples: Sequence[Labelled], numbers: list[int]) -> list[float]:
    counts = np.array([[np.count_nonzero(e.structure.numbers == z) for z in numbers] for e in examples], dtype=float)
    solution = np.linalg.lstsq(counts, np.array([e.energy for e in examples]), rcond=None)[0]
    return [float(x) for x in solution]
