"""The many-body product of the Gaunt variants of MACE."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

from mlip.models.mace.blocks import add_skip
from mlip.models.mace.config import MACEConfig
from mlip.nn.linear import DegreeLinear, normal
from mlip.ops import Backend, sparse_product
from mlip.ops.gaunt_polynomial import by_component, gaunt_polynomial
from mlip.ops.sphere_tables import Form


class GauntProduct(nn.Module):
    """Powers of the messages as functions on the sphere, one weight for each element, order, degree and channel.

    For `gaunt_grid` harmonics have the normalisation of e3nn's grids, in which the signal of largest degree L is the
    sum of sqrt(4 pi / (2 l + 1) / (L + 1)) A_lm Y_lm: other constants in front of the weights, nothing else.
    """

    def __init__(self, config: MACEConfig, layer: int) -> None:
        super().__init__()
        orders, lmax, self.lmax_out = config.correlation, config.edge_lmax, config.layer_lmax(layer)
        on_grid = config.tensor_product == "gaunt_grid"
        self.normalization = "norm" if on_grid else "integral"
        self.constants = ([sqrt(nu * lmax + 1) / sqrt(lmax + 1) ** nu for nu in range(1, orders + 1)]
                          if on_grid else None)
        elements = len(config.atomic_numbers)
        self.weights = nn.Parameter(normal(elements, orders, self.lmax_out + 1, config.channels) / orders)
        self.brackets = (Brackets(config, self.lmax_out) if config.tensor_product == "gaunt_antisymmetric"
                         and Brackets.forms(config, self.lmax_out) else None)
        self.linear = DegreeLinear(self.lmax_out, config.channels)

    def forward(self, messages: Tensor, skip: Tensor | None, elements: Tensor, backend: Backend) -> Tensor:
        """Return the features after the layer, [N, (lmax_out+1)^2, C]."""
        weights: Tensor = self.weights
        if self.constants is not None:
            weights = weights * weights.new_tensor(self.constants).view(-1, 1, 1)
        product = gaunt_polynomial(messages, weights, elements, self.normalization, backend=backend)
        if self.brackets is not None:
            product = product + self.brackets(messages, elements, backend)
        return add_skip(self.linear(product, backend), skip)


class Brackets(nn.Module):
    """What powers on the sphere cannot reach: couplings of three and four messages through odd intermediate degrees.

    The Poisson bracket u = {f, g} of the messages f with a linear map g of theirs holds the antisymmetric couplings of
    two, which have the other parity. Of natural parity are {u, f} (three factors) and u u (four); their intermediate
    degrees go as far as the result can reach.
    """

    def __init__(self, config: MACEConfig, lmax_out: int) -> None:
        super().__init__()
        lmax = config.edge_lmax
        middle = _middle(config, lmax_out)
        self.bracket = Form("poisson", lmax, lmax, middle)
        self.products = self.forms(config, lmax_out)
        self.mix = DegreeLinear(lmax, config.channels)
        shape = len(config.atomic_numbers), len(self.products), lmax_out + 1, config.channels
        self.weights = nn.Parameter(normal(*shape) / config.correlation)

    @staticmethod
    def forms(config: MACEConfig, lmax_out: int) -> list[Form]:
        """Return the products that are not zero of u and f, and of u and u."""
        lmax = config.edge_lmax
        middle = _middle(config, lmax_out)
        forms = [Form("poisson", middle, lmax, lmax_out)] if config.correlation >= 3 and lmax_out > 0 else []
        return forms + ([Form("gaunt", middle, middle, lmax_out)] if config.correlation >= 4 else [])

    def forward(self, messages: Tensor, elements: Tensor, backend: Backend) -> Tensor:
        """Return [N, (lmax_out+1)^2, C] for messages [N, (lmax+1)^2, C]."""
        u = sparse_product(messages, self.mix(messages, backend), self.bracket, backend)
        weights = by_component(self.weights[elements])
        terms = [sparse_product(u, messages if form.kind == "poisson" else u, form, backend) for form in self.products]
        return sum((weights[:, k] * term for k, term in enumerate(terms)), start=torch.zeros_like(weights[:, 0]))


def _middle(config: MACEConfig, lmax_out: int) -> int:
    """Return the largest degree of a bracket of two messages that a third, or another bracket, can bring down."""
    most = 2 * config.edge_lmax - 1
    return most if config.correlation >= 4 else min(most, config.edge_lmax + lmax_out)
