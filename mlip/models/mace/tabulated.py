"""MACE with tabulated radial functions: the same model, its radial networks replaced by tables."""

from __future__ import annotations

import copy
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from mlip.errors import OptionError
from mlip.models.mace.model import MACE
from mlip.nn.radial_table import Jets, RadialTables, TableNetwork, function_jets, network_jets


class ExactRadial:
    """The exact radial functions of a model in float64, from which tables are made."""

    def __init__(self, model: MACE, pairs: list[tuple[int, int]]) -> None:
        self.model, self.pairs = copy.deepcopy(model).to(device="cpu", dtype=torch.float64), pairs
        for layer in (*self.model.products, *self.model.readouts):
            layer.to("meta")  # never used here

    def __call__(self, kind: int, r: Tensor) -> Jets:
        """Return values and first two derivatives of each network, [3, n, columns], at distances [n] in A."""
        ends = torch.tensor(self.pairs[kind]).unsqueeze(1).expand(2, len(r))
        basis = function_jets(lambda x: self.model.radial_functions(x.unsqueeze(1), ends), r)
        with torch.no_grad():
            return [network_jets(getattr(layer, name), basis) for layer, name in _networks(self.model)]


def tabulate(model: MACE) -> MACE:
    """Return a copy of the model whose radial functions are read from tables.

    Raises:
        OptionError: radial functions that are tabulated already.
    """
    if model.table is not None:
        raise OptionError("the radial functions of this model are tabulated already")
    tabulated, (kinds, pairs) = copy.deepcopy(model), _kinds(model)
    tables = []
    for layer, name in _networks(tabulated):
        columns = getattr(layer, name).weights[-1].shape[1]
        tables.append(TableNetwork(columns, model.config.cutoff).to(device=model.device, dtype=model.dtype))
        setattr(layer, name, tables[-1])
    tabulated.table = RadialTables(ExactRadial(model, pairs), kinds, model.config.cutoff, tables).to(model.device)
    return tabulated


def _networks(model: MACE) -> list[tuple[torch.nn.Module, str]]:
    return [(layer, name) for layer in model.interactions for name in ("radial", "density")
            if getattr(layer, name) is not None]


def _kinds(model: MACE) -> tuple[Tensor, list[tuple[int, int]]]:
    """Return the kind of each pair of elements [Z, Z], and one pair of each kind."""
    elements = len(model.config.atomic_numbers)
    kinds = torch.zeros(elements, elements, dtype=torch.int64)
    if model.transform is None:  # the distance is all that matters
        return kinds, [(0, 0)]
    pairs = list(combinations_with_replacement(range(elements), 2))
    for kind, (i, j) in enumerate(pairs):
        kinds[i, j] = kinds[j, i] = kind
    return kinds, pairs
