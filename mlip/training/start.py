"""Fine-tuning: a trained model -> a potential to train further, with its references, elements and what is trained."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mlip.checkpoints import Potential, load
from mlip.checkpoints.resized import with_elements, with_head
from mlip.elements import SYMBOLS
from mlip.errors import ConfigError, DataError, OptionError, UnknownElementError
from mlip.graph.labelled import Labelled
from mlip.models import EnergyModel, ModelConfig
from mlip.nn.adapters import add_adapters
from mlip.training.offsets import check_level, compositions, differences, offsets, per_element, sample
from mlip.training.replay import ReplayConfig
from mlip.training.tables import check_table

CHOICES = {"method": ("naive", "frozen", "adapters"), "references": ("keep", "data"),
           "new_elements": ("refuse", "add")}


@dataclass(frozen=True)
class StartConfig:
    """The table `[start]` of a run that continues from a trained model.

    Attributes:
        model: name or path of any model that `mlip.load` reads; in a recipe the path may start from its folder.
        method: what is trained. `"naive"`: all weights. `"frozen"`: those of the model's head, which makes energies of
            the last features. `"adapters"`: low-rank matrices that are added to all large matrices.
        rank: of the adapters.
        head: the head to continue with, of a model with several; the others are dropped.
        references: `"keep"`: energies stay on the scale of the model, and data more than 0.3 eV/atom away from it are
            refused. `"data"`: energies go over to the scale of the data. The energies of isolated atoms become those
            that are given, and a shift for each atom, the same for all elements, is fitted; where none are given, a
            constant for each element is fitted. Elements that the data say nothing about are dropped, since one model
            must not have two scales.
        new_elements: whether elements that the model does not know are refused or added.
        replay: structures of the first training, mixed into the new ones against forgetting, if any.
    """

    model: str
    method: str = "naive"
    rank: int = 8
    head: str = ""
    references: str = "keep"
    new_elements: str = "refuse"
    replay: ReplayConfig | None = None

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> StartConfig:
        """Return the configuration of a TOML table.

        Raises:
            OptionError: a name or a value that is not allowed.
        """
        check_table(table, cls, "start", "model", "the name or path of the model to start from")
        replay = table.get("replay")
        if replay is not None and not isinstance(replay, Mapping):
            raise OptionError(f"start: replay must be a table, [start.replay] with files = [...]; {replay!r} was given")
        return cls(**{**table, "replay": None if replay is None else ReplayConfig.from_table(replay)})

    def __post_init__(self) -> None:
        for name in ("model", "head"):
            if not isinstance(getattr(self, name), str):
                raise OptionError(f"start: {name} must be a text; {getattr(self, name)!r} was given")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise OptionError(f"start: {name} must be one of {', '.join(allowed)}; {getattr(self, name)!r} was "
                                  "given")
        if type(self.rank) is not int or self.rank < 1:
            raise OptionError(f"start: rank must be a whole number from 1; {self.rank!r} was given")


def starting_potential(config: StartConfig, examples: Sequence[Labelled], isolated: Mapping[str, float] | None = None,
                       *, base: Potential | None = None, dtype: torch.dtype | str | None = None,
                       seed: int = 0) -> Potential:
    """Return a potential to be trained further; `requires_grad` of its weights tells which are to be trained.

    Cutoff, mean number of neighbours and scale stay as they are. A potential with adapters is saved as an ordinary one,
    its adapters folded in. What was done is told in its description.

    Args:
        config: options.
        examples: what it will be trained on.
        isolated: energies of isolated atoms at their level of theory, eV, by symbol; see `StartConfig.references`.
        base: what to start from in the place of `config.model`; it is not changed.
        dtype: `"float32"` or `"float64"`; by default the precision of the file.
        seed: of the adapters.

    Raises:
        OptionError: no such head; energies of isolated atoms missing; a matrix for adapters missing.
        UnknownElementError: new elements, which `config` refuses.
        DataError: data at another level of theory; no data.
        ModelFileError, ModelNotFoundError: from `mlip.load`.
    """
    if not any(len(e.structure) for e in examples):
        raise DataError("there is no structure to fine-tune on")
    origin = load(config.model) if base is None else base
    start = with_head(origin.to(dtype=dtype, radial="exact", rotational_average="none"), config.head or None)
    present = {int(z) for e in examples for z in e.structure.numbers}
    known = set(start.model.config.atomic_numbers)
    if config.new_elements == "refuse" and not present <= known:
        raise UnknownElementError(f"the data hold the element(s) {_symbols(present - known)}; {config.model} does "
                                  "not know them. Add them with new_elements = \"add\", or use a model that knows them")
    given = {z for z in known if isolated is not None and SYMBOLS[z] in isolated}
    sized = with_elements(start, present | (known if config.references == "keep" else given))
    potential = Potential(copy.deepcopy(sized.model), sized.info)
    set_references = _keep if config.references == "keep" else _from_data
    said = set_references(potential, sample(examples), isolated, present - known)
    name = origin.info.name or config.model
    info = dataclasses.replace(origin.info, name="", validation={}, card={}, description=(
        f"fine-tuned from {name} ({origin.info.sha256[:12]}), method {config.method}; {said}"))
    potential = Potential(potential.model, info)
    choose_trained(potential.model, config, seed)
    return potential


def choose_trained(model: EnergyModel, config: StartConfig, seed: int = 0) -> None:
    """Set `requires_grad` of all weights of a model, and add the adapters, as `StartConfig.method` tells.

    Raises:
        OptionError: a model without a head, or with no matrix that is large enough for adapters.
    """
    if config.method == "adapters":
        add_adapters(model, config.rank, seed)
        return
    model.requires_grad_(False)
    for weight in model.parameters() if config.method == "naive" else model.head_parameters():
        weight.requires_grad_(True)


def check_fields(config: ModelConfig, table: Mapping[str, Any]) -> None:
    """Check that a table `[model]` asks for nothing that a trained model is not.

    Args:
        config: of the trained model.
        table: family and fields.

    Raises:
        ConfigError: naming the fields that contradict.
    """
    own = {"family": config.family, **config.to_dict()}
    asked = {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}
    wrong = [f"{name} = {value!r} (it has {own[name]!r})" if name in own else f"{name} (unknown to its family)"
             for name, value in asked.items() if name not in own or own[name] != value]
    if wrong:
        raise ConfigError(f"the table [model] asks for what the model to start from is not: {', '.join(wrong)}. Its "
                          "weights fit its own configuration; leave these fields out, or train a new model")


def _keep(potential: Potential, examples: Sequence[Labelled], isolated: Mapping[str, float] | None,
          new: set[int]) -> str:
    """Give new elements an energy and check that the data are at the level of theory of the model."""
    energies = {z: isolated[SYMBOLS[z]] for z in new if isolated is not None and SYMBOLS[z] in isolated}
    _set_energies(potential, energies)
    fitted = sorted(new - set(energies))
    if fitted:
        some = [e for e in examples if np.isin(e.structure.numbers, fitted).any()]
        atoms = np.array([[len(e.structure)] for e in some])
        solution = np.linalg.lstsq(compositions(some, fitted) / atoms, differences(potential, some) / atoms[:, 0],
                                   rcond=None)[0]
        _set_energies(potential, dict(zip(fitted, solution, strict=True)))
    found = check_level(potential, examples, "Let the model go over to the scale of the data with references = "
                        "\"data\", with energies of isolated atoms at the same level of theory if you have them.")
    added = f"; energies of {_symbols(set(fitted))} fitted" if fitted else ""
    return f"references kept{added}; {found}"


def _from_data(potential: Potential, examples: Sequence[Labelled], isolated: Mapping[str, float] | None,
               new: set[int]) -> str:
    """Put the energies of a model on the scale of the data."""
    numbers = potential.model.config.atomic_numbers
    if isolated is None:
        own = potential.model.atomic_energies[0].tolist()
        solution, _ = per_element(compositions(examples, numbers), differences(potential, examples))
        _set_energies(potential, {z: e + x for z, e, x in zip(numbers, own, solution, strict=True)})
        return f"references fitted to the data; {offsets(potential, examples)}"
    missing = {z for z in numbers if SYMBOLS[z] not in isolated}
    if missing:
        raise OptionError(f"the energies of the isolated atoms {_symbols(missing)} are missing; given: "
                          f"{', '.join(isolated) or 'none'}. Give all, or none to have them fitted")
    _set_energies(potential, {z: isolated[SYMBOLS[z]] for z in numbers})
    sizes = np.array([len(e.structure) for e in examples])
    shift = float(np.mean(differences(potential, examples) / sizes))
    potential.model.add_shift(shift)
    return f"references of the data, interaction energies shifted by {shift:+.4f} eV/atom; " \
           f"{offsets(potential, examples)}"


def _set_energies(potential: Potential, energies: Mapping[int, float]) -> None:
    """Set energies of isolated atoms, eV, by atomic number, of a model with one head."""
    model = potential.model
    for z, energy in energies.items():
        model.atomic_energies[0, int(model.element_table[z])] = float(energy)


def _symbols(numbers: set[int]) -> str:
    return ", ".join(SYMBOLS[z] for z in sorted(numbers))
