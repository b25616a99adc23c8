"""`Plan`: which structures, which stage and which learning rate a step has, from its number alone."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mlip.errors import OptionError
from mlip.training.config import Stage, TrainingConfig

FACTOR, WAIT = 0.8, 5  # of the schedule "plateau"


class Plan:
    """A run, step by step. Nothing in it depends on what happened before, except what a plateau lowers.

    Attributes:
        steps: of the whole run.
        round: steps between two validations.
        rounds: validations of the whole run.
    """

    def __init__(self, config: TrainingConfig, structures: int, family: str, replay: int = 0,
                 replay_fraction: float = 0.25) -> None:
        """Lay out a run over so many training structures, and so many that are replayed."""
        self.config, self.structures = config, structures
        self._replay = replay, replay_fraction
        self._default_rate = config.default_rate(family)
        self._epoch: tuple[int, list[NDArray[np.int64]]] = 0, self._batches(0)
        self.epoch_steps = len(self._epoch[1])
        self._ends = np.cumsum([stage.epochs * self.epoch_steps for stage in config.parts]).tolist()
        self.steps: int = self._ends[-1]
        self._check_warm_up()
        self.round = config.validate_every or self.epoch_steps
        self.rounds = math.ceil(self.steps / self.round)
        self._plateau = {"stage": -1, "factor": 1.0, "best": math.inf, "waited": 0}

    def indices(self, step: int, rank: int = 0, world: int = 1) -> list[int]:
        """Return the structures of a step that one of `world` processes takes; those to replay follow the new ones."""
        epoch, place = divmod(step, self.epoch_steps)
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._batches(epoch)
        chosen: list[int] = self._epoch[1][place].tolist()
        return chosen[rank::world] or chosen[:1]  # nobody may have nothing to do

    def _batches(self, epoch: int) -> list[NDArray[np.int64]]:
        generator, size = np.random.default_rng([self.config.seed, epoch]), self.config.batch_size
        count, fraction = self._replay
        if count:
            return list(replay_batches(self.structures, count, size, fraction, generator))
        order = generator.permutation(self.structures)
        return [order[first : first + size] for first in range(0, self.structures, size)]

    def _check_warm_up(self) -> None:
        for stage, steps in zip(self.config.parts, np.diff([0, *self._ends]).tolist(), strict=True):
            if stage.warmup_steps >= steps:
                raise OptionError(f"warmup_steps = {stage.warmup_steps} leave nothing of a stage of {steps} step(s), "
                                  f"{self.epoch_steps} in each epoch; take fewer, or more epochs")

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


def replay_batches(new: int, replay: int, size: int, fraction: float,
                   generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield the batches of an epoch: each new structure once, and in each batch a share of replayed ones.

    Replayed structures are drawn anew in each epoch, none a second time before all were there.

    Args:
        new: number of new structures.
        replay: number of structures to replay, at least one.
        size: of a batch, at least 2: one or more of each kind.
        fraction: share of the replayed in a batch.
        generator: draws the order.

    Yields:
        Indices, [size] or fewer: below `new` new structures, from `new` on replayed ones.

    Raises:
        OptionError: batches of one structure.
    """
    if size < 2:
        raise OptionError(f"a batch of {size} has no room for new and replayed structures; use batch_size = 2 or more")
    old = min(max(round(fraction * size), 1), size - 1)
    fresh = size - old
    order, steps = generator.permutation(new), -(-new // fresh)
    rounds = -(-steps * old // replay)
    drawn = new + np.concatenate([generator.permutation(replay) for _ in range(rounds)])
    for i in range(steps):
        yield np.concatenate([order[i * fresh : (i + 1) * fresh], drawn[i * old : (i + 1) * old]])
