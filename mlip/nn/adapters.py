"""Low-rank adapters: what is trained in the place of large matrices (Hu et al., arXiv 2106.09685)."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mlip.errors import OptionError

Model = TypeVar("Model", bound=nn.Module)


class LowRank(nn.Module):
    """Adds a product of two factors to a weight [..., m, n], a product for each matrix of its last two axes.

    The first factor [..., m, rank] begins as zero, so that nothing changes before training, and those of elements that
    are absent from the data stay zero. Entries of the second, [..., rank, n], have the variance 1 / rank: one learning
    rate moves the weight as fast as it would without the adapter.
    """

    def __init__(self, weight: Tensor, rank: int, generator: np.random.Generator) -> None:
        super().__init__()
        *batch, m, n = weight.shape
        drawn = torch.from_numpy(generator.standard_normal((*batch, rank, n)))
        self.first = nn.Parameter(weight.new_zeros(*batch, m, rank))
        self.second = nn.Parameter((drawn / rank**0.5).to(weight))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with what was learned."""
        return weight + self.first @ self.second


def add_adapters(model: nn.Module, rank: int, seed: int = 0) -> None:
    """Give each large matrix of a model an adapter, and let only the adapters be trained.

    Large is a matrix with more entries than both factors have. The parameters of the model itself, embeddings of
    elements, are looked up, not multiplied, and have none. All that has no adapter keeps its value.

    Args:
        model: changed in place.
        rank: of the adapters.
        seed: of their second factors.

    Raises:
        OptionError: no matrix is large enough, or the model has adapters.
    """
    if _adapted(model):
        raise OptionError("the model has adapters already; fold them in first")
    model.requires_grad_(False)
    generator = np.random.default_rng(seed)
    for module in [m for m in model.modules() if m is not model]:
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight.ndim >= 2 and rank * sum(weight.shape[-2:]) < weight.shape[-2] * weight.shape[-1]:
                parametrize.register_parametrization(module, name, LowRank(weight, rank, generator))
    if not _adapted(model):
        raise OptionError(f"no matrix of the model is large enough for adapters of rank {rank}; use a smaller rank, or "
                          "train all weights")


def merged(model: Model) -> Model:
    """Return a model whose weights hold what its adapters add: itself if there are none, else a copy.

    Torch's own removal would also take the weights of the model that was copied, with which the copy shares classes.
    """
    if not _adapted(model):
        return model
    plain = copy.deepcopy(model)
    for module in _adapted(plain):
        adapted: Any = module
        weights = {name: getattr(module, name).detach() for name in adapted.parametrizations}
        del adapted.parametrizations
        adapted.__class__ = type(module).__bases__[0]
        for name, weight in weights.items():
            module.register_parameter(name, nn.Parameter(weight, requires_grad=False))
    return plain


def _adapted(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if parametrize.is_parametrized(module)]
