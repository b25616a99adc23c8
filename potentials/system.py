"""`create_system`: an OpenMM System that a model describes alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlip.checkpoints import Committee, Potential, load
from mlip.checkpoints.dispersion import refuse_contained
from mlip.errors import MissingDependencyError, TopologyError
from mlip.potentials.committee import create_committee_force
from mlip.potentials.dispersion import create_dispersion_force
from mlip.potentials.force import create_force

if TYPE_CHECKING:
    import openmm
    import torch
    from openmm.app import Topology


def create_system(topology: Topology, model: Potential | Committee | str | Path, *, periodic: bool | None = None,
                  device: torch.device | str | None = None, dtype: torch.dtype | str | None = None,
                  skin: float = 1.0, force_group: int = 0, charge: int | None = None, spin: int | None = None,
                  head: str | None = None, energy: str = "total",
                  remove_cm_motion: bool = True, backend: str | None = None,
                  radial: str | None = None, rotational_average: str | None = None,
                  dispersion: str | None = None, transport: str = "auto") -> openmm.System:
    """Return a System whose only interaction is the model.

    Particles have the masses of the elements, the box is that of the topology; there are no constraints (use a time
    step of 0.5 fs where hydrogen moves freely). Bonds of the topology have no energy, but tell OpenMM which atoms are
    one molecule: a `MonteCarloBarostat` scales the centres of molecules, and without bonds each atom counts as one, so
    that stiff bonds are stretched and only tiny steps are accepted.

    Args:
        topology: an `openmm.app.Topology`.
        model: a potential, the name or path of one, or a committee, whose mean it is.
        periodic: None: periodic if the topology has a box. True needs one.
        device: see `create_force`, as for all that follow.
        dtype: working precision.
        skin: A.
        force_group: 0 to 31.
        charge: total charge, e; None for not given.
        spin: multiplicity 2S+1; None for not given.
        head: name of the head.
        energy: `total` or `interaction`.
        remove_cm_motion: add a `CMMotionRemover`, as OpenMM does by default.
        backend: `auto`, `compiled` or `reference`.
        radial: `exact` or `tabulated`.
        rotational_average: `none`, `T`, `O`, `Oh`, `I` or `Ih`.
        dispersion: D3 to be added as a second force of the same group, such as `d3bj:pbe`; None for none.
        transport: `auto`, `python`, `python_torch` or `torch`.

    Returns:
        The System.

    Raises:
        TopologyError: no topology, atoms or elements, or no box where `periodic=True`; further those of `create_force`
            and `create_dispersion_force`.
        OptionError: dispersion for a model whose training data contain it.
    """
    box = _box_of(topology, periodic)
    if dispersion is not None:
        model = _without_dispersion(model, device)
    create: Any = create_committee_force if isinstance(model, Committee) else create_force
    force = create(topology, model, periodic=periodic, device=device, dtype=dtype, skin=skin, force_group=force_group,
                   charge=charge, spin=spin, head=head, energy=energy, backend=backend, radial=radial,
                   rotational_average=rotational_average, transport=transport)
    system = _without_forces(topology, box)
    system.addForce(force)
    if dispersion is not None:
        system.addForce(create_dispersion_force(topology, dispersion, periodic=periodic, force_group=force_group))
    _add_ties(system, topology)
    if remove_cm_motion:
        system.addForce(_openmm().CMMotionRemover())
    return system


def _openmm() -> Any:
    try:
        import openmm
    except ImportError:
        raise MissingDependencyError.of("openmm", "openmm") from None
    return openmm


def _without_forces(topology: Topology, box: Any) -> openmm.System:
    """Return a System with the particles of a topology, in a box or none."""
    system: openmm.System = _openmm().System()
    if box is not None:
        system.setDefaultPeriodicBoxVectors(*box)
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    return system


def _add_ties(system: openmm.System, topology: Topology) -> None:
    """Add the bonds of a topology as a force without energy, which makes molecules of atoms."""
    bonds = [(a.index, b.index) for a, b in topology.bonds()]
    if bonds:
        force = _openmm().HarmonicBondForce()
        force.setName("molecules")
        for i, j in bonds:
            force.addBond(i, j, 0.0, 0.0)
        system.addForce(force)


def _box_of(topology: Topology, periodic: bool | None) -> Any:
    """Return the box vectors of a topology, or None."""
    if not hasattr(topology, "getPeriodicBoxVectors"):
        raise TopologyError("create_system needs an openmm.app.Topology; "
                            f"{type(topology).__name__} was given")
    box: Any = topology.getPeriodicBoxVectors()
    if periodic and box is None:
        raise TopologyError("periodic=True, but the topology has no box; call "
                            "topology.setPeriodicBoxVectors(...)")
    return box


def _without_dispersion(model: Potential | Committee | str | Path,
                        device: torch.device | str | None) -> Potential | Committee:
    """Return the model, loaded, if its data do not contain dispersion."""
    known = model if isinstance(model, Potential | Committee) else load(model, device=device)
    for member in known.members if isinstance(known, Committee) else (known,):
        refuse_contained(member.info)
    return known
