"""How far predictions are from labels, as one number: the errors that training can minimise."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from mlip.errors import OptionError

LOSSES = ("mse", "mae", "l2", "huber")


def penalty(kind: str, difference: Tensor, delta: float = 0.01) -> Tensor:
    """Return the mean error of some rows; 0, with gradients that are 0, if there are none.

    Args:
        kind: `"mse"`, the mean square of all components; `"mae"`, their mean absolute value; `"l2"`, the mean length
            of the rows, for a column of numbers the same as `"mae"`; `"huber"`, the mean over components of half the
            square up to `delta`, and of `delta` times the absolute value, less delta^2/2, beyond.
        difference: prediction - label: [n] energies per atom, [n, 3] forces or [n, 9] components of the stress.
        delta: of `"huber"`, in the unit of the difference.

    Raises:
        OptionError: an unknown kind, or a delta that is not positive.
    """
    if kind not in LOSSES:
        raise OptionError(f"loss {kind!r} is unknown; known: {', '.join(LOSSES)}")
    if not difference.numel():
        return difference.sum()
    if kind == "mse":
        return difference.square().mean()
    if kind == "mae":
        return difference.abs().mean()
    if kind == "l2":
        lengths: Tensor = torch.linalg.vector_norm(difference.unsqueeze(1).flatten(1), dim=1)
        return lengths.mean()
    if not delta > 0:
        raise OptionError(f"loss 'huber': delta must be a positive number; {delta!r} was given")
    return huber_loss(difference, torch.zeros_like(difference), delta=delta)


def known_difference(prediction: Tensor, label: Tensor) -> Tensor:
    """Return prediction - label of the rows whose label is known, [n, ...] for [m, ...]; unknown is NaN.

    Rows that are left out have no influence on gradients, whatever their prediction: structures without a volume have
    NaN for a stress.
    """
    known = ~torch.isnan(label).flatten(1).any(1)
    return (prediction[known] - label[known]).flatten(1)
