"""`Plan`: which structures, which stage and which learning rate a step has, from its number alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mlip.training.config import RATES, Stage, TrainingConfig

FACTOR, WAIT = 0.8, 5  # of the schedule "plateau"


class Plan:
    """A run, step by step. Nothing in it depends on what happened before, except what a plateau lowers.

    Attributes:
        steps: of the whole run.
        round: steps between two validations.
        rounds: validations of the whole run.
    """

    def __init__(self, config: TrainingConfig, structures: int, family: str) -> None:
        """Lay out a run over so many training structures."""
        self.config, self.structures = config, structures
        self._default_rate = RATES.get(family, min(RATES.values()))
        self.epoch_steps = math.ceil(structures / config.batch_size)
        self._ends = np.cumsum([stage.epochs * self.epoch_steps for stage in config.parts]).tolist()
        self.steps: int = self._ends[-1]
        self.round = config.validate_every or self.epoch_steps
        self.rounds = math.ceil(self.steps / self.round)
        self._order: tuple[int, Any] = (-1, None)
        self._plateau = {"stage": -1, "factor": 1.0, "best": math.inf, "waited": 0}

    def indices(self, step: int, rank: int = 0, world: int = 1) -> list[int]:
        """Return the structures of a step that one of `world` processes takes."""
        epoch, place = divmod(step, self.epoch_steps)
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.config.seed, epoch]).permutation(self.structures)
        size = self.config.batch_size
        chosen: list[int] = self._order[1][place * size : (place + 1) * size].tolist()
        return chosen[rank::world] or chosen[:1]  # nobody may have nothing to do

    def stage_index(self, step: int) -> int:
        """Return the number of the stage that a step belongs to; the step after the last belongs to the last."""
        return min(int(np.searchsorted(self._ends, step, side="right")), len(self._ends) - 1)

    def stage(self, step: int) -> Stage:
        """Return the stage of a step."""
        return self.config.parts[self.stage_index(step)]

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        index = self.stage_index(step)
        stage, end = self.config.parts[index], self._ends[index]
        start = self._ends[index - 1] if index else 0
        rate = self._default_rate if stage.learning_rate is None else stage.learning_rate
        if step - start < stage.warmup_steps:
            return rate * (step - start + 1) / stage.warmup_steps
        if stage.schedule == "cosine":
            first = start + stage.warmup_steps
            return rate * 0.5 * (1 + math.cos(math.pi * (step - first) / max(end - first, 1)))
        if stage.schedule == "plateau" and self._plateau["stage"] == index:
            return rate * self._plateau["factor"]
        return rate

    def validated(self, step: int, score: float) -> None:
        """Take note of a validation, for the schedule that follows it."""
        index, p = self.stage_index(step), self._plateau
        if p["stage"] != index:
            p.update(stage=index, factor=1.0, best=math.inf, waited=0)
        better = score < p["best"]
        p["best"], p["waited"] = min(score, p["best"]), 0 if better else p["waited"] + 1
        if p["waited"] > WAIT:
            p["factor"], p["waited"] = p["factor"] * FACTOR, 0

    def state_dict(self) -> dict[str, float]:
        """Return what a plateau has lowered."""
        return dict(self._plateau)

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue where `state_dict` was taken."""
        self._plateau.update(state)
