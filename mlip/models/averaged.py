"""A model averaged over a finite group of rotations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mlip.graph import AtomGraph, turned
from mlip.models.base import EnergyModel
from mlip.nn.derivatives import DirectFunction, DirectPrediction
from mlip.nn.recomputed import recomputed
from mlip.so3.rotation_groups import rotation_group

MOST_ATOMS = 4096  # evaluated at once; more are evaluated in parts, which the backward pass makes again

Part = Callable[[AtomGraph, Tensor], tuple[Tensor, ...]]


class Averaged(EnergyModel):
    """The mean of a model's energies over all turned copies of a structure.

    What is averaged is the energy, so that forces and stress stay its derivatives; it is as smooth as that of the
    model, and invariant under the group. What remains of a model's error under other rotations begins with the degree
    that the average over the group keeps, see `mlip.so3.rotation_groups.rotation_group`. The copies share the
    neighbour list. The cost is that of the model times the order of the group, and a third more for structures that
    are evaluated in parts.

    Attributes:
        model: what is averaged.
        group: name of the group.
    """

    def __init__(self, model: EnergyModel, group: str) -> None:
        """Wrap a model, which keeps its weights.

        Args:
            model: any; see `averaged` for those that predict forces by themselves.
            group: name of a rotation group.

        Raises:
            OptionError: no such group.
        """
        super().__init__()
        self.matrices = torch.from_numpy(rotation_group(group))  # no buffer: it stays float64
        self.config = model.config
        self.model = model
        self.group = group
        self.backend = model.backend

    @property
    def atomic_energies(self) -> Tensor:  # type: ignore[override]
        """Energies of isolated atoms of the model, [heads, elements] float64, eV."""
        return self.model.atomic_energies

    @property
    def element_table(self) -> Tensor:  # type: ignore[override]
        """Position of each atomic number in the model's table of elements, [119] int64."""
        return self.model.element_table

    @property
    def conservative(self) -> bool:
        """Whether forces and stress are derivatives of the energy: where those of the model are."""
        return self.model.conservative

    @property
    def rotation_invariant(self) -> bool:
        """Whether the energy is invariant under all rotations, not only those of the group."""
        return self.model.rotation_invariant

    def forward(self, graph: AtomGraph) -> Tensor:
        """Return the mean interaction energy of each atom, [N] eV."""
        def energies(copies: AtomGraph, matrices: Tensor) -> tuple[Tensor, ...]:
            return (self._sum(self.model(copies), matrices),)

        return self._means(graph, energies)[0]

    def _means(self, graph: AtomGraph, part: Part) -> list[Tensor]:
        """Return the means of what `part` sums over the copies of a graph by some of the matrices."""
        def of(positions: Tensor, cell: Tensor, matrices: Tensor) -> tuple[Tensor, ...]:
            return part(turned(graph.replace(positions=positions, cell=cell), matrices), matrices)

        matrices = self.matrices.to(graph.positions)
        order = len(matrices)
        if order * graph.num_atoms <= MOST_ATOMS:
            return [total / order for total in of(graph.positions, graph.cell, matrices)]
        weights = [w for w in self.model.parameters() if w.requires_grad]
        parts = [recomputed(of, (graph.positions, graph.cell, some), weights)
                 for some in torch.split(matrices, max(1, MOST_ATOMS // graph.num_atoms))]
        return [torch.stack(sums).sum(dim=0) / order for sums in zip(*parts, strict=True)]

    @staticmethod
    def _sum(values: Tensor, matrices: Tensor) -> Tensor:
        """Return the sum over copies, [n, ...] of [G n, ...]."""
        copies = len(matrices)
        return values.view(copies, len(values) // copies, *values.shape[1:]).sum(dim=0)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> EnergyModel:
        self.model._apply(fn, recurse)
        return self


class AveragedDirect(Averaged):
    """The mean of energies, and of forces and stress turned back, of a model that predicts all of them."""

    def predict(self, graph: AtomGraph) -> DirectPrediction:
        """Return mean energies, forces and stress."""
        model = self.model
        if not isinstance(model, DirectFunction):
            raise AssertionError("made for models that predict forces")

        def everything(copies: AtomGraph, matrices: Tensor) -> tuple[Tensor, ...]:
            found, n = model.predict(copies), graph.num_atoms
            forces = found.forces.to(matrices).view(len(matrices), n, 3) @ matrices.mT
            stress = found.stress.to(matrices).view(len(matrices), graph.num_structures, 3, 3)
            turns = matrices[:, None]
            return self._sum(found.interaction, matrices), forces.sum(dim=0), (turns @ stress @ turns.mT).sum(dim=0)

        interaction, forces, stress = self._means(graph, everything)
        return DirectPrediction(interaction, forces, stress)


def averaged(model: EnergyModel, group: str) -> Averaged:
    """Return the average of a model over a group of rotations; of its forces, too, where it predicts them itself.

    Args:
        model: any.
        group: name of a rotation group.

    Raises:
        OptionError: no such group.
    """
    return (AveragedDirect if isinstance(model, DirectFunction) else Averaged)(model, group)
