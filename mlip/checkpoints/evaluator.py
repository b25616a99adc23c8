"""`Evaluator`: one system, evaluated again and again, with a neighbour list that is reused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from mlip.checkpoints.committee import Committee, CommitteePrediction
from mlip.checkpoints.contacts import check_contacts
from mlip.checkpoints.potential import Potential, Prediction, split
from mlip.graph import Structure
from mlip.neighbors import NeighborList, VerletSkin


class Evaluator:
    """Evaluates a moving system; both the ASE calculator and the OpenMM force stand on it.

    The neighbour list is made with `cutoff + skin` and reused until an atom has moved so far, or the
    cell has changed so much, that a pair could be missing; what the model sees is always the exact
    list for `cutoff`. Copies and pickles leave the list behind; copies share the weights.
    """

    def __init__(self, potential: Potential, skin: float = 1.0, refuse_contacts: bool = False) -> None:
        """Keep the potential and an empty list.

        Args:
            potential: the model.
            skin: A, at least 0; 0 rebuilds the list at every call.
            refuse_contacts: whether atoms closer than real ones come raise `CloseContactError`.
        """
        self.potential = potential
        self.refuse_contacts = refuse_contacts
        self.skin = VerletSkin(potential.cutoff, skin)

    def __call__(self, structure: Structure, *, forces: bool = True, stress: bool = True) -> Prediction:
        """Return the prediction for the structure; see `Potential.evaluate` for the errors."""
        edges = self._edges(structure, self.refuse_contacts)
        return self.potential.evaluate([structure], forces=forces, stress=stress, edges=[edges])[0]

    def tensors(self, structure: Structure, positions: torch.Tensor | None = None) -> tuple[float, torch.Tensor]:
        """Return the energy (eV) and the forces ([N, 3], eV/A), a float64 tensor on the device of the model.

        Args:
            structure: for the neighbour list, which is made on the CPU.
            positions: its positions on the device of the model, float64, where they are there already.

        Raises:
            NonFiniteError: the model returned NaN or infinity; names the atoms. Further those of `Potential.evaluate`.
        """
        edges = self._edges(structure, self.refuse_contacts)
        result = self.potential.evaluate_batch([structure], stress=False, edges=[edges], positions=positions)
        assert result.forces is not None
        energy, total = torch.stack([result.energy[0], result.forces.sum()]).tolist()  # leave the device at once
        if not math.isfinite(energy + total):
            split(result, [structure])
        return energy, result.forces

    def check_contacts(self, structure: Structure) -> None:
        """Raise `CloseContactError` where atoms are closer than real ones come."""
        self._edges(structure, True)

    def _edges(self, structure: Structure, refuse_contacts: bool) -> NeighborList:
        edges = self.skin.update(structure.positions, structure.cell, structure.pbc)
        if refuse_contacts:
            check_contacts(structure, edges)
        return edges

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.potential, self.skin.skin, self.refuse_contacts)

    def __deepcopy__(self, memo: dict[int, Any]) -> Evaluator:
        return type(self)(self.potential, self.skin.skin, self.refuse_contacts)


class BatchEvaluator:
    """Evaluates several moving systems in one batch, each with a list of its own.

    Lists go by the place in the batch. Another system in that place only costs a new list: a list is reused only where
    the positions allow it.
    """

    def __init__(self, potential: Potential, skin: float = 1.0) -> None:
        """Keep the potential; `skin` as for `Evaluator`, whose errors it has."""
        self.potential = potential
        self.skin = VerletSkin(potential.cutoff, skin).skin
        self._lists: list[VerletSkin] = []

    def __call__(self, structures: Sequence[Structure], *, forces: bool = True,
                 stress: bool = True) -> list[Prediction]:
        """Return a prediction for each structure; see `Potential.evaluate` for the errors."""
        count = len(structures)
        self._lists = self._lists[:count] + [VerletSkin(self.potential.cutoff, self.skin)
                                             for _ in range(count - len(self._lists))]
        edges = [kept.update(s.positions, s.cell, s.pbc) for kept, s in zip(self._lists, structures, strict=True)]
        return self.potential.evaluate(structures, forces=forces, stress=stress, edges=edges)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.potential, self.skin)

    def __deepcopy__(self, memo: dict[int, Any]) -> BatchEvaluator:
        return type(self)(self.potential, self.skin)


class CommitteeEvaluator:
    """The same for a committee; members of one cutoff share a list."""

    def __init__(self, committee: Committee, skin: float = 1.0, refuse_contacts: bool = False) -> None:
        """Keep the committee and empty lists.

        Args:
            committee: the models.
            skin: A, at least 0; 0 rebuilds the lists at every call.
            refuse_contacts: as for `Evaluator`.
        """
        self.committee = committee
        self.refuse_contacts = refuse_contacts
        self.skins = {cutoff: VerletSkin(cutoff, skin) for cutoff in committee.cutoffs}
        self._skin = skin

    def __call__(self, structure: Structure, *, stress: bool = True) -> CommitteePrediction:
        """Return the prediction for the structure; see `Committee.evaluate` for the errors."""
        edges = {cutoff: [skin.update(structure.positions, structure.cell, structure.pbc)]
                 for cutoff, skin in self.skins.items()}
        if self.refuse_contacts:
            check_contacts(structure, edges[max(edges)][0])
        return self.committee.evaluate([structure], stress=stress, edges=edges)[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.committee, self._skin, self.refuse_contacts)

    def __deepcopy__(self, memo: dict[int, Any]) -> CommitteeEvaluator:
        return type(self)(self.committee, self._skin, self.refuse_contacts)
