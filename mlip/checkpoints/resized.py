"""Models with other elements, or one head of several, that give the same numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mlip.checkpoints.create import build
from mlip.checkpoints.potential import Potential
from mlip.elements import nearest_element
from mlip.errors import OptionError
from mlip.graph.build import head_index
from mlip.models import EnergyModel, ModelConfig


def with_head(potential: Potential, head: str | None) -> Potential:
    """Return a potential that has one head only, with the energies of this head; itself if it has no other.

    Args:
        potential: its weights are not changed.
        head: name; None where there is one only.

    Raises:
        OptionError: no head of this name, or several and none was chosen.
    """
    config = potential.model.config
    if head is None and len(config.heads) > 1:
        raise OptionError(f"the model has the heads {', '.join(config.heads)}; name the one to continue with, "
                          "head = \"...\"")
    index = head_index(head, config.heads)
    if len(config.heads) == 1:
        return potential
    one = dataclasses.replace(config, heads=(config.heads[index],))
    return _like(potential, _resized(potential.model, one, [index], torch.ones(1, dtype=torch.bool)))


def with_elements(potential: Potential, numbers: Iterable[int]) -> Potential:
    """Return a potential for other elements; itself if they are the same.

    Structures of elements that both know keep their energies. Elements that the model did not know begin with the
    weights of the element most like them, of the same group if there is one, and with an isolated-atom energy of 0.

    Args:
        potential: its weights are not changed.
        numbers: atomic numbers of all its elements from now on.
    """
    config, wanted = potential.model.config, tuple(sorted(set(numbers)))
    if wanted == config.atomic_numbers:
        return potential
    known = config.atomic_numbers
    union = tuple(sorted({*known, *wanted}))
    if union not in (known, wanted):  # some come and some go
        return with_elements(with_elements(potential, union), wanted)
    like = [known.index(nearest_element(z, known)) for z in wanted]
    model = _resized(potential.model, dataclasses.replace(config, atomic_numbers=wanted), like,
                     torch.tensor([z in known for z in wanted]))
    return _like(potential, model)


def _resized(model: EnergyModel, config: ModelConfig, like: Sequence[int], known: Tensor) -> EnergyModel:
    """Return a model with other rows in its tables, which are all that depends on the number of elements or heads.

    Args:
        model: the old one.
        config: of the new one.
        like: for each row of the new tables, the row of the old ones.
        known: [rows] bool, whether it is the row of the same element or head; constants of others are those of a new
            model.
    """
    with torch.random.fork_rng(devices=[]):
        new = build(config, model.dtype)
    old, state, parameters = model.state_dict(), new.state_dict(), dict(new.named_parameters())
    for name, value in state.items():
        axes = [i for i, (a, b) in enumerate(zip(value.shape, old[name].shape, strict=True)) if a != b]
        if not axes:
            value.copy_(old[name])
            continue
        rows = old[name].cpu().index_select(axes[0], torch.tensor(like))
        if name in parameters:
            value.copy_(rows * (new.table_norm(name) / model.table_norm(name)))
        else:
            shape = [-1 if i == axes[0] else 1 for i in range(value.ndim)]
            value.copy_(torch.where(known.view(shape), rows, value))
    new.set_backend(model.backend)
    return new.to(model.device)


def _like(potential: Potential, model: EnergyModel) -> Potential:
    return Potential(model, dataclasses.replace(potential.info, sha256="", validation={}, card={}))
