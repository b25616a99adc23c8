"""The feed-forward network of an atom: two degree-wise maps around the product of two signals on the sphere."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from mlip.models.equiformer_v3.blocks import DegreeMap, map_degrees, uniform
from mlip.models.equiformer_v3.config import EquiformerV3Config
from mlip.nn.merged import Merged
from mlip.ops import Backend, sphere_product
from mlip.ops.sphere_tables import swiglu_matrices


class FeedForward(nn.Module):
    """Maps to hidden channels, multiplies two signals on the sphere, maps back (arXiv 2604.09130, section 4.2).

    The published network has linear maps of channels on the points of a grid. They commute with going there and back,
    so here they act on coefficients; where weights are not trained they are merged with the maps beside them, and all
    that happens on the sphere is the product.
    """

    def __init__(self, config: EquiformerV3Config) -> None:
        super().__init__()
        self.lmax, width = config.lmax, config.feed_forward_hidden
        self.expand = DegreeMap(config.lmax, config.channels, width)
        self.gate = nn.Linear(config.channels, width, dtype=torch.float32)
        self.scalars = nn.Linear(config.channels, 2 * width, dtype=torch.float32)
        self.factors = uniform(2 * width, width, fan_in=width)
        self.mix = uniform(width, width, fan_in=width)
        self.contract = DegreeMap(config.lmax, width, config.channels)
        self.merged = Merged()

    def forward(self, x: Tensor, backend: Backend) -> Tensor:
        """Return [N, (lmax+1)^2, C] for x of the same shape."""
        into, bias, out_of = self.merged(self._maps, self.expand.weight, self.expand.bias, self.factors, self.mix,
                                         self.contract.weight)
        first, second = map_degrees(x, into, bias).chunk(2, dim=2)
        scalars = x[:, 0]
        product = sphere_product(first, second, *swiglu_matrices(self.lmax, None, x), backend)
        product = product * torch.sigmoid(self.gate(scalars)).unsqueeze(1)
        out = map_degrees(product, out_of, self.contract.bias)
        p, q = self.scalars(scalars).chunk(2, dim=1)
        return torch.cat([out[:, :1] + linear(silu(p) * q, self.contract.weight[0]).unsqueeze(1), out[:, 1:]], dim=1)

    @staticmethod
    def _maps(expand: Tensor, bias: Tensor, factors: Tensor, mix: Tensor, contract: Tensor) -> tuple[Tensor, ...]:
        """Return the matrices to both factors [L+1, 2F, C], their bias [2F], and those from the product [L+1, C, F]."""
        return factors @ expand, factors @ bias, contract @ mix
