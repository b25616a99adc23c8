"""`Stage` and `TrainingConfig`: every choice of a training run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlip.errors import OptionError
from mlip.training.losses import LOSSES
from mlip.training.tables import is_number

SCHEDULES = ("cosine", "plateau", "constant")
RATES = {"muon": {"mace": 0.03, "equiformer_v3": 0.008, "transip": 0.01},  # found to learn fast and not to diverge
         "adamw": {"mace": 0.01, "equiformer_v3": 0.002, "transip": 0.003}}
WITHOUT_MUON = ("mace",)  # families whose energies far from the data grow with it
MOST_MOVED = 0.75  # share of the atoms of a structure, beyond which too little is left to put them back


@dataclass(frozen=True)
class DenoisingConfig:
    """Training of a direct EquiformerV3 on structures whose atoms were moved (DeNS, arXiv 2403.09549).

    The defaults are those of EquiformerV3 (arXiv 2604.09130), which took `max_force=2.5` for OMat24: of molecules at
    room temperature that leaves few.

    Attributes:
        probability: that a structure is noised.
        std: of the displacements, normally distributed, A.
        fraction: of its atoms that are moved; each is with this probability. A structure of which more than three
            quarters were drawn is left as it is.
        max_force: structures with a larger force are left as they are, eV/A; None for no limit.
        weight: of the mean length of the errors of the displacements, in units of `std`.
    """

    probability: float = 0.5
    std: float = 0.025
    fraction: float = 0.5
    max_force: float | None = None
    weight: float = 10.0

    def __post_init__(self) -> None:
        for name, most in (("probability", 1.0), ("std", 0.5), ("fraction", MOST_MOVED), ("max_force", math.inf),
                           ("weight", math.inf)):
            value = getattr(self, name)
            if name == "max_force" and value is None:
                continue
            if not is_number(value) or not 0 < value <= most:
                above = "" if math.isinf(most) else f" and at most {most:g}"
                raise OptionError(f"denoising: {name} must be a number above 0{above}; {value!r} was given")


@dataclass(frozen=True)
class Stage:
    """Part of a run with one loss and one course of the learning rate.

    Attributes:
        epochs: passes over the training set.
        learning_rate: largest one; None for that of the family: EquiformerV3 0.008, TransIP 0.01, MACE 0.01, with the
            other optimizer 0.002, 0.003, 0.03; in recipes that start from a trained model a tenth of it.
        schedule: `"cosine"` falls to zero over the stage; `"plateau"` is multiplied by 0.8 after 5 validations without
            a better loss; `"constant"`.
        warmup_steps: over which the learning rate rises from zero, linearly.
        energy_weight: of the error of energies per atom, in eV/atom.
        forces_weight: of the error of force components, in eV/A.
        stress_weight: of the error of the stress, in eV/A^3, of the structures that have one.
        config_weights: what errors of structures are multiplied by, for names of config_types; those of others count 1.
            Means are over all structures, whatever their weights; validation knows none.
        energy_loss: `"mse"`, `"mae"`, `"l2"` or `"huber"`, see `mlip.training.losses`.
        forces_loss: the same for forces.
        stress_loss: the same for the stress.
        huber_delta: where Huber's loss turns from square to linear, in the unit of what it is used for.
    """

    epochs: int = 200
    learning_rate: float | None = None
    schedule: str = "cosine"
    warmup_steps: int = 0
    energy_weight: float = 1000.0
    forces_weight: float = 100.0
    stress_weight: float = 0.0
    config_weights: Mapping[str, float] = field(default_factory=dict)
    energy_loss: str = "mse"
    forces_loss: str = "mse"
    stress_loss: str = "mse"
    huber_delta: float = 0.01

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            _check(option.name, getattr(self, option.name), option.default)
        if not (isinstance(self.config_weights, Mapping)
                and all(isinstance(name, str) and is_number(weight) and weight >= 0
                        for name, weight in self.config_weights.items())):
            raise OptionError("training: config_weights must be numbers that are not negative, for names of "
                              f"config_types, such as {{Elastic = 5.0}}; {self.config_weights!r} was given")
        if self.huber_delta == 0:
            raise OptionError("training: huber_delta must be more than 0")
        if not (self.energy_weight or self.forces_weight or self.stress_weight):
            raise OptionError("training: energy_weight, forces_weight and stress_weight are all 0: nothing would be "
                              "learned")


@dataclass(frozen=True)
class TrainingConfig(Stage):
    """Options of `mlip.training.train`: those of a stage, and what holds for the whole run.

    Attributes:
        stages: the parts of the run, one after the other; without any, the run is one stage of the fields above.
        batch_size: structures in one step, over all processes.
        optimizer: `"muon"` (orthogonal steps for matrices of weights, AdamW for the rest: `mlip.training.optimizer`) or
            `"adamw"`, with AMSGrad both; None for that of the family: AdamW for MACE, Muon for the others.
        weight_decay: share of the weights, times the learning rate, that each step takes off: of matrices with
            `"muon"`, of all with `"adamw"`.
        ema_decay: of the exponential moving average of the weights, which is what is validated and kept.
        max_gradient: the norm of the gradient is cut to this; 0 for never.
        latent_weight: weight of what the embeddings of two orientations are apart, for models that learn rotations
            (`mlip.training.objective.TwoViews`).
        torque_weight: weight of the derivative of the energy by a rotation, 1/eV, for the same models.
        repulsion_weight: of the energy, 1/eV, that two atoms alone gain where they come closer than any of the training
            structures, see `mlip.training.repulsion`: 1 keeps holes away.
        denoising: how structures are noised, for direct EquiformerV3 made with denoising=True; None for not at all.
        patience: the last stage ends after so many validations without a better loss.
        validate_every: steps between two validations, after each of which the state is written; 0 for an epoch.
        seed: of the order of the batches, and of everything else that is drawn at random.
    """

    stages: tuple[Stage, ...] = ()
    batch_size: int = 5
    optimizer: str | None = None
    weight_decay: float = 0.0
    ema_decay: float = 0.99
    max_gradient: float = 10.0
    latent_weight: float = 0.0
    torque_weight: float = 0.0
    repulsion_weight: float = 0.0
    denoising: DenoisingConfig | None = None
    patience: int = 50
    validate_every: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.stages, tuple) or not all(type(stage) is Stage for stage in self.stages):
            raise OptionError(f"training: stages must be a tuple of Stage; {self.stages!r} was given")
        if not self.ema_decay < 1:
            raise OptionError(f"training: ema_decay must lie between 0 and 1; {self.ema_decay!r} was given")
        if self.denoising is not None and not isinstance(self.denoising, DenoisingConfig):
            raise OptionError(f"training: denoising must be a DenoisingConfig or None; {self.denoising!r} was given")

    def check_groups(self, groups: Iterable[str]) -> None:
        """Check that `config_weights` are for some of these config_types, those that are trained on.

        Raises:
            OptionError: a weight of one that is not there.
        """
        known = set(groups)
        if unknown := sorted({name for stage in self.parts for name in stage.config_weights} - known):
            there = ", ".join(name or "(none)" for name in sorted(known))
            raise OptionError(f"training: config_weights has {', '.join(unknown)}, which is the config_type of no "
                              f"structure to train on; there are: {there}")

    def optimizer_for(self, family: str) -> str:
        """Return the name of the optimizer that a family is trained with."""
        return self.optimizer or ("adamw" if family in WITHOUT_MUON else "muon")

    def default_rate(self, family: str) -> float:
        """Return the learning rate of a family for stages that give none."""
        rates = RATES[self.optimizer_for(family)]
        return rates.get(family, min(rates.values()))

    @property
    def parts(self) -> tuple[Stage, ...]:
        """The stages of the run, at least one."""
        return self.stages or (Stage(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Stage)}),)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingConfig:
        """Make a configuration from a table of a file; a stage inherits what it does not say from the table itself.

        Raises:
            OptionError: unknown fields or impossible values.
        """
        values = dict(values)
        tables = values.pop("stages", [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise OptionError(f"training: stages must be tables, [[training.stages]]; {tables!r} was given")
        _check_known(values, cls, "training")
        if "denoising" in values:
            _check_known(values["denoising"], DenoisingConfig, "training.denoising")
            values["denoising"] = DenoisingConfig(**values["denoising"])
        shared = {f.name: values[f.name] for f in dataclasses.fields(Stage) if f.name in values}
        for table in tables:
            _check_known(table, Stage, "training.stages")
        return cls(**values, stages=tuple(Stage(**{**shared, **table}) for table in tables))


CHOICES = {"schedule": SCHEDULES, "optimizer": tuple(RATES),
           **dict.fromkeys(("energy_loss", "forces_loss", "stress_loss"), LOSSES)}


def _check(name: str, value: Any, default: Any) -> None:
    """Check a value by the type of its default."""
    smallest = 0 if name in ("seed", "warmup_steps", "validate_every") else 1
    if name in CHOICES and value not in (*CHOICES[name], default):
        raise OptionError(f"training: {name} must be one of {', '.join(CHOICES[name])}; {value!r} was given")
    if isinstance(default, int) and (type(value) is not int or value < smallest):
        raise OptionError(f"training: {name} must be a whole number from {smallest}; {value!r} was given")
    number = is_number(value) and value >= 0
    if isinstance(default, float) and not number:
        raise OptionError(f"training: {name} must be a number and not negative; {value!r} was given")
    if name == "learning_rate" and value is not None and not number:
        raise OptionError(f"training: learning_rate must be a number and not negative, or None for that of the "
                          f"family; {value!r} was given")


def _check_known(values: Any, kind: type, table: str) -> None:
    if not isinstance(values, dict):
        raise OptionError(f"[{table}] must be a table; {values!r} was given")
    known = sorted({f.name for f in dataclasses.fields(kind)})
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise OptionError(f"[{table}] has no option {', '.join(unknown)}; known: {', '.join(known)}")
