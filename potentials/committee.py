"""`create_committee_force`: an OpenMM force that is the mean of several models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlip.checkpoints import Committee
from mlip.errors import MissingDependencyError
from mlip.potentials.force import create_force

if TYPE_CHECKING:
    import openmm
    from openmm.app import Topology


def create_committee_force(topology_or_numbers: Topology | Sequence[int], committee: Committee, *,
                           force_group: int = 0, **options: Any) -> openmm.CustomCVForce:
    """Return an OpenMM force that gives the mean energy and forces of a committee.

    The members are the collective variables of the force, so that it serialises and copies as they do, and
    `force.getCollectiveVariableValues(context)` gives their energies in kJ/mol. Their neighbour lists are their own.

    Args:
        topology_or_numbers: as for `create_force`.
        committee: the models.
        force_group: 0 to 31.
        options: the other options of `create_force`, for each member.

    Raises:
        MissingDependencyError: OpenMM is not installed; further those of `create_force`.
    """
    try:
        import openmm
    except ImportError:
        raise MissingDependencyError.of("openmm", "openmm") from None
    names = [f"member{i}" for i in range(len(committee))]
    force = openmm.CustomCVForce(f"({'+'.join(names)})/{len(names)}")
    made = committee.each(
        lambda member: create_force(topology_or_numbers, member, force_group=force_group, **options))
    for name, one in zip(names, made, strict=True):
        force.addCollectiveVariable(name, one)
    force.setName("MLIP committee")
    force.setForceGroup(force_group)
    return force
