"""`create_dispersion_force`: D3 dispersion as an OpenMM force of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlip.checkpoints.dispersion import Correction, Dispersion
from mlip.errors import MissingDependencyError, NonFiniteError, OptionError
from mlip.graph import Structure
from mlip.potentials.repeats import Repeats
from mlip.potentials.selection import select
from mlip.units import KJ_PER_MOL_NM_PER_EV_A, KJ_PER_MOL_PER_EV, NM_PER_ANGSTROM

if TYPE_CHECKING:
    import openmm
    from openmm.app import Topology


def create_dispersion_force(topology_or_numbers: Topology | Sequence[int], method: str,
                            atoms: Iterable[int] | None = None, *, periodic: bool | None = None,
                            force_group: int = 0) -> openmm.PythonForce:
    """Return an OpenMM force of D3 dispersion between some particles, to stand beside that of a model.

    It knows no model: of one whose training data contain dispersion, dispersion would count twice. It is smooth but
    dear, as it reaches 60 Bohr; in a force group of its own a multiple-time-step integrator may call it more seldom.

    Args:
        topology_or_numbers: an `openmm.app.Topology`, or the atomic numbers of all particles.
        method: such as `d3bj:pbe`, see `mlip.checkpoints.dispersion.Dispersion`.
        atoms: indices of the particles the force acts on; None for all.
        periodic: whether the box repeats them; None: as the topology; of numbers: False.
        force_group: 0 to 31.

    Returns:
        The force; energies in kJ/mol, forces in kJ/mol/nm.

    Raises:
        OptionError: no such method, a bad force group or `periodic`.
        TopologyError: bad `atoms`, or atoms without element.
        MissingDependencyError: OpenMM or s-dftd3 is not installed.
    """
    try:
        import openmm
    except ImportError:
        raise MissingDependencyError.of("openmm", "openmm") from None
    if force_group not in range(32):
        raise OptionError(f"force_group={force_group!r}; OpenMM has the groups 0 to 31")
    if periodic not in (None, True, False):
        raise OptionError(f"periodic={periodic!r}; allowed: True, False or None (as the topology)")
    Dispersion(method)
    selection = select(topology_or_numbers, atoms)
    boxed = selection.has_box if periodic is None else bool(periodic)
    force = openmm.PythonForce(DispersionComputation(method, selection.numbers.astype(np.uint8).tobytes(), boxed))
    force.setName("D3")
    force.setForceGroup(int(force_group))
    force.setUsesPeriodicBoundaryConditions(boxed)
    if selection.particles is not None:
        force.setParticles(selection.particles.tolist())
    return force


class DispersionComputation:
    """The function of an `openmm.PythonForce`: State -> energy and forces. It serialises as its arguments."""

    def __init__(self, method: str, numbers: bytes, periodic: bool) -> None:
        """Keep the arguments; nothing raises before the first call, as reading a System must not.

        Args:
            method: of `Dispersion`.
            numbers: atomic numbers, a byte for each atom.
            periodic: whether the box is used.
        """
        self._packed = (method, numbers, periodic)
        self._dispersion: Dispersion | None = None
        self._repeats = Repeats[Correction]()
        count = len(numbers)
        self._template = Structure(np.frombuffer(numbers, np.uint8).astype(np.int64), np.zeros((count, 3)),
                                   np.zeros((3, 3)), np.full(3, periodic))

    def __reduce__(self) -> tuple[type[DispersionComputation], tuple[str, bytes, bool]]:
        return type(self), self._packed

    def __call__(self, state: Any) -> tuple[float, NDArray[np.float64]]:
        """Return the energy in kJ/mol and the forces, [N, 3] in kJ/mol/nm, at the positions of a State.

        Raises:
            NonFiniteError: the positions or the results are NaN or infinite.
            OptionError, MissingDependencyError: a copied force that s-dftd3 of this process cannot evaluate.
        """
        from openmm import unit

        if self._dispersion is None:
            self._dispersion = Dispersion(self._packed[0])
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer) / NM_PER_ANGSTROM
        bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
        if len(bad):
            raise NonFiniteError(f"the positions of {len(bad)} atom(s), first {bad[:10].tolist()}, are NaN or infinite",
                                 bad.tolist())
        cell = self._template.cell
        if self._packed[2]:
            cell = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer) / NM_PER_ANGSTROM
        found = self._repeats.find(positions, cell) or self._repeats.keep(
            positions, cell, self._dispersion(replace(self._template, positions=positions, cell=cell)))
        forces = np.ascontiguousarray(found.forces * KJ_PER_MOL_NM_PER_EV_A)
        return found.energy * KJ_PER_MOL_PER_EV, forces
