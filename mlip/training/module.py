"""`TrainingModule`: what Lightning trains."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from mlip.checkpoints import ModelInfo, Potential
from mlip.errors import NonFiniteError
from mlip.training.config import TrainingConfig
from mlip.training.data import Batch, Dataset
from mlip.training.objective import objective_for
from mlip.training.optimizer import AdamW, Muon
from mlip.training.plan import Plan
from mlip.training.repulsion import Repulsion


class TrainingModule(LightningModule):
    """A model, the moving average of its weights, and what it is trained for.

    Attributes:
        model: takes the steps.
        average: its moving average, which is validated and kept.
        objective: the loss, which may have weights of its own.
        plan: what each step does.
        repulsion: what is added to the loss with `repulsion_weight`; None for nothing.
        losses: of the steps since the last validation.
    """

    def __init__(self, potential: Potential, config: TrainingConfig, plan: Plan,
                 repulsion: Repulsion | None = None) -> None:
        super().__init__()
        self.config, self.plan, self.repulsion = config, plan, repulsion
        self.model = copy.deepcopy(potential.model)
        if not any(weight.requires_grad for weight in self.model.parameters()):
            self.model.requires_grad_(True)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)
            self.objective = objective_for(self.model, config).to(potential.device, potential.dtype)
        names = {n for n, p in self.model.named_parameters() if p.requires_grad}
        self._moving: list[Tensor] = [p for n, p in self.model.named_parameters() if n in names]
        self.losses: list[Tensor] = []
        self._means: list[Tensor] = [p for n, p in self.average.named_parameters() if n in names]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer; the learning rate is set before every step."""
        weights = [p for p in self.parameters() if p.requires_grad]
        kind = Muon if self.config.optimizer_for(self.model.config.family) == "muon" else AdamW
        return kind(weights, self.config.weight_decay)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch."""
        return batch.to(device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rate and the stage of the step."""
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.plan.rate(self.global_step)
        self.objective.stage = self.plan.stage(self.global_step)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        generator = np.random.default_rng([self.config.seed, self.global_step, self.global_rank])
        loss: Tensor = self.objective(self.model, batch, generator)
        if self.repulsion is not None:
            loss = loss + self.config.repulsion_weight * self.repulsion.gain(self.model, generator)
        if not torch.isfinite(loss):
            raise NonFiniteError(f"the training loss became {loss.item()} in step {self.global_step}; "
                                 f"{remedy(self.plan.rate(self.global_step))}")
        self.losses.append(loss.detach())
        if self.trainer.world_size > 1:  # processes wait for the gradient of every weight, used or not
            loss = loss + 0 * sum(weight.sum() for weight in self.parameters() if weight.requires_grad)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Let the average follow."""
        self.follow(self.global_step)

    def follow(self, steps: int) -> None:
        """Let the average follow after so many steps, faster in the beginning."""
        decay = min(self.config.ema_decay, steps / (steps + 9))
        with torch.no_grad():
            torch._foreach_lerp_(self._means, self._moving, 1 - decay)

    def potential(self, info: ModelInfo) -> Potential:
        """Return the average as a potential of its own."""
        return Potential(copy.deepcopy(self.average), info)


class Batches:
    """The batches of a round, as Lightning asks for them: those that follow the step the run has reached."""

    def __init__(self, data: Dataset, module: TrainingModule) -> None:
        self.data, self.module = data, module

    def __len__(self) -> int:
        return self.module.plan.round

    def __iter__(self) -> Iterator[Batch]:
        plan, trainer = self.module.plan, self.module.trainer
        first = trainer.global_step
        for step in range(first, min(first + plan.round, plan.steps)):
            yield self.data.batch(plan.indices(step, trainer.global_rank, trainer.world_size))


def remedy(rate: float) -> str:
    """Return what to do about numbers that are none."""
    return f"lower the learning rate, now {rate:g}, and train in another folder"
