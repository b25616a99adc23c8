"""`TrainingConfig`: every choice of a training run."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from mlip.errors import OptionError


@dataclass(frozen=True)
class TrainingConfig:
    """Options of `mlip.training.train`.

    Attributes:
        epochs: passes over the training set; the learning rate falls to zero over them (cosine).
        batch_size: structures in one step.
        learning_rate: of Adam with AMSGrad at the start.
        energy_weight: weight of the mean squared error of energies per atom, (eV/atom)^2.
        forces_weight: weight of the mean squared error of force components, (eV/A)^2.
        latent_weight: weight of what the embeddings of two orientations are apart, for models that learn rotations
            (`mlip.training.objective.TwoViews`).
        torque_weight: weight of the derivative of the energy by a rotation, 1/eV, for the same models.
        ema_decay: of the exponential moving average of the weights, which is what is kept.
        max_gradient: the norm of the gradient is cut to this.
        validation_fraction: share of the data held out.
        patience: stop after so many epochs without a better validation loss.
        seed: of the split and of the order of the batches.
    """

    epochs: int = 200
    batch_size: int = 5
    learning_rate: float = 0.01
    energy_weight: float = 1000.0
    forces_weight: float = 100.0
    latent_weight: float = 0.0
    torque_weight: float = 0.0
    ema_decay: float = 0.99
    max_gradient: float = 10.0
    validation_fraction: float = 0.1
    patience: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            smallest = 0 if field.name == "seed" else 1
            if isinstance(field.default, int) and (type(value) is not int or value < smallest):
                raise OptionError(f"training: {field.name} must be a whole number from {smallest}; {value!r} was given")
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if isinstance(field.default, float) and not (number and 0 <= value < math.inf):
                raise OptionError(f"training: {field.name} must be a number and not negative; {value!r} was given")
        if not 0 < self.validation_fraction < 1 or not 0 <= self.ema_decay < 1:
            raise OptionError("training: validation_fraction and ema_decay must lie between 0 and 1; "
                              f"{self.validation_fraction!r} and {self.ema_decay!r} were given")
