"""The training loop: plain torch, exponential moving average, early stop, resume."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from mlip.checkpoints import ModelInfo, Potential
from mlip.checkpoints.symmetry import summary, symmetry_reports
from mlip.errors import ModelFileError, NonFiniteError
from mlip.graph import naming
from mlip.graph.labelled import Labelled
from mlip.training.config import TrainingConfig
from mlip.training.data import Dataset, fingerprint, split
from mlip.training.metrics import Errors, errors
from mlip.training.objective import objective_for

SYMMETRY_STRUCTURES, SYMMETRY_ROTATIONS = 8, 16  # that the card of a model which learns rotations reports


class Trainer:
    """One training run; `fit` does everything."""

    def __init__(self, potential: Potential, examples: Sequence[Labelled], folder: Path,
                 config: TrainingConfig) -> None:
        """Prepare a run.

        Args:
            potential: start; its weights are not changed.
            examples: training and validation data.
            folder: gets `best.mlip`, `last.pt` (to resume) and `log.csv`; made if absent.
            config: options.
        """
        self.config, self.folder = config, folder
        potential = potential.to(radial="exact", rotational_average="none")  # tables do not follow the weights
        self.model = copy.deepcopy(potential.model).requires_grad_(True)
        self.average = copy.deepcopy(potential.model).requires_grad_(False)
        self.options = {**dataclasses.asdict(config), "data": fingerprint(examples),
                        "model": json.dumps([self.model.config.to_dict(), self.model.atomic_energies.tolist()])}
        for i, example in enumerate(examples):  # before hours are spent, and by its place in the data
            with naming(i):
                potential.check_backend(example.structure, potential.graph([example.structure]))
        training, validation = split(examples, config.validation_fraction, config.seed)
        self.info: ModelInfo = dataclasses.replace(
            potential.info, description=f"trained on {len(training)} structures, validated on {len(validation)}")
        self.training = Dataset(training, potential)
        self.validation = Dataset(validation, Potential(self.average, self.info))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)
            self.objective = objective_for(self.model, config).to(potential.device, potential.dtype)
        self.parameters = [*self.model.parameters(), *self.objective.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.learning_rate, amsgrad=True)
        steps = config.epochs * -(-len(training) // config.batch_size)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, max(steps, 1))
        self.epoch, self.best, self.best_epoch = 0, float("inf"), 0
        folder.mkdir(parents=True, exist_ok=True)
        if self.state_file.is_file():
            self._resume()

    @property
    def state_file(self) -> Path:
        """File that a run continues from."""
        return self.folder / "last.pt"

    @property
    def best_file(self) -> Path:
        """The averaged weights with the smallest validation loss so far."""
        return self.folder / "best.mlip"

    def fit(self, progress: bool = True) -> Path:
        """Train until the epochs are done or the validation stops improving; return the best model's path."""
        config = self.config
        bar = tqdm(range(self.epoch, config.epochs), initial=self.epoch, total=config.epochs, unit="epoch",
                   disable=not progress)
        for epoch in bar:
            if epoch - self.best_epoch >= config.patience:
                break
            start = time.perf_counter()
            self._train_epoch(np.random.default_rng([config.seed, epoch]))
            found = errors(self.validation)
            if not np.isfinite(dataclasses.astuple(found)).all():
                raise NonFiniteError(f"the validation errors became NaN or infinite in epoch {epoch}; lower the "
                                     f"learning rate, now {config.learning_rate}, and train in another folder")
            self.epoch = epoch + 1
            self._keep(found, time.perf_counter() - start)
            bar.set_postfix_str(str(found))
        return self.best_file

    def _train_epoch(self, generator: np.random.Generator) -> None:
        for batch in self.training.batches(self.config.batch_size, generator):
            self.optimizer.zero_grad()
            value = self.objective(self.model, batch, generator)
            if not torch.isfinite(value):
                raise NonFiniteError(f"the training loss became {value.item()} in epoch {self.epoch}; lower the "
                                     f"learning rate, now {self.config.learning_rate}, and train in another folder")
            value.backward()
            nn.utils.clip_grad_norm_(self.parameters, self.config.max_gradient)
            self.optimizer.step()
            self.schedule.step()
            with torch.no_grad():
                for mean, now in zip(self.average.parameters(), self.model.parameters(), strict=True):
                    mean.lerp_(now, 1 - self.config.ema_decay)

    def _keep(self, found: Errors, seconds: float) -> None:
        """Write the log and the state, and the model if it is the best so far."""
        score = (self.config.energy_weight * found.energy_rmse**2
                 + self.config.forces_weight * found.forces_rmse**2) * 1e-6
        if score < self.best:
            self.best, self.best_epoch = score, self.epoch
            info = dataclasses.replace(self.info, validation={**found.to_dict(), **self._symmetry()})
            Potential(copy.deepcopy(self.average), info).save(self.best_file)
        log = self.folder / "log.csv"
        header = "" if log.is_file() else "epoch,energy_rmse,energy_mae,forces_rmse,forces_mae,seconds\n"
        row = f"{self.epoch},{','.join(f'{v:.4f}' for v in dataclasses.astuple(found))},{seconds:.1f}\n"
        with log.open("a") as file:
            file.write(header + row)
        state = {**{name: part.state_dict() for name, part in self._parts().items()},
                 "epoch": self.epoch, "best": self.best, "best_epoch": self.best_epoch, "options": self.options}
        partial = self.state_file.with_suffix(".part")
        torch.save(state, partial)
        os.replace(partial, self.state_file)

    def _parts(self) -> dict[str, Any]:
        """Return everything with a state, by the names it has in the file."""
        return {"model": self.model, "objective": self.objective, "average": self.average,
                "optimizer": self.optimizer, "schedule": self.schedule}

    def _symmetry(self) -> dict[str, float]:
        """Return how much rotations change, for the card of a model that is not invariant."""
        if self.average.rotation_invariant:
            return {}
        some = self.validation.batch(range(min(len(self.validation), SYMMETRY_STRUCTURES)))
        found = summary(symmetry_reports(self.average, some.graph, SYMMETRY_ROTATIONS))
        return {name: round(value, 4) for name, value in found.items()}

    def _resume(self) -> None:
        try:
            state: dict[str, Any] = torch.load(self.state_file, weights_only=True)
            options = state["options"]
        except Exception as error:  # torch raises whatever a damaged archive makes it stumble over
            raise ModelFileError(f"{self.state_file} is damaged ({type(error).__name__}: {error}); delete it to begin "
                                 "anew") from None
        if options != self.options:
            other = sorted(k for k in self.options if options.get(k) != self.options[k])
            raise ModelFileError(f"{self.folder} holds a run with other options or data; different: "
                                 f"{', '.join(other)}. Give the same to resume it, or another folder")
        try:
            for name, part in self._parts().items():
                part.load_state_dict(state[name])
            self.epoch, self.best, self.best_epoch = state["epoch"], state["best"], state["best_epoch"]
            if self.best_epoch and not self.best_file.is_file():
                raise ModelFileError(f"{self.best_file}, the best model so far, is gone; delete {self.state_file} to "
                                     "begin anew")
        except (KeyError, RuntimeError) as error:
            raise ModelFileError(f"{self.folder} holds a run of another model ({error}); "
                                 "give the same model to resume it, or another folder") from None


def train(potential: Potential, examples: Sequence[Labelled], folder: str | Path,
          config: TrainingConfig | None = None, progress: bool = True) -> Path:
    """Train a potential, or resume the run in `folder`, and return the path of the best model.

    Args:
        potential: start, e.g. from `initial_potential`.
        examples: labelled structures; a share of them is held out for validation.
        folder: of the run.
        config: options.
        progress: whether to show a bar.

    Raises:
        OptionError: too few structures.
        ModelFileError: the folder holds a run with other options or data.
        NonFiniteError: the loss became NaN or infinite.
    """
    return Trainer(potential, examples, Path(folder), config or TrainingConfig()).fit(progress)
