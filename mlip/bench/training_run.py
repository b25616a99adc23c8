"""Our side of `mlip bench training`: steps of training on structures of a file."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from mlip.checkpoints import Potential
from mlip.graph import Structure
from mlip.graph.labelled import Labelled
from mlip.training import Dataset, TrainingConfig
from mlip.training.data import Batch
from mlip.training.module import TrainingModule
from mlip.training.plan import Plan

PRODUCTS = re.compile(r"products\.\d+\.weights")  # in a basis of their own: their gradient has another norm elsewhere


def save_labelled(examples: Sequence[Labelled], path: str | os.PathLike[str]) -> None:
    """Write examples for processes of any environment to read: arrays of all atoms and of all structures."""
    structures = [e.structure for e in examples]
    np.savez(path, numbers=np.concatenate([s.numbers for s in structures]),
             positions=np.concatenate([s.positions for s in structures]),
             forces=np.concatenate([e.forces for e in examples]), energy=np.array([e.energy for e in examples]),
             sizes=np.array([len(s) for s in structures]), cell=np.stack([s.cell for s in structures]),
             pbc=np.stack([s.pbc for s in structures]))


def load_labelled(path: str | os.PathLike[str]) -> list[Labelled]:
    """Read what `save_labelled` wrote."""
    with np.load(path) as z:
        arrays = dict(z)
    bounds = np.cumsum(arrays["sizes"])[:-1]
    by_atom = (np.split(arrays[name], bounds) for name in ("numbers", "positions", "forces"))
    return [Labelled(Structure.create(numbers, positions, cell if pbc.any() else None, pbc), float(energy), forces)
            for numbers, positions, forces, energy, cell, pbc in zip(
                *by_atom, arrays["energy"], arrays["cell"], arrays["pbc"], strict=True)]


class TrainingRun:
    """What `mlip train` does between two validations.

    Attributes:
        edges: of all structures.
    """

    def __init__(self, potential: Potential, path: str | os.PathLike[str], steps: int, config: TrainingConfig) -> None:
        """Get ready.

        Args:
            potential: start; its weights are not changed.
            path: file that `save_labelled` wrote.
            steps: of a call of `run`.
            config: of the training.
        """
        self.config, self.steps, self.done = config, steps, 0
        self.data = Dataset(load_labelled(path), potential)
        self.edges = sum(batch.graph.edge_index.shape[1] for batch in self.data.batches(config.batch_size))
        self.plan = Plan(config, len(self.data), potential.model.config.family)
        self.module = TrainingModule(potential, config, self.plan)
        self.weights = list(self.module.model.parameters())
        self.optimizer = self.module.configure_optimizers()
        self.generator = np.random.default_rng(config.seed)

    def first_loss(self) -> dict[str, float]:
        """Return the loss of the first batch, and the norm of its gradient without that by the weights of products."""
        loss = self.differentiate(self.data.batch(range(self.config.batch_size)))
        compared = [p.grad for name, p in self.module.model.named_parameters() if not PRODUCTS.match(name)]
        norm = nn.utils.get_total_norm([g for g in compared if g is not None])
        return {"loss": float(loss), "gradient norm": float(norm)}

    def run(self) -> None:
        """Train for some steps."""
        for _ in range(self.steps):
            self.one_step(self.data.batch(self.plan.indices(self.done)))
            self.done += 1

    def one_step(self, batch: Batch) -> None:
        """Make one step, as Lightning does."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate(self.done)
        self.differentiate(batch)
        nn.utils.clip_grad_norm_(self.weights, self.config.max_gradient)
        self.optimizer.step()
        self.module.follow(self.done + 1)

    def differentiate(self, batch: Batch) -> Tensor:
        """Compute the derivatives of the loss by the weights; return the loss."""
        self.optimizer.zero_grad()
        loss: Tensor = self.module.objective(self.module.model, batch, self.generator)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()
