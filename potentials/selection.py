"""Which atoms the model sees: atomic numbers and particle indices from a topology or a list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlip.errors import TopologyError
from mlip.graph import Structure

if TYPE_CHECKING:
    from openmm.app import Topology


@dataclass(frozen=True)
class Selection:
    """The atoms of a System that a force acts on.

    Attributes:
        numbers: [N] int64, atomic numbers in the order of the force.
        particles: [N] int64, their indices in the System; None where the force acts on all of it.
        has_box: whether the topology is periodic.
    """

    numbers: NDArray[np.int64]
    particles: NDArray[np.int64] | None
    has_box: bool


def select(topology_or_numbers: Topology | Sequence[int], atoms: Iterable[int] | None = None) -> Selection:
    """Return the atoms a force is to act on.

    Args:
        topology_or_numbers: an `openmm.app.Topology`, or the atomic numbers of all particles.
        atoms: indices of the atoms for the model, in any order, kept; None stands for all.

    Raises:
        TopologyError: no atoms; indices empty, repeated, out of range or no whole numbers; an atom
            without element.
        StructureError: bad atomic numbers.
    """
    topology: Any = topology_or_numbers if hasattr(topology_or_numbers, "getPeriodicBoxVectors") else None
    members: Any = topology_or_numbers if topology is None else list(topology.atoms())
    count = len(members)
    if count == 0:
        raise TopologyError("there are no atoms; give a topology with atoms or a list of atomic numbers")
    particles = None if atoms is None else _indices(atoms, count)
    chosen = members if particles is None else [members[i] for i in particles]
    numbers = chosen if topology is None else [_number(atom) for atom in chosen]
    checked = Structure.create(numbers, np.zeros((len(chosen), 3))).numbers
    has_box = topology is not None and topology.getPeriodicBoxVectors() is not None
    return Selection(checked, particles, has_box)


def _indices(atoms: Iterable[int], count: int) -> NDArray[np.int64]:
    given = np.asarray(list(atoms) if isinstance(atoms, Iterable) else atoms)
    if given.size == 0:
        raise TopologyError("atoms is empty; give at least one index, or atoms=None for all")
    if given.ndim != 1 or not np.issubdtype(given.dtype, np.integer):
        raise TopologyError(f"atoms must be a list of indices (whole numbers from 0 to {count - 1}); an "
                            f"array of {given.dtype} with shape {given.shape} was given")
    outside = given[(given < 0) | (given >= count)]
    if outside.size:
        raise TopologyError(f"atoms holds {outside[:10].tolist()}, but the {count} atoms are numbered 0 to "
                            f"{count - 1}")
    values, times = np.unique(given, return_counts=True)
    if (times > 1).any():
        raise TopologyError(f"atoms holds {values[times > 1][:10].tolist()} more than once")
    return given.astype(np.int64)


def _number(atom: Any) -> int:
    if atom.element is None:
        raise TopologyError(
            f"atom {atom.index} ({atom.name!r} of residue {atom.residue.name} {atom.residue.id}) has no "
            "element; the model describes real atoms only: remove virtual sites and extra particles (for "
            "example by using a three-site water model), or leave them out with atoms=[...]")
    return int(atom.element.atomic_number)
