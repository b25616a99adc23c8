"""MACE: atoms -> element embeddings -> (interaction, product, readout) x layers -> energies."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mlip.graph import AtomGraph
from mlip.models.base import EnergyModel
from mlip.models.mace.blocks import Interaction, LinearReadout, NonLinearReadout, Product
from mlip.models.mace.config import MACEConfig
from mlip.models.mace.radii import COVALENT_RADII
from mlip.nn.linear import normal
from mlip.nn.radial import AgnesiTransform, BesselBasis, polynomial_cutoff
from mlip.nn.zbl import ZBLRepulsion
from mlip.ops import spherical_harmonics


class MACE(EnergyModel):
    """The exact MACE model in plain torch (Batatia et al., NeurIPS 2022), the oracle of the fast paths."""

    config: MACEConfig
    scale: Tensor
    shift: Tensor

    def __init__(self, config: MACEConfig) -> None:
        super().__init__()
        self.config = config
        elements, heads = len(config.atomic_numbers), len(config.heads)
        radii = [COVALENT_RADII[z] for z in config.atomic_numbers]
        self._register_elements(torch.zeros(heads, elements))
        self.embedding = nn.Parameter(normal(elements, config.channels))
        self.bessel = BesselBasis(config.num_bessel, config.cutoff)
        self.transform = AgnesiTransform(radii) if config.distance_transform == "agnesi" else None
        self.repulsion = (ZBLRepulsion(config.atomic_numbers, radii, config.cutoff_power)
                          if config.pair_repulsion else None)
        layers = range(config.num_layers)
        self.interactions = nn.ModuleList(Interaction(config, t) for t in layers)
        self.products = nn.ModuleList(Product(config, t) for t in layers)
        self.readouts = nn.ModuleList(
            NonLinearReadout(config) if 0 < t == config.num_layers - 1 else LinearReadout(config) for t in layers)
        self.register_buffer("scale", torch.ones(heads))
        self.register_buffer("shift", torch.zeros(heads))

    def forward(self, graph: AtomGraph) -> Tensor:
        """Return the interaction energy of each atom, [N] in eV."""
        elements, head = self.element_index(graph.numbers), graph.head[graph.batch]
        vectors = graph.vectors(self.dtype)
        r = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
        harmonics = spherical_harmonics(vectors, self.config.edge_lmax)
        radial = self._radial(r, elements, graph.edge_index)
        features = (self.embedding / len(self.embedding) ** 0.5)[elements].unsqueeze(1)
        energy: Tensor = r.new_zeros(graph.num_atoms)
        for interaction, product, readout in zip(self.interactions, self.products, self.readouts, strict=True):
            messages, skip = interaction(features, harmonics, radial, graph.edge_index, elements)
            features = product(messages, skip, elements)
            energy = energy + readout(features, head)
        if self.repulsion is not None:
            sender, receiver = graph.edge_index
            energy = energy + self.repulsion(r, elements[sender], elements[receiver], receiver, graph.num_atoms)
        if self.config.scale_shift:
            energy = self.scale[head] * energy + self.shift[head]
        return energy

    def _radial(self, r: Tensor, elements: Tensor, edge_index: Tensor) -> Tensor:
        envelope = polynomial_cutoff(r, self.config.cutoff, self.config.cutoff_power)
        x = r if self.transform is None else self.transform(r, elements[edge_index[0]], elements[edge_index[1]])
        radial: Tensor = self.bessel(x) * envelope
        return radial
