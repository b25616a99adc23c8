"""Errors of a potential on labelled structures, added up as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mlip.graph import Structure
from mlip.graph.labelled import Labelled
from mlip.nn.derivatives import BatchPrediction, evaluate
from mlip.training.data import Dataset
from mlip.units import to_voigt

Atomic = TypeVar("Atomic", Structure, Labelled)
UNITS = {"energy": "mev_per_atom", "forces": "mev_per_angstrom", "stress": "mev_per_angstrom3"}


@dataclass(frozen=True)
class Errors:
    """Root mean square and mean absolute errors; energies meV/atom, components of forces meV/A and of stress meV/A^3.

    Forces or stress are None where no structure has any to compare with. The six independent components of a stress
    count once each.
    """

    energy_rmse: float
    energy_mae: float
    forces_rmse: float | None = None
    forces_mae: float | None = None
    stress_rmse: float | None = None
    stress_mae: float | None = None

    def present(self) -> dict[str, float]:
        """Return the errors that there are, by the names of the fields."""
        return {k: v for k, v in asdict(self).items() if v is not None}

    def to_dict(self) -> dict[str, float]:
        """Return the errors that there are, by name, with units in the names."""
        return {f"{k}_{UNITS[k.split('_')[0]]}": round(v, 4) for k, v in self.present().items()}

    def __str__(self) -> str:
        parts = [f"energy {self.energy_rmse:.2f} meV/atom"]
        parts += [] if self.forces_rmse is None else [f"forces {self.forces_rmse:.1f} meV/A"]
        parts += [] if self.stress_rmse is None else [f"stress {self.stress_rmse:.2f} meV/A^3"]
        return f"{', '.join(parts)} (RMSE)"


@dataclass(frozen=True)
class Difference:
    """Prediction minus label of one structure.

    Attributes:
        energy: eV.
        forces: [N, 3] eV/A; None where there is no label.
        stress: [6] eV/A^3, Voigt; None where there is no label or no volume.
    """

    energy: float
    forces: NDArray[np.float64] | None
    stress: NDArray[np.float64] | None


@dataclass
class Sums:
    """How many differences there were, and the sums of their absolute values and squares."""

    count: int = 0
    absolute: float = 0.0
    squared: float = 0.0

    def add(self, differences: ArrayLike) -> None:
        """Add differences of any shape."""
        d = np.asarray(differences, dtype=np.float64).ravel()
        self.count += d.size
        self.absolute += float(np.abs(d).sum())
        self.squared += float(d @ d)

    @property
    def mae(self) -> float | None:
        """Mean absolute difference; None of nothing."""
        return self.absolute / self.count if self.count else None

    @property
    def rmse(self) -> float | None:
        """Root mean square difference; None of nothing."""
        return float(np.sqrt(self.squared / self.count)) if self.count else None


@dataclass
class ErrorSums:
    """Differences of structures, added up.

    Attributes:
        structures: how many.
        atoms: in them.
        energy_per_atom: eV/atom, one number for each structure.
        energy: eV, one number for each structure.
        forces: eV/A, each component.
        stress: eV/A^3, each of six components.
    """

    structures: int = 0
    atoms: int = 0
    energy_per_atom: Sums = field(default_factory=Sums)
    energy: Sums = field(default_factory=Sums)
    forces: Sums = field(default_factory=Sums)
    stress: Sums = field(default_factory=Sums)

    def add(self, atoms: int, d: Difference) -> None:
        """Add a structure of so many atoms."""
        self.structures += 1
        self.atoms += atoms
        self.energy.add(d.energy)
        self.energy_per_atom.add(d.energy / max(atoms, 1))
        if d.forces is not None:
            self.forces.add(d.forces)
        if d.stress is not None:
            self.stress.add(d.stress)

    def errors(self) -> Errors:
        """Return means, in meV; NaN for the energy of no structures."""
        e, f, s = self.energy_per_atom, self.forces, self.stress
        means = [None if value is None else 1e3 * value for value in (f.rmse, f.mae, s.rmse, s.mae)]
        return Errors(*(np.nan if value is None else 1e3 * value for value in (e.rmse, e.mae)), *means)


def differences(examples: Sequence[Labelled], result: BatchPrediction) -> Iterator[Difference]:
    """Yield prediction minus label of each structure of a batch.

    Args:
        examples: B structures.
        result: of their graph, with what the labels are to be compared with.
    """
    energy = _numpy(result.energy)
    bounds = np.cumsum([len(e.structure) for e in examples])[:-1]
    forces = None if result.forces is None else np.split(_numpy(result.forces), bounds)
    stress = None if result.stress is None else to_voigt(_numpy(result.stress))
    for b, example in enumerate(examples):
        label = stress_label(example)
        yield Difference(
            float(energy[b]) - example.energy,
            None if example.forces is None or forces is None else forces[b] - example.forces,
            None if label is None or stress is None else stress[b] - label)


def mean_difference(of_members: Sequence[Difference]) -> Difference:
    """Return the difference of the mean prediction of several potentials from those of each to the same labels."""
    if len(of_members) == 1:
        return of_members[0]
    energy, forces, stress = ([getattr(d, name) for d in of_members] for name in ("energy", "forces", "stress"))
    return Difference(float(np.mean(energy)), None if forces[0] is None else np.mean(forces, axis=0),
                      None if stress[0] is None else np.mean(stress, axis=0))


def stress_label(example: Labelled) -> NDArray[np.float64] | None:
    """Return the stress to compare with, [6] Voigt; None where there is no label, or no volume."""
    return None if example.stress is None or example.structure.volume is None else to_voigt(example.stress)


def wanted(examples: Sequence[Labelled]) -> dict[str, bool]:
    """Return which derivatives a prediction needs to be compared with these labels."""
    return {"forces": any(e.forces is not None for e in examples),
            "stress": any(stress_label(e) is not None for e in examples)}


def errors(data: Dataset, batch_atoms: int = 1024) -> Errors:
    """Return the errors of the data set's own potential; NaN where its predictions are."""
    sums, potential = ErrorSums(), data.potential
    for examples in in_batches(data.examples, batch_atoms):
        result = evaluate(potential.model, potential.graph([e.structure for e in examples]), **wanted(examples))
        for example, difference in zip(examples, differences(examples, result), strict=True):
            sums.add(len(example.structure), difference)
    return sums.errors()


def in_batches(structures: Iterable[Atomic], most: int) -> Iterator[list[Atomic]]:
    """Yield structures, labelled or not, in lists of at most so many atoms, one structure at least."""
    batch: list[Atomic] = []
    atoms = 0
    for structure in structures:
        if batch and atoms + len(structure) > most:
            yield batch
            batch, atoms = [], 0
        batch.append(structure)
        atoms += len(structure)
    if batch:
        yield batch


def _numpy(tensor: Tensor) -> NDArray[np.float64]:
    return np.asarray(tensor.cpu().numpy(), dtype=np.float64)
