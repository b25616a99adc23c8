"""`create_force`: an OpenMM force that evaluates a model.

Every transport gives the same numbers. `python` is OpenMM's own `PythonForce`; `python_torch` the `PythonTorchForce` of
openmm-torch, where tensors stay on the device; `torch` its `TorchForce`, for releases that have nothing else: before a
System with it is read from XML, `import mlip.potentials.torch_shim`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlip.checkpoints import Potential
from mlip.errors import MissingDependencyError, OptionError
from mlip.potentials.registry import register
from mlip.potentials.selection import select
from mlip.potentials.settings import Settings
from mlip.potentials.transports import choose, make_force

if TYPE_CHECKING:
    import openmm
    import torch
    from openmm.app import Topology


def create_force(topology_or_numbers: Topology | Sequence[int], model: Potential | str | Path,
                 atoms: Iterable[int] | None = None, *, periodic: bool | None = None,
                 device: torch.device | str | None = None, dtype: torch.dtype | str | None = None,
                 skin: float = 1.0, force_group: int = 0, charge: int | None = None, spin: int | None = None,
                 head: str | None = None, energy: str = "total", backend: str | None = None,
                 radial: str | None = None, rotational_average: str | None = None,
                 transport: str = "auto") -> openmm.Force:
    """Return an OpenMM force that gives the energy and forces of a model.

    The force serialises (XML, `copy.deepcopy`, `CustomCVForce`) by the name or path of the model and its sha256: copies
    in a process share the loaded model, and another process loads it at the first evaluation, on the CPU where the
    recorded device does not exist. A model made in memory must be saved (`potential.save`) before, if another process
    is to read the force. As for every PythonForce, reading a System XML runs pickle: read only files you trust.

    Args:
        topology_or_numbers: an `openmm.app.Topology`, or the atomic numbers of all particles.
        model: a potential, or the name or path of one.
        atoms: indices of the particles the force acts on, in the order given to the model; None for all.
        periodic: whether the (triclinic) box is the cell of the model; None: as the topology; of numbers: False.
        device: `cpu` or `cuda[:i]`; None leaves it to the model.
        dtype: `float32`/`single` or `float64`/`double`; None keeps that of the model.
        skin: A, added to the cutoff of the neighbour list so that it serves for many steps; 0 for a new one at each.
        force_group: 0 to 31.
        charge: total charge of the atoms the force acts on, e; None for not given, which counts as 0.
        spin: their multiplicity 2S+1; None for not given, which counts as 1.
        head: name of the head, for models with several.
        energy: `total`, or `interaction` for the energy above that of the isolated atoms; the forces are the same.
        backend: `auto`, `compiled` or `reference`; None keeps that of the model.
        radial: `exact` or `tabulated`, see `mlip.Potential.to`; None keeps that of the model.
        rotational_average: `none`, `T`, `O`, `Oh`, `I` or `Ih`, see `mlip.Potential.to`; None keeps that of the model.
        transport: `auto` (`python_torch` where it is installed, else `python`), `python`, `python_torch` or `torch`.

    Returns:
        The force; energies in kJ/mol, forces in kJ/mol/nm.

    Raises:
        TopologyError: bad `atoms`, or atoms without element.
        UnknownElementError: elements the model does not know.
        OptionError, StructureError: bad options.
        ModelNotFoundError, ModelFileError: from loading the model.
        MissingDependencyError: OpenMM, or the transport that was asked for, is not installed.
    """
    try:
        import openmm  # noqa: F401
    except ImportError:
        raise MissingDependencyError.of("openmm", "openmm") from None
    _check(force_group, periodic)
    chosen = choose(transport)
    selection = select(topology_or_numbers, atoms)
    potential, reference = register(model, device, dtype, backend, radial, rotational_average)
    potential.warn_of_forces()
    settings = Settings(
        numbers=selection.numbers, particles=selection.particles,
        periodic=selection.has_box if periodic is None else bool(periodic),
        skin=skin, charge=charge, spin=spin, head=head, energy=energy)
    force = make_force(chosen, reference, settings, potential)
    force.setName("MLIP")
    force.setForceGroup(int(force_group))
    force.setUsesPeriodicBoundaryConditions(settings.periodic)
    return force


def _check(force_group: int, periodic: bool | None) -> None:
    if force_group not in range(32):
        raise OptionError(f"force_group={force_group!r}; OpenMM has the groups 0 to 31")
    if periodic not in (None, True, False):
        raise OptionError(f"periodic={periodic!r}; allowed: True, False or None (as the topology)")
