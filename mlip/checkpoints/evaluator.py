"""`Evaluator`: one system, evaluated again and again, with a neighbour list that is reused."""

from __future__ import annotations

from mlip.checkpoints.potential import Potential, Prediction
from mlip.graph import Structure
from mlip.neighbors import VerletSkin


class Evaluator:
    """Evaluates a moving system; both the ASE calculator and the OpenMM force stand on it.

    The neighbour list is made with `cutoff + skin` and reused until an atom has moved so far, or the
    cell has changed so much, that a pair could be missing; what the model sees is always the exact
    list for `cutoff`.
    """

    def __init__(self, potential: Potential, skin: float = 1.0) -> None:
        """Keep the potential and an empty list.

        Args:
            potential: the model.
            skin: A, at least 0; 0 rebuilds the list at every call.
        """
        self.potential = potential
        self.skin = VerletSkin(potential.cutoff, skin)

    def __call__(self, structure: Structure, *, forces: bool = True, stress: bool = True) -> Prediction:
        """Return the prediction for the structure; see `Potential.evaluate` for the errors."""
        edges = self.skin.update(structure.positions, structure.cell, structure.pbc)
        return self.potential.evaluate([structure], forces=forces, stress=stress, edges=[edges])[0]
