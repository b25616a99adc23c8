"""`Committee`: potentials trained apart, whose spread tells where they are not to be trusted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray

from mlip.checkpoints.load import load
from mlip.checkpoints.potential import Potential, Prediction
from mlip.errors import MLIPError, OptionError, StructureError
from mlip.graph import Structure
from mlip.neighbors import NeighborList, neighbor_list

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True)
class CommitteePrediction(Prediction):
    """Means over the K members of a committee, and how far the members are apart.

    Spreads are standard deviations of a sample: sums of squares are divided by K - 1.

    Attributes:
        energy: mean total energy, eV.
        energies: [N] mean energy of each atom, eV.
        forces: [N, 3] mean forces, eV/A: the derivative of the mean energy, where all members are conservative.
        stress: [3, 3] mean stress, eV/A^3; None where the structure has no volume.
        member_energies: [K] total energies, eV.
        member_forces: [K, N, 3] eV/A.
    """

    forces: Array
    member_energies: Array
    member_forces: Array

    @property
    def energy_std(self) -> float:
        """Spread of the total energy, eV."""
        return float(np.std(self.member_energies, ddof=1))

    @property
    def energy_std_per_atom(self) -> float:
        """Spread of the total energy over the number of atoms, eV/atom."""
        return self.energy_std / max(len(self.energies), 1)

    @cached_property
    def forces_std(self) -> Array:
        """[N] spread of the force on each atom, eV/A: the root of the summed variances of its three components."""
        spread: Array = np.sqrt(self.member_forces.var(axis=0, ddof=1).sum(axis=1))
        return spread

    @property
    def forces_std_max(self) -> float:
        """Largest of `forces_std`, eV/A; 0 without atoms."""
        return float(self.forces_std.max(initial=0.0))


class Committee:
    """Two or more potentials that are evaluated on the same structures.

    Their spread is a sign of error only as far as they were trained apart (other seeds, other data) and on the same
    level of theory. Members may differ in everything else: those of one cutoff share a neighbour list.

    Attributes:
        members: the potentials.
    """

    def __init__(self, models: Sequence[str | os.PathLike[str] | Potential], device: torch.device | str | None = None,
                 dtype: torch.dtype | str | None = None, backend: str | None = None, radial: str | None = None,
                 rotational_average: str | None = None) -> None:
        """Load the members.

        Args:
            models: names of models, paths of files, or potentials; at least two, no two the same.
            device: of all members, as for all that follow; None keeps that of each. See `Potential.to`.
            dtype: `"float32"` or `"float64"`.
            backend: `"auto"`, `"compiled"` or `"reference"`.
            radial: `"exact"` or `"tabulated"`.
            rotational_average: a group of rotations, or `"none"`.

        Raises:
            OptionError: fewer than two members, the same model twice, no element that all know, or unusable options.
            ModelNotFoundError, ModelFileError: from loading.
        """
        if isinstance(models, str | os.PathLike | Potential) or not isinstance(models, Iterable):
            raise OptionError(f"a committee needs a list of models; {models!r} was given")
        for model in models:
            if not isinstance(model, str | os.PathLike | Potential):
                raise OptionError(f"a member is a name, a path or a Potential; {type(model).__name__} was given")
        loaded = [m if isinstance(m, Potential) else load(os.fspath(m)) for m in models]
        _check_different(loaded)
        self.members = tuple(p.to(device=device, dtype=dtype, backend=backend, radial=radial,
                                  rotational_average=rotational_average) for p in loaded)
        if not self.elements:
            raise OptionError("there is no element that all members know: "
                              + "; ".join(f"{_name(p)} knows {' '.join(p.elements)}" for p in loaded))

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        return f"Committee({', '.join(map(_name, self.members))})"

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols that all members know."""
        others = [set(p.elements) for p in self.members[1:]]
        return tuple(symbol for symbol in self.members[0].elements if all(symbol in known for known in others))

    @property
    def cutoffs(self) -> tuple[float, ...]:
        """The different cutoffs of the members, A."""
        return tuple(dict.fromkeys(p.cutoff for p in self.members))

    def evaluate(self, structures: Sequence[Structure], *, stress: bool = True,
                 edges: Mapping[float, Sequence[NeighborList]] | None = None) -> list[CommitteePrediction]:
        """Predict for structures; each member takes them in one batch.

        Args:
            structures: any number.
            stress: whether to compute the stress of the structures that have a volume.
            edges: neighbour lists already known, by cutoff.

        Raises:
            UnknownElementError, StructureError: bad input.
            NonFiniteError: a member returned NaN or infinity.
            BackendError: compiled kernels and plain torch differ on the first structure.
        """
        self.each(lambda member: member.check(structures))
        known = edges if edges is not None else {
            r: [neighbor_list(s.positions, r, s.cell, s.pbc) for s in structures] for r in self.cutoffs}
        columns = self.each(lambda member: member.evaluate(structures, stress=stress, edges=known[member.cutoff]))
        return [_mean(row) for row in zip(*columns, strict=True)]

    def each(self, function: Callable[[Potential], T]) -> list[T]:
        """Return what a function returns for each member; its errors name the member."""
        results = []
        for i, member in enumerate(self.members):
            try:
                results.append(function(member))
            except MLIPError as error:
                error.args = (f"member {i} of the committee ({_name(member)}): {error}",)
                raise
        return results

    @overload
    def predict(self, atoms: Atoms, *, stress: bool = True) -> CommitteePrediction: ...
    @overload  # the next line matches only where ASE has types
    def predict(  # type: ignore[overload-cannot-match]
            self, atoms: Sequence[Atoms], *, stress: bool = True) -> list[CommitteePrediction]: ...
    def predict(self, atoms: Atoms | Sequence[Atoms], *,
                stress: bool = True) -> CommitteePrediction | list[CommitteePrediction]:
        """Predict for ASE atoms, one or a sequence; arguments and errors as for `Potential.predict`."""
        from mlip.io.ase import structure_of

        single = hasattr(atoms, "get_positions")
        if not single and not isinstance(atoms, Iterable):
            raise StructureError(f"expected ase.Atoms or a sequence of them, got {type(atoms).__name__}")
        results = self.evaluate([structure_of(a) for a in ([atoms] if single else atoms)], stress=stress)
        return results[0] if single else results


def _mean(each: Sequence[Prediction]) -> CommitteePrediction:
    energies = np.array([p.energy for p in each])
    forces = np.array([p.forces for p in each])
    stresses = [p.stress for p in each if p.stress is not None]
    return CommitteePrediction(float(energies.mean()), np.mean([p.energies for p in each], axis=0),
                               forces.mean(axis=0), np.mean(stresses, axis=0) if stresses else None, energies, forces)


def _check_different(potentials: Sequence[Potential]) -> None:
    if len(potentials) < 2:
        raise OptionError(f"a committee needs at least two models; {len(potentials)} was given")
    seen: dict[str, int] = {}
    for i, potential in enumerate(potentials):
        first = seen.setdefault(potential.info.sha256, i)
        if first != i:
            raise OptionError(f"members {first} and {i} of the committee are the same model ({_name(potential)}): "
                              "their spread would say nothing; give models trained with different seeds")


def _name(potential: Potential) -> str:
    return potential.info.name or potential.info.family
