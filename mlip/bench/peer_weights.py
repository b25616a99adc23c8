"""Weights of ours in the layout of mace-torch: the inverse of `mlip.models.mace.reference.convert`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlip.checkpoints import Potential
from mlip.models.mace.config import MACEConfig
from mlip.models.mace.reference import change_of_basis


def exported(potential: Potential, peer: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the tensors of mace-torch that hold the weights of a model.

    Args:
        potential: a MACE with a scale and shift, residual blocks and no transform of distances or pair repulsion.
        peer: the state dict of a model of mace-torch with the same configuration, for shapes and couplings.
    """
    config: Any = potential.model.config
    weights = {k: v.detach().double() for k, v in potential.model.state_dict().items()}
    return {key: value.numpy().astype(peer[key].dtype).reshape(peer[key].shape)
            for key, value in _tensors(weights, config, peer)}


def _tensors(ours: Mapping[str, Tensor], c: MACEConfig,
             peer: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, Tensor]]:
    yield "atomic_energies_fn.atomic_energies", ours["atomic_energies"]
    yield "node_embedding.linear.weight", ours["embedding"]
    yield "radial_embedding.bessel_fn.bessel_weights", ours["bessel.frequencies"]
    for name in ("scale", "shift"):
        yield f"scale_shift.{name}", ours[name]
    for t in range(c.num_layers):
        block = f"interactions.{t}"
        yield f"{block}.linear_up.weight", ours[f"{block}.linear_up.weight"]
        for i in range(len(c.radial_mlp) + 1):
            yield f"{block}.conv_tp_weights.layer{i}.weight", ours[f"{block}.radial.weights.{i}"]
        by_degree = [ours[f"{block}.linear.weights.{l}"].flatten() for l in range(c.edge_lmax + 1)]
        yield f"{block}.linear.weight", torch.cat(by_degree)
        yield f"{block}.skip_tp.weight", ours[f"{block}.skip.weight"].permute(1, 2, 0, 3)
        yield f"products.{t}.linear.weight", ours[f"products.{t}.linear.weight"]
        yield from _couplings(ours, c, peer, t)
    last = c.num_layers - 1
    for t in range(last):
        yield f"readouts.{t}.linear.weight", ours[f"readouts.{t}.weight"]
    yield f"readouts.{last}.linear_1.weight", ours[f"readouts.{last}.hidden"].transpose(0, 1)
    yield f"readouts.{last}.linear_2.weight", ours[f"readouts.{last}.output"]


def _couplings(ours: Mapping[str, Tensor], c: MACEConfig, peer: Mapping[str, NDArray[Any]],
               t: int) -> Iterator[tuple[str, Tensor]]:
    """Yield weights of dependent couplings, of least norm among those that are the same function."""
    for l in range(c.layer_lmax(t) + 1):
        prefix = f"products.{t}.symmetric_contractions.contractions.{l}"
        for nu in range(1, c.correlation + 1):
            name = "weights_max" if nu == c.correlation else f"weights.{c.correlation - 1 - nu}"
            change = change_of_basis(peer[f"{prefix}.U_matrix_{nu}"], c.edge_lmax, nu, l)
            weights = ours[f"products.{t}.weights.{l * c.correlation + nu - 1}"]
            yield f"{prefix}.{name}", torch.einsum("ba,zac->zbc", torch.from_numpy(np.linalg.pinv(change)), weights)
