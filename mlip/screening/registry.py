"""The properties there are, what they need, and with which settings."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_type_hints

import torch
from ase import Atoms

from mlip.checkpoints import Potential
from mlip.errors import OptionError
from mlip.screening import properties as room
from mlip.so3.rotation_groups import rotation_group


@dataclass(frozen=True)
class Property:
    """A property, as its file in `mlip/screening/properties` says.

    Attributes:
        name: of the file.
        compute: atoms, potential and settings -> results.
        settings: class of the settings.
        units: of the results.
        needs: properties that must be done before.
    """

    name: str
    compute: Callable[[Atoms, Potential, Any], Mapping[str, Any]]
    settings: type[Any]
    units: Mapping[str, str]
    needs: tuple[str, ...]


@lru_cache(maxsize=1)
def properties() -> dict[str, Property]:
    """Return all properties by name."""
    found = {}
    for entry in pkgutil.iter_modules(room.__path__):
        module = importlib.import_module(f"{room.__name__}.{entry.name}")
        if hasattr(module, "compute"):
            needs = tuple(getattr(module, "NEEDS", ("relax",)))
            found[entry.name] = Property(entry.name, module.compute, get_type_hints(module.compute)["settings"],
                                         module.UNITS, needs)
    return found


def wanted(names: Iterable[str]) -> list[Property]:
    """Return properties and those they need, these first.

    Raises:
        OptionError: an unknown name, or none.
    """
    known, out = properties(), {}

    def add(name: str) -> None:
        if name not in known:
            raise OptionError(f"there is no property {name!r}; allowed: {', '.join(known)}")
        for other in known[name].needs:
            add(other)
        out[name] = known[name]

    for name in names:
        add(name)
    if not out:
        raise OptionError(f"no property was asked for; allowed: {', '.join(known)}")
    return list(out.values())


def settings_of(chosen: Iterable[Property], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of each property: those given by name, else the defaults.

    Raises:
        OptionError: settings of a property that is not computed, or of another class.
    """
    found = {p.name: given[p.name] if p.name in given else p.settings() for p in chosen}
    for name, value in given.items():
        if name not in found:
            raise OptionError(f"settings were given for {name!r}, which is not computed; allowed: {', '.join(found)}")
        if not isinstance(value, properties()[name].settings):
            raise OptionError(f"settings of {name} are a {properties()[name].settings.__name__}; "
                              f"{type(value).__name__} was given")
    return found


def recorded(prop: Property, settings: Mapping[str, Any], potential: Potential) -> dict[str, Any]:
    """Return, as JSON, all settings the results of a property depend on: its own, those it needs, the evaluation."""
    out = {p.name: dataclasses.asdict(settings[p.name]) for p in wanted([prop.name])}
    model: dict[str, Any] = {"bits": torch.finfo(potential.dtype).bits, "radial": potential.radial}
    if potential.rotational_average != "none":
        model["rotations"] = len(rotation_group(potential.rotational_average))
    return {**out, "model": model}
