"""How far the energies of data are from those of a potential: two levels of theory, or one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlip.checkpoints import Potential
from mlip.elements import SYMBOLS
from mlip.errors import DataError
from mlip.graph.labelled import Labelled
from mlip.training.metrics import in_batches

MOST = 1000  # structures that are evaluated
ATOMS = 512  # of a batch, at most
LARGE = 0.3  # eV/atom: trained models are rarely as wrong at their own level of theory, and mostly more at others


@dataclass(frozen=True)
class Offsets:
    """Energies of data minus those of a potential.

    Attributes:
        typical: median over structures of their absolute value for each atom, eV/atom.
        by_element: the constants for each atom that explain them best, eV, by symbol: least squares, the smallest ones
            where the compositions leave a choice.
        remaining: root mean square of what these leave, eV/atom.
        determined: whether the compositions leave no choice.
        structures: how many were evaluated.
    """

    typical: float
    by_element: dict[str, float]
    remaining: float
    determined: bool
    structures: int

    def __str__(self) -> str:
        table = ", ".join(f"{symbol} {value:+.3f}" for symbol, value in self.by_element.items())
        choice = "" if self.determined else " (one choice of many: compositions are too alike to tell elements apart)"
        return (f"energies of {self.structures} structures differ from those of the model by {self.typical:.3f} "
                f"eV/atom (median); by element {table} eV{choice}; {self.remaining:.3f} eV/atom (RMS) remain")


def offsets(potential: Potential, examples: Sequence[Labelled]) -> Offsets:
    """Return how far the energies of data are from those of a potential.

    Args:
        potential: any that knows the elements.
        examples: at most 1 000, evenly spread, are evaluated.
    """
    some = sample(examples)
    difference = differences(potential, some)
    numbers = sorted({int(z) for e in some for z in e.structure.numbers})
    counts = compositions(some, numbers)
    solution, rank = per_element(counts, difference)
    atoms = counts.sum(axis=1)
    rest = (difference - counts @ solution) / atoms
    return Offsets(float(np.median(np.abs(difference / atoms))),
                   {SYMBOLS[z]: float(x) for z, x in zip(numbers, solution, strict=True)},
                   float(np.sqrt(np.mean(rest**2))), rank == len(numbers), len(some))


def check_level(potential: Potential, examples: Sequence[Labelled], advice: str) -> Offsets:
    """Return the offsets of data, which must be at the level of theory of a potential.

    Args:
        potential: any that knows the elements.
        examples: data.
        advice: what to do if they are not.

    Raises:
        DataError: they are more than 0.3 eV/atom apart.
    """
    found = offsets(potential, examples)
    if not found.typical <= LARGE:
        raise DataError(f"{found}. That is another level of theory, another zero of energy, or another unit; at most "
                        f"{LARGE:g} eV/atom is allowed here. {advice}")
    return found


def sample(examples: Sequence[Labelled]) -> list[Labelled]:
    """Return at most 1 000 examples with atoms, evenly spread, and of each element they lack the first one."""
    step = -(-len(examples) // MOST) or 1
    some = [e for e in (examples[i] for i in range(0, len(examples), step)) if len(e.structure)]
    if step == 1:
        return some
    seen = {int(z) for e in some for z in e.structure.numbers}
    for example in examples:
        if not seen.issuperset(numbers := example.structure.numbers.tolist()):
            seen.update(numbers)
            some.append(example)
    return some


def differences(potential: Potential, examples: Sequence[Labelled]) -> NDArray[np.float64]:
    """Return the energy of each example minus that of the potential, eV."""
    predicted = [p.energy for batch in in_batches((e.structure for e in examples), ATOMS)
                 for p in potential.evaluate(batch, forces=False, stress=False)]
    difference: NDArray[np.float64] = np.array([e.energy for e in examples]) - np.array(predicted)
    return difference


def compositions(examples: Sequence[Labelled], numbers: Sequence[int]) -> NDArray[np.float64]:
    """Return how many atoms of each element the examples have, [examples, elements]."""
    return np.array([[np.count_nonzero(e.structure.numbers == z) for z in numbers] for e in examples], dtype=np.float64)


def per_element(counts: NDArray[np.float64], energies: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Return the energies of elements that explain those of structures best, for each atom, and the rank.

    Args:
        counts: [n, elements].
        energies: [n], eV.
    """
    weights = 1 / counts.sum(axis=1).clip(min=1)
    solution, _, rank, _ = np.linalg.lstsq(counts * weights[:, None], energies * weights, rcond=None)
    return solution, int(rank)
