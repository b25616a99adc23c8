"""From a model with direct forces to one whose forces are derivatives: direct pre-training, then fine-tuning."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from mlip.checkpoints import ModelInfo, Potential
from mlip.checkpoints.create import build
from mlip.errors import OptionError


def conservative_from(direct: Potential) -> Potential:
    """Return the conservative potential with the energy of one that predicts forces directly.

    The heads of forces and stress, and what only denoising needs, are left out; all other weights are the same, and
    so is the energy. Forces and stress are now its derivatives, for which nothing was trained: train it further, as
    EquiformerV3 is (arXiv 2604.09130).

    Args:
        direct: of the family EquiformerV3 or TransIP; it is not changed.

    Raises:
        OptionError: a model that is conservative already.
    """
    if direct.model.conservative:
        raise OptionError(f"this model of the family {direct.info.family} is conservative already: train it as it is, "
                          "or give one made with forces='direct'")
    potential = direct.to(rotational_average="none")
    config: Any = potential.model.config
    fields = {"forces": "conservative", "denoising": False}
    known = {field.name for field in dataclasses.fields(config)}
    with torch.random.fork_rng(devices=[]):
        model = build(dataclasses.replace(config, **{k: v for k, v in fields.items() if k in known}), potential.dtype)
    weights = potential.model.state_dict()
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    model.set_backend(potential.backend)
    old = direct.info
    info = ModelInfo(old.family, licence=old.licence, citation=old.citation, training_data=old.training_data,
                     description=f"the energy of {old.name or 'a model'} with direct forces, before further training")
    return Potential(model.to(potential.device), info)
