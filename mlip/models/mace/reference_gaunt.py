"""Weights of the published MACE-Gaunt -> our configuration and weights.

The reference (Luo et al., ICLR 2024) is a MACE of 2022 whose many-body product is taken on the sphere. Beside that it
differs from mace-torch in the order of the radial weights of a convolution, which follows the enumeration of its paths.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mlip.errors import UnsupportedModelError
from mlip.models.mace.config import MACEConfig
from mlip.models.mace.reference import convert_with
from mlip.so3.degrees import convolution_paths

CLASSES = {"EquivariantRealScaleShiftNonLinearBodyOrderedModel": "ScaleShiftMACE",
           "EquivariantNonLinearBodyOrderedModel": "MACE"}


def convert(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> tuple[MACEConfig, dict[str, Tensor]]:
    """Translate a model of the published MACE-Gaunt.

    Args:
        state_dict: tensors under the reference's own keys.
        config: the reference's constructor arguments, with the class name under `model_class`.

    Returns:
        Our configuration, and our state dict in the dtype of the reference.

    Raises:
        UnsupportedModelError: options or tensors that mlip does not implement, by name.
    """
    name = str(config.get("model_class")).rpartition(" ")[2]  # the class alone, or after a description of the model
    if name not in CLASSES:
        raise UnsupportedModelError(f"mace_gaunt: model_class {config.get('model_class')!r} is not supported; "
                                    f"supported: {', '.join(CLASSES)}")
    if config.get("num_radial_coupling", 1) != 1:
        raise UnsupportedModelError("mace_gaunt: num_radial_coupling must be 1; "
                                    f"{config['num_radial_coupling']!r} was given")
    numbers = {"atomic_numbers": torch.tensor(config["atomic_numbers"])}
    return convert_with({**numbers, **state_dict}, {**config, "model_class": CLASSES[name]}, "gaunt", _sorted)


def _sorted(tensors: Mapping[str, Tensor], c: MACEConfig) -> dict[str, Tensor]:
    """Return the tensors with radial weights sorted by the degree of the messages, as in mace-torch."""
    out = dict(tensors)
    for t in range(c.num_layers):
        paths = convolution_paths(0 if t == 0 else c.layer_lmax(t - 1), c.edge_lmax, c.edge_lmax)
        order = [sorted(paths).index(path) for path in paths]  # they are enumerated by l1, l2, l3
        key = f"interactions.{t}.conv_tp_weights.layer{len(c.radial_mlp)}.weight"
        if key in tensors:  # else the reader reports it
            by_path = tensors[key].reshape(len(tensors[key]), len(paths), -1)
            out[key] = by_path.index_select(1, torch.tensor(order)).flatten(1)
    return out
