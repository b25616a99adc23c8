"""TransIP: atoms -> embeddings of elements, charge and spin -> (attention, feed-forward) x layers -> energies."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mlip.graph import AtomGraph
from mlip.models.base import EnergyModel
from mlip.models.transip.blocks import Block, Readout, State, normalised
from mlip.models.transip.config import TransIPConfig
from mlip.models.transip.neighbourhood import Surroundings, whole_molecule
from mlip.nn.derivatives import DirectPrediction
from mlip.nn.linear import normal


class TransIP(EnergyModel):
    """TransIP (arXiv 2510.00027); see `TransIPConfig`.

    The energy depends on the orientation, the less the longer the model learns. Positions enter as differences only, so
    that moving all atoms changes nothing; centred coordinates, which the paper takes, have the same differences.
    """

    config: TransIPConfig
    scale: Tensor
    shift: Tensor

    def __init__(self, config: TransIPConfig) -> None:
        super().__init__()
        self.config = config
        c, elements = config.channels, len(config.atomic_numbers)
        self._register_elements(torch.zeros(1, elements))
        self.embedding = nn.Parameter(normal(elements, c))
        self.state = State(config.charges, config.spins, c)
        if config.mode == "md":
            self.surroundings = Surroundings(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.energy = Readout(c, 1)
        for name, value in (("scale", 1.0), ("shift", 0.0)):
            self.register_buffer(name, torch.full((1,), value, dtype=torch.float32))

    @property
    def rotation_invariant(self) -> bool:
        """Whether turned structures have the same energy: False."""
        return False

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the weights of the energy readout."""
        return self.energy.parameters()

    def forward(self, graph: AtomGraph) -> Tensor:
        """Return the interaction energy of each atom, [N] in eV: `scale` times the network's result plus `shift`."""
        return self.energies(self.features(graph))

    def features(self, graph: AtomGraph) -> Tensor:
        """Return the normalised channels of each atom behind the last block, [N, C].

        The norm has no weights: the readout has them, and the embedding that the loss compares has no scale to shrink.
        """
        elements = self.element_index(graph.numbers)
        x = self.embedding[elements] + self.state(graph.charge, graph.spin)[graph.batch]
        if self.config.mode == "paper":
            known = whole_molecule(graph, self.config, self.dtype)
        else:
            known, around = self.surroundings(graph, elements, self.backend)
            x = x + around
        for block, bias in zip(self.blocks, known.biases, strict=True):
            x = block(x, known.edges, known.vectors, bias, self.backend)
        return normalised(x)

    def energies(self, features: Tensor) -> Tensor:
        """Return the interaction energy of each atom, [N] in eV, from the last channels."""
        energy: Tensor = self.scale * self.energy(features).squeeze(1) + self.shift
        return energy

    def pooled(self, graph: AtomGraph, features: Tensor) -> Tensor:
        """Return the embedding of each structure, [B, C], the mean over its atoms."""
        zeros = features.new_zeros(graph.num_structures, features.shape[1])
        count = torch.bincount(graph.batch, minlength=graph.num_structures).clamp(min=1)
        return zeros.index_add(0, graph.batch, features) / count.to(features).unsqueeze(1)


class DirectTransIP(TransIP):
    """TransIP that predicts forces by a head of their own: they are the derivative of no energy."""

    force_scale: Tensor

    def __init__(self, config: TransIPConfig) -> None:
        super().__init__(config)
        self.forces = Readout(config.channels, 3)
        self.register_buffer("force_scale", torch.ones(1, dtype=torch.float32))

    @property
    def conservative(self) -> bool:
        """Whether its forces are derivatives of its energy: False."""
        return False

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the weights of the readouts of energy and forces."""
        return (weight for head in (self.energy, self.forces) for weight in head.parameters())

    def predict(self, graph: AtomGraph) -> DirectPrediction:
        """Return energies and forces, whose mean in each molecule is 0; a molecule has no stress."""
        return self.predictions(graph, self.features(graph))

    def predictions(self, graph: AtomGraph, features: Tensor) -> DirectPrediction:
        """Return what `predict` does, from the last channels [N, C]."""
        forces = self.force_scale * self.forces(features)
        forces = forces - self.pooled(graph, forces)[graph.batch]
        return DirectPrediction(self.energies(features), forces, forces.new_zeros(graph.num_structures, 3, 3))
