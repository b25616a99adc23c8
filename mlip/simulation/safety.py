"""What stops dynamics that have gone wrong, and what is said of it."""

from __future__ import annotations

import re

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlip.errors import CloseContactError, MLIPError, NonFiniteError, TemperatureError
from mlip.simulation.plan import Plan
from mlip.simulation.record import Recorder

MOST = 5  # atoms that an error names


def check_temperature(kinetic: NDArray[np.float64], atoms: Atoms, plan: Plan, recorder: Recorder) -> None:
    """Stop dynamics that are too hot.

    Args:
        kinetic: [N] kinetic energy of each atom, eV.
        atoms: for the names of the fastest.
        plan: knows the limit.
        recorder: knows the degrees of freedom.

    Raises:
        TemperatureError: names the fastest atoms; also where the temperature is NaN.
    """
    temperature = recorder.temperature(float(kinetic.sum()))
    if temperature <= plan.hottest:
        return
    fastest = np.argsort(-np.nan_to_num(kinetic, nan=np.inf), kind="stable")[:MOST].tolist()
    names = ", ".join(f"{i} ({atoms.symbols[i]}, {kinetic[i]:.4g} eV)" for i in fastest)
    raise TemperatureError(f"the temperature is {temperature:.6g} K, above the limit of {plan.hottest:g} K; the "
                           f"fastest atoms are {names}. Relax the structure first, or use a smaller time step than "
                           f"{plan.timestep:g} fs; max_temperature raises the limit", fastest)


def stopped(error: MLIPError, when: str, where: str = "") -> MLIPError:
    """Return an error that also says when a run stopped.

    Args:
        error: why.
        when: what stopped after which step.
        where: what to add, as `Recorder.fail` returns it.
    """
    text = f"{when}: {error}{where}"
    if isinstance(error, NonFiniteError | CloseContactError | TemperatureError):
        return type(error)(text, error.atoms)
    return type(error)(text)


def atoms_named(text: str) -> list[int]:
    """Return the atoms that a text of `NonFiniteError` or `CloseContactError` names."""
    listed = re.search(r"particles of the System: \[([\d, ]*)\]", text) or re.search(r"first \[([\d, ]*)\]", text)
    if listed:
        return [int(i) for i in listed[1].split(",") if i.strip()]
    pair = re.search(r"atoms (\d+) \(\w+\) and (\d+) ", text)
    return [int(i) for i in pair.groups()] if pair else []
