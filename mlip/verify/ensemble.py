"""Whether dynamics sample the ensemble they promise: the checks of physical_validation on runs at several states."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mlip.checkpoints import Potential
from mlip.errors import MissingDependencyError, OptionError
from mlip.simulation import Plan, run_ase, run_openmm
from mlip.units import KB_EV, KJ_PER_MOL_PER_EV

LIMIT = 3.0  # standard deviations
ENGINES: dict[str, Callable[..., Any]] = {"ase": run_ase, "openmm": run_openmm}
SEED = 1  # of the bootstrap


@dataclass(frozen=True)
class EnsembleCheck:
    """One number of a run, or of two runs, beside what theory says.

    Attributes:
        name: what was compared.
        sigma: how far it is off, in standard deviations of its estimate.
    """

    name: str
    sigma: float

    @property
    def passed(self) -> bool:
        """Whether it is within three standard deviations."""
        return bool(abs(self.sigma) <= LIMIT)


def verify_ensemble(atoms: Atoms, potential: Potential, plan: Plan, folder: Path, *, engine: str = "openmm",
                    progress: bool = False) -> list[EnsembleCheck]:
    """Run dynamics at neighbouring temperatures, and pressures for NPT, and compare their distributions with theory.

    Mean and width of the kinetic energy of each run are compared with the gamma distribution; how often energies and
    volumes occur in two runs, with the ratio of Boltzmann factors (Shirts, J. Chem. Theory Comput. 9, 909 (2013)), by
    physical_validation. It chooses how far the states are apart. It drops what is not in equilibrium and what is
    correlated.

    Args:
        atoms: start.
        potential: the model.
        plan: `nvt` or `npt`; the state of the first run.
        folder: for the trajectories; runs that were interrupted go on, finished ones are not done again.
        engine: `ase` or `openmm`.
        progress: whether to show bars.

    Returns:
        The checks.

    Raises:
        OptionError: another ensemble or engine, or too few steps.
        MissingDependencyError: physical_validation is not installed. Further those of the engine.
    """
    if plan.ensemble not in ("nvt", "npt") or engine not in ENGINES:
        raise OptionError(f"ensembles that can be checked are nvt and npt, in ase or openmm; {plan.ensemble} in "
                          f"{engine} was given")
    validation = _validation()
    folder.mkdir(parents=True, exist_ok=True)

    def sample(state: Plan) -> Any:
        path = folder / f"{engine}-{state.ensemble}-{state.temperature:.6g}K-{state.pressure:.6g}bar.dcd"
        ENGINES[engine](atoms, potential, state, trajectory=path, progress=progress, resume=True)
        return _data(validation, atoms, state, path.with_suffix(".log.csv"))

    first = sample(plan)
    found = _kinetic(validation, first, plan)
    for state in _neighbours(validation, first, plan):
        second = sample(state)
        found += _kinetic(validation, second, state) + _ratio(validation, first, second, plan, state)
    return found


def _neighbours(validation: Any, data: Any, plan: Plan) -> list[Plan]:
    """Return plans for another temperature and, at constant pressure, another pressure."""
    with _quiet():
        apart = validation.ensemble.estimate_interval(data, verbosity=0)
    warmer = dataclasses.replace(plan, temperature=_round(plan.temperature + apart["dT"]), seed=plan.seed + 1)
    if plan.ensemble == "nvt":
        return [warmer]
    return [warmer, dataclasses.replace(plan, pressure=_round(plan.pressure + apart["dP"]), seed=plan.seed + 2)]


def _ratio(validation: Any, first: Any, second: Any, plan: Plan, other: Plan) -> list[EnsembleCheck]:
    """Compare how often energies, or volumes, occur in two runs."""
    try:
        with _quiet():
            off = validation.ensemble.check(first, second, bootstrap_seed=SEED, verbosity=0)
    except validation.util.error.InputError as error:
        raise OptionError(f"runs at {_state(plan)} and {_state(other)} cannot be compared: {error.message} Take more "
                          "steps") from error
    what = "energy" if plan.pressure == other.pressure else "volume"
    return [EnsembleCheck(f"{what} at {_state(plan)} beside {_state(other)}", float(value)) for value in off]


def _validation() -> Any:
    try:
        with _quiet():
            logging.getLogger("pymbar").setLevel(logging.ERROR)  # it advertises JAX
            import physical_validation
    except ImportError:
        raise MissingDependencyError.of("physical_validation", "verify") from None
    return physical_validation


def _data(validation: Any, atoms: Atoms, plan: Plan, log: Path) -> Any:
    """Return what a log holds as physical_validation reads it."""
    rows = np.genfromtxt(log, delimiter=",", names=True)
    data, count = validation.data, len(atoms)
    units = data.UnitData(kb=KB_EV, energy_conversion=KJ_PER_MOL_PER_EV, length_conversion=0.1, volume_conversion=1e-3,
                          temperature_conversion=1, pressure_conversion=1, time_conversion=1, energy_str="eV",
                          length_str="A", volume_str="A^3", temperature_str="K", pressure_str="bar", time_str="ps")
    constant = plan.ensemble == "npt"
    ensemble = (data.EnsembleData("NPT", natoms=count, pressure=plan.pressure, temperature=plan.temperature) if constant
                else data.EnsembleData("NVT", natoms=count, volume=1.0, temperature=plan.temperature))
    system = data.SystemData(natoms=count, nconstraints=0, ndof_reduction_tra=3, ndof_reduction_rot=0,
                             mass=atoms.get_masses())
    observables = data.ObservableData(kinetic_energy=rows["kinetic_ev"], potential_energy=rows["potential_ev"],
                                      total_energy=rows["total_ev"], volume=rows["volume_a3"] if constant else None)
    return data.SimulationData(units=units, dt=plan.timestep / 1000, system=system, ensemble=ensemble,
                               observables=observables)


def _kinetic(validation: Any, data: Any, plan: Plan) -> list[EnsembleCheck]:
    with _quiet():
        off = validation.kinetic_energy.distribution(data, strict=False, verbosity=0, bootstrap_seed=SEED)
    return [EnsembleCheck(f"{name} of the kinetic energy at {_state(plan)}", float(sigma))
            for name, sigma in zip(("mean", "width"), off, strict=True)]


def _state(plan: Plan) -> str:
    pressure = f", {plan.pressure:g} bar" if plan.ensemble == "npt" else ""
    return f"{plan.temperature:g} K{pressure}"


def _round(value: float) -> float:
    return float(f"{value:.4g}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Throw away what physical_validation prints, and the warnings of what it stands on."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        yield


def table(checks: list[EnsembleCheck]) -> str:
    """Return the checks as text."""
    width = max(len(check.name) for check in checks)
    return "\n".join(f"{check.name:{width}}  {check.sigma:6.2f} sigma  {'ok' if check.passed else 'FAILED'}"
                     for check in checks)
