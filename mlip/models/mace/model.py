"""MACE: atoms -> element embeddings -> (interaction, product, readout) x layers -> energies."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from math import sqrt

import torch
from torch import Tensor, nn

from mlip.graph import AtomGraph
from mlip.models.base import EnergyModel
from mlip.models.mace.blocks import Interaction, LinearReadout, Neighbours, NonLinearReadout, Product
from mlip.models.mace.config import MACEConfig
from mlip.models.mace.gaunt import GauntProduct
from mlip.models.mace.radii import COVALENT_RADII
from mlip.nn.convolution import blocks_of
from mlip.nn.linear import normal
from mlip.nn.radial import AgnesiTransform, BesselBasis, polynomial_cutoff
from mlip.nn.radial_table import RadialTables
from mlip.nn.zbl import ZBLRepulsion
from mlip.ops import spherical_harmonics


class MACE(EnergyModel):
    """MACE (Batatia et al., NeurIPS 2022), exact or with products on the sphere; see `MACEConfig.tensor_product`."""

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
        self.table: RadialTables | None = None  # in the place of the radial functions; see tabulated.py
        self.transform = AgnesiTransform(radii) if config.distance_transform == "agnesi" else None
        self.repulsion = (ZBLRepulsion(config.atomic_numbers, radii, config.cutoff_power)
                          if config.pair_repulsion else None)
        layers = range(config.num_layers)
        interactions = [Interaction(config, t) for t in layers]
        self.widest = max(interaction.paths.weights for interaction in interactions) * config.channels
        self.interactions = nn.ModuleList(interactions)
        product = Product if config.tensor_product == "clebsch_gordan" else GauntProduct
        self.products = nn.ModuleList(product(config, t) for t in layers)
        self.readouts = nn.ModuleList(
            NonLinearReadout(config) if 0 < t == config.num_layers - 1 else LinearReadout(config) for t in layers)
        self.register_buffer("scale", torch.ones(heads))
        self.register_buffer("shift", torch.zeros(heads))

    def forward(self, graph: AtomGraph) -> Tensor:
        """Return the interaction energy of each atom, [N] in eV."""
        elements, head = self.element_index(graph.numbers), graph.head[graph.batch]
        vectors = graph.vectors(self.dtype)
        r = torch.linalg.vector_norm(vectors[graph.pair_edge], dim=-1, keepdim=True)
        ends = elements[graph.edge_index[:, graph.pair_edge]]
        radial = (self.table or self.radial_functions)(r, ends)
        neighbours = self._neighbours(graph, vectors, radial)
        features = (self.embedding / len(self.embedding) ** 0.5)[elements].unsqueeze(1)
        energy: Tensor = r.new_zeros(graph.num_atoms)
        for interaction, product, readout in zip(self.interactions, self.products, self.readouts, strict=True):
            messages, skip = interaction(features, neighbours, elements, self.backend)
            features = product(messages, skip, elements, self.backend)
            energy = energy + readout(features, head)
        if self.repulsion is not None:
            energy = energy + neighbours.sum_on_receivers(self.repulsion(r, *ends))
        if self.config.scale_shift:
            energy = self.scale[head] * energy + self.shift[head]
        return energy

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the weights of the readouts."""
        return self.readouts.parameters()

    def add_shift(self, value: float) -> None:
        """Add a constant, eV, to the interaction energy of each atom."""
        if not self.config.scale_shift:  # it becomes a model that scales by 1
            self.config = dataclasses.replace(self.config, scale_shift=True)
            self.scale.fill_(1.0)
            self.shift.zero_()
        super().add_shift(value)

    def table_norm(self, name: str) -> float:
        """Return what a parameter is divided by because of the number of elements or heads."""
        if name == "embedding" or name.endswith("skip.weight"):
            return sqrt(len(self.config.atomic_numbers))
        return sqrt(len(self.config.heads)) if name.endswith("output") else 1.0

    def tabulated(self) -> MACE:
        """Return a copy whose radial functions are read from tables, made when they are first needed."""
        from mlip.models.mace.tabulated import tabulate

        return tabulate(self)

    def _neighbours(self, graph: AtomGraph, vectors: Tensor, radial: Tensor) -> Neighbours:
        edges = graph.edges()
        blocks = blocks_of(edges, len(radial), self.widest * radial.element_size())
        return Neighbours(edges, blocks, spherical_harmonics(vectors, self.config.edge_lmax, self.backend), radial)

    def radial_functions(self, r: Tensor, ends: Tensor) -> Tensor:
        """Return [K, num_bessel] for distances r [K, 1] in A and the element indices of both ends [2, K]."""
        envelope = polynomial_cutoff(r, self.config.cutoff, self.config.cutoff_power)
        x = r if self.transform is None else self.transform(r, *ends)
        radial: Tensor = self.bessel(x) * envelope
        return radial
