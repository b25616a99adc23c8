"""Our side of `mlip bench training`: steps of training on structures of a file."""

from __future__ import annotations

import copy
import itertools
import os
import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mlip.checkpoints import Potential
from mlip.graph import Structure
from mlip.graph.labelled import Labelled
from mlip.training import Dataset, TrainingConfig
from mlip.training.data import Batch
from mlip.training.objective import objective_for

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
    """A model, what trains it, and data.

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
        self.config, self.steps = config, steps
        self.data = Dataset(load_labelled(path), potential)
        self.edges = sum(len(e.senders) for e in self.data.edges)
        self.model = copy.deepcopy(potential.model).requires_grad_(True)
        self.average = copy.deepcopy(potential.model).requires_grad_(False)
        self.objective = objective_for(self.model, config)
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.learning_rate, amsgrad=True)
        self.generator = np.random.default_rng(config.seed)

    def first_loss(self) -> dict[str, float]:
        """Return the loss of the first batch, and the norm of its gradient without that by the weights of products."""
        batch = self.data.batch(range(self.config.batch_size))
        loss = self.differentiate(batch)
        compared = [p.grad for name, p in self.model.named_parameters() if not PRODUCTS.match(name)]
        norm = nn.utils.get_total_norm([g for g in compared if g is not None])
        return {"loss": float(loss), "gradient norm": float(norm)}

    def run(self) -> None:
        """Train for some steps."""
        done = 0
        while done < self.steps:
            batches = self.data.batches(self.config.batch_size, self.generator)
            for batch in itertools.islice(batches, self.steps - done):
                self.one_step(batch)
                done += 1

    def one_step(self, batch: Batch) -> None:
        """Make one step."""
        self.differentiate(batch)
        nn.utils.clip_grad_norm_(self.parameters, self.config.max_gradient)
        self.optimizer.step()
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.parameters, strict=True):
                mean.lerp_(now, 1 - self.config.ema_decay)

    def differentiate(self, batch: Batch) -> Tensor:
        """Compute the derivatives of the loss by the weights; return the loss."""
        self.optimizer.zero_grad()
        loss: Tensor = self.objective(self.model, batch, self.generator)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()
