"""`Keeper`: what a run writes into its folder."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tqdm import tqdm

from mlip.checkpoints import ModelInfo, Potential, load
from mlip.checkpoints.symmetry import summary, symmetry_reports
from mlip.errors import DataError, ModelFileError, NonFiniteError
from mlip.graph.labelled import Labelled
from mlip.training.config import Stage
from mlip.training.data import Dataset
from mlip.training.metrics import Errors, errors
from mlip.training.module import TrainingModule, remedy

PAIRS = 256  # of atoms, of a validation with `repulsion_weight`
SYMMETRY_STRUCTURES, SYMMETRY_ROTATIONS = 8, 16  # that the card of a model which learns rotations reports


class Keeper(Callback):
    """Validates after each round, keeps the best model and the state, and ends the run when it no longer improves.

    Files: `best.mlip`, the averaged weights with the smallest validation loss of the last stage begun; `last.ckpt`,
    from which the run continues; `log.csv`, a row for each round.
    """

    def __init__(self, folder: Path, module: TrainingModule, validation: Sequence[Labelled], info: ModelInfo,
                 identity: dict[str, Any], progress: bool) -> None:
        """Prepare.

        Args:
            folder: of the run; made if absent.
            module: what is trained.
            validation: structures of the validation.
            info: provenance of the model that is kept.
            identity: of the run: options, data and model, which a run that is resumed must have in common.
            progress: whether to show a bar.
        """
        self.folder, self.module, self.validation, self.info = folder, module, validation, info
        self.identity, self.progress = identity, progress
        self.best, self.best_round, self.best_stage, self.seconds = math.inf, 0, 0, 0.0
        self._bar: tqdm[Any] | None = None
        self._since = 0.0
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def state_file(self) -> Path:
        """File that a run continues from."""
        return self.folder / "last.ckpt"

    @property
    def best_file(self) -> Path:
        """The best model so far."""
        return self.folder / "best.mlip"

    def resume(self) -> int:
        """Take over the state of this run, if there is one, and return the steps that are done.

        Raises:
            ModelFileError: the file is damaged, or of a run with other options, data or model.
        """
        if not self.state_file.is_file():
            return 0
        try:
            state: dict[str, Any] = torch.load(self.state_file, weights_only=True, map_location="cpu")
            kept = state["mlip"]
            self.best, self.best_round, self.best_stage = kept["best"], kept["best_round"], kept["best_stage"]
            self.seconds, identity, step = kept["seconds"], kept["identity"], int(state["global_step"])
        except Exception as error:  # torch raises whatever a damaged archive makes it stumble over
            raise ModelFileError(f"{self.state_file} is damaged ({type(error).__name__}: {error}); delete it to begin "
                                 "anew") from None
        if identity != self.identity:
            other = sorted(k for k in {*identity, *self.identity} if identity.get(k) != self.identity.get(k))
            raise ModelFileError(f"{self.folder} holds a run with other options or data; different: "
                                 f"{', '.join(other)}. Give the same to resume it, or another folder")
        if self.best_round and not self.best_file.is_file():
            raise ModelFileError(f"{self.best_file}, the best model so far, is gone; delete {self.state_file} to "
                                 "begin anew")
        return step

    def stamp(self) -> None:
        """Give the best model the provenance of this run where another was said when it was kept."""
        kept = load(self.best_file)
        info = dataclasses.replace(self.info, validation=kept.info.validation, sha256=kept.info.sha256)
        if info != kept.info:
            Potential(kept.model, info).save(self.best_file)

    def finished(self, step: int) -> bool:
        """Return whether nothing is left to do after a step: all is done, or the last stage no longer improves."""
        plan, config = self.module.plan, self.module.config
        waited = math.ceil(step / plan.round) - self.best_round
        return step >= plan.steps or (self.best_stage == len(config.parts) - 1 and waited >= config.patience)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not know."""
        checkpoint["mlip"] = {"best": self.best, "best_round": self.best_round, "best_stage": self.best_stage,
                              "seconds": self.seconds, "identity": self.identity,
                              "plan": self.module.plan.state_dict()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take over what a plateau has lowered."""
        self.module.plan.load_state_dict(checkpoint["mlip"]["plan"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count, and to write; the start is the first model that may be the best."""
        self._since = time.perf_counter()
        if trainer.is_global_zero:
            self._forget_rows(trainer.global_step)
            self._bar = tqdm(total=self.module.plan.steps, initial=trainer.global_step, unit="step",
                             disable=not self.progress)
        if trainer.global_step == 0:
            self._validate(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any,
                           batch_idx: int) -> None:
        """Count a step."""
        if self._bar is not None:
            self._bar.update()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate, and write everything down."""
        self._validate(trainer)
        self._save(trainer)
        trainer.should_stop = self.finished(trainer.global_step)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def _validate(self, trainer: Trainer) -> None:
        """Measure the average; the first process does, so that all go on with the same numbers."""
        step, plan = trainer.global_step, self.module.plan
        last = max(step - 1, 0)
        stage = plan.stage_index(last)
        potential = self.module.potential(self.info)
        found: Errors
        found, gain = trainer.strategy.broadcast(  # type: ignore[misc]  # nothing, in other processes
            (errors(Dataset(self.validation, potential)), self._gain(potential)) if trainer.is_global_zero else None)
        score = score_of(found, plan.stage(last)) + self.module.config.repulsion_weight * gain
        if step == 0:
            for part in self.module.config.parts:
                score_of(found, part)
        if not math.isfinite(score):
            raise NonFiniteError(f"the validation errors became NaN or infinite after step {step}; "
                                 f"{remedy(plan.rate(last))}")
        plan.validated(last, score)
        better = score < self.best or stage != self.best_stage
        if better:
            self.best, self.best_round, self.best_stage = score, math.ceil(step / plan.round), stage
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now
        if trainer.is_global_zero:
            if better:
                self._keep(potential, found)
            self._write_row(step, found)
            if trainer.logger is not None:
                trainer.logger.log_metrics({**found.to_dict(), "learning_rate": plan.rate(last)}, step)
        self.module.losses.clear()
        if self._bar is not None:
            self._bar.set_postfix_str(str(found))

    def _gain(self, potential: Potential) -> float:
        """Return what close pairs gain, eV, the same pairs each time."""
        repulsion = self.module.repulsion
        if repulsion is None:
            return 0.0
        return float(repulsion.gain(potential.model, np.random.default_rng(0), PAIRS))

    def _keep(self, potential: Potential, found: Errors) -> None:
        validation = found.to_dict()
        if not potential.model.rotation_invariant:
            some = range(min(len(self.validation), SYMMETRY_STRUCTURES))
            graph = potential.graph([self.validation[i].structure for i in some])
            measured = summary(symmetry_reports(potential.model, graph, SYMMETRY_ROTATIONS))
            validation |= {name: round(value, 4) for name, value in measured.items()}
        Potential(potential.model, dataclasses.replace(self.info, validation=validation)).save(self.best_file)

    def _save(self, trainer: Trainer) -> None:
        """Write the state; whoever is killed meanwhile continues from the one before."""
        partial = self.state_file.with_suffix(".part")
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            os.replace(partial, self.state_file)

    def _write_row(self, step: int, found: Errors) -> None:
        log, plan = self.folder / "log.csv", self.module.plan
        losses = self.module.losses
        row = {"epoch": f"{step / plan.epoch_steps:g}", "step": step,
               "loss": f"{torch.stack(losses).mean().item():.6g}" if losses else "",
               **{k: f"{v:.4f}" for k, v in found.present().items()},
               "learning_rate": f"{plan.rate(max(step - 1, 0)):.3e}", "seconds": f"{self.seconds:.1f}"}
        with log.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)

    def _forget_rows(self, step: int) -> None:
        """Drop the rows of rounds that will be done again."""
        log = self.folder / "log.csv"
        if step == 0:
            log.unlink(missing_ok=True)
        elif log.is_file():
            with log.open(newline="") as file:
                reader = csv.DictReader(file)
                rows, names = list(reader), reader.fieldnames or []
            with log.with_suffix(".part").open("w", newline="") as file:
                writer = csv.DictWriter(file, names, lineterminator="\n")
                writer.writeheader()
                writer.writerows(row for row in rows if (row["step"] or "").isdigit() and int(row["step"]) <= step)
            os.replace(log.with_suffix(".part"), log)


def score_of(found: Errors, stage: Stage) -> float:
    """Return the validation loss of a stage: its weights times squared errors, whatever the kind of its loss.

    Raises:
        DataError: the validation structures have none of the labels that have a weight.
    """
    weights = {"energy": stage.energy_weight, "forces": stage.forces_weight, "stress": stage.stress_weight}
    trained = [name for name, weight in weights.items() if weight]
    terms = [weights[name] * (1e-3 * error) ** 2 for name in trained
             if (error := getattr(found, f"{name}_rmse")) is not None]
    if not terms:
        raise DataError(f"training is of {' and '.join(trained)}, which no structure of the validation has: give "
                        "structures for valid that do, or train on what they have")
    return float(sum(terms))
