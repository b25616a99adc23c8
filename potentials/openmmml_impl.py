"""What `openmmml.MLPotential("mlip", model=...)` does, and its other names: pure, mixed and interpolated Systems."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmmml.mlpotential import MLPotentialImpl

from mlip.checkpoints import Potential, load
from mlip.errors import OptionError
from mlip.potentials.force import create_force

if TYPE_CHECKING:
    import openmm
    from openmm.app import Topology

_OPTIONS = ("device", "dtype", "precision", "charge", "multiplicity", "spin", "head", "skin", "periodic",
            "returnEnergyType", "backend", "radial", "rotational_average", "transport")
ANY = "mlip"
_ENERGIES = {"energy": "total", "interaction_energy": "interaction"}


class MLIPPotentialImpl(MLPotentialImpl):  # type: ignore[misc]
    """A potential for openmm-ml.

    The options may be given to `MLPotential` or to `createSystem` and `createMixedSystem`, where they
    win: `device` (by default that of a `Potential`, and CUDA, if there is one, for a name or path);
    `dtype` or `precision` (`single`, `double`, ...); `charge` and `multiplicity` (or `spin`), both of the
    atoms the model describes; `head`; `skin` in A; `periodic`; `backend`, `radial`, `rotational_average` and
    `transport` (see `create_force`); and `returnEnergyType`: `energy` (the default here: with the isolated atoms) or
    `interaction_energy` (the default of openmm-ml's own MACE).
    `createSystem` and `createMixedSystem` pass options to several addressees, so that those unknown here
    are ignored there.
    """

    def __init__(self, model: Potential | str | Path | None = None, *, potential_name: str = ANY,
                 **options: Any) -> None:
        """Load the model.

        Args:
            model: a potential, or the name or path of one.
            potential_name: the name given to `MLPotential`; others than `mlip` stand for one family.
            options: see the class.

        Raises:
            OptionError: no model, one of another family than the name says, or an unknown or bad option.
            ModelNotFoundError, ModelFileError: from loading.
        """
        if model is None:
            raise OptionError(f"MLPotential({potential_name!r}, model=...) needs a model: a name, a path or a "
                              "Potential")
        unknown = sorted(set(options) - set(_OPTIONS))
        if unknown:
            raise OptionError(f"MLPotential({potential_name!r}, ...) has no option {', '.join(unknown)}; allowed: "
                              f"model, {', '.join(_OPTIONS)}")
        self.options = _force_options(options)
        device = self.options.get("device") or _best()
        self.model = model if isinstance(model, Potential) else load(model, device=device)
        found = name_of(self.model)
        if potential_name not in (ANY, found):
            raise OptionError(f"MLPotential({potential_name!r}) does not take this model, which is of the family "
                              f"{found}: use MLPotential({found!r}), or {ANY!r}, which takes every model")

    def addForces(self, topology: Topology, system: openmm.System, atoms: Iterable[int] | None,  # noqa: N802
                  forceGroup: int, **args: Any) -> None:
        """Add the force of the model to a System.

        Args:
            topology: of the whole System, link atoms included; it decides what is periodic, with the
                System: for an interpolated System openmm-ml hands over an empty one.
            system: receives the force.
            atoms: indices of the atoms of the model; None for all.
            forceGroup: 0 to 31.
            args: options that win over those of the constructor; unknown ones are ignored.

        Raises:
            TopologyError, UnknownElementError, OptionError: see `create_force`.
        """
        given = {k: v for k, v in args.items() if k in _OPTIONS}
        options = {**self.options, **_force_options(given)}
        if options.get("periodic") is None:
            boxed = topology.getPeriodicBoxVectors() is not None
            options["periodic"] = boxed or system.usesPeriodicBoundaryConditions()
        system.addForce(create_force(topology, self.model, atoms, force_group=forceGroup, **options))

    def getMLLongRange(self) -> bool:  # noqa: N802
        """Return False: the models see no further than their cutoff."""
        return False


def name_of(potential: Potential) -> str:
    """Return the name by which `MLPotential` takes models of this family only."""
    config: Any = potential.model.config
    if config.family == "mace":
        return "mace-mlip" if config.tensor_product == "clebsch_gordan" else "gaunt-mace"
    return str(config.family).replace("_", "-")


def _best() -> str:
    """Return the device openmm-ml takes by default: CUDA where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _force_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of openmm-ml as those of `create_force`.

    Raises:
        OptionError: two names for one thing with different values; an unknown `returnEnergyType`.
    """
    out = {name: value for name, value in options.items() if value is not None}
    for alias, name in (("precision", "dtype"), ("multiplicity", "spin")):
        value = out.pop(alias, None)
        if value is not None and out.setdefault(name, value) != value:
            raise OptionError(f"{alias}={value!r} and {name}={out[name]!r} say the same thing; give one")
    kind = out.pop("returnEnergyType", None)
    if kind is not None:
        if kind not in _ENERGIES:
            raise OptionError(f"returnEnergyType={kind!r} is unknown; allowed: {', '.join(_ENERGIES)}")
        out["energy"] = _ENERGIES[kind]
    return out
