"""How far predictions are from labels, as one number: the errors that training can minimise."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from mlip.errors import OptionError

LOSSES = ("mse", "mae", "l2", "huber")


def penalty(kind: str, difference: Tensor, delta: float = 0.01, weights: Tensor | None = None) -> Tensor:
    """Return the mean error of some rows; 0, with gradients that are 0, if there are none.

    Args:
        kind: `"mse"`, the mean square of all components; `"mae"`, their mean absolute value; `"l2"`, the mean length
            of the rows, for a column of numbers the same as `"mae"`; `"huber"`, the mean over components of half the
            square up to `delta`, and of `delta` times the absolute value, less delta^2/2, beyond.
        difference: prediction - label: [n] energies per atom, [n, 3] forces or [n, 9] components of the stress.
        delta: of `"huber"`, in the unit of the difference.
        weights: [n], what the error of each row is multiplied by; None for 1.

    Raises:
        OptionError: an unknown kind, or a delta that is not positive.
    """
    if kind not in LOSSES:
        raise OptionError(f"loss {kind!r} is unknown; known: {', '.join(LOSSES)}")
    if not difference.numel():
        return difference.sum()
    if kind == "mse":
        errors = difference.square()
    elif kind == "mae":
        errors = difference.abs()
    elif kind == "l2":
        errors = torch.linalg.vector_norm(difference.unsqueeze(1).flatten(1), dim=1)
    elif not delta > 0:
        raise OptionError(f"loss 'huber': delta must be a positive number; {delta!r} was given")
    else:
        errors = huber_loss(difference, torch.zeros_like(difference), reduction="none", delta=delta)
    return (errors if weights is None else weights.view(-1, *[1] * (errors.dim() - 1)) * errors).mean()


def known_difference(prediction: Tensor, label: Tensor) -> Tensor:
    """Return prediction - label of the rows whose label is known, [n, ...] for [m, ...]; unknown is NaN.

    Rows that are left out have no influence on gradients, whatever their prediction: structures without a volume have
    NaN for a stress.
    """
    rows = known(label)
    return (prediction[rows] - label[rows]).flatten(1)


def known(label: Tensor) -> Tensor:
    """Return [m], which rows of a label [m, ...] have no NaN."""
    return ~torch.isnan(label).flatten(1).any(1)
