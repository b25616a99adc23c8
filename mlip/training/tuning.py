"""`Tuning`: which weights a run changes, and how the trained model becomes an ordinary one."""

from __future__ import annotations

from mlip.models import EnergyModel


class Tuning:
    """All weights."""

    def prepare(self, model: EnergyModel) -> EnergyModel:
        """Return the model to train, made of a copy that may be changed; what has gradients is trained."""
        return model.requires_grad_(True)

    def merged(self, model: EnergyModel) -> EnergyModel:
        """Return a trained model as one of its family, made of a copy that may be changed."""
        return model
