"""How a model reaches OpenMM: `PythonForce`, or the forces of openmm-torch where that is installed."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mlip.checkpoints import Potential, create
from mlip.errors import MissingDependencyError, OptionError
from mlip.potentials.computation import Computation, TorchComputation
from mlip.potentials.registry import ModelReference, register
from mlip.potentials.settings import Settings

if TYPE_CHECKING:
    import openmm

TRANSPORTS = ("auto", "python", "python_torch", "torch")
CLASSES = {"python_torch": "PythonTorchForce", "torch": "TorchForce"}


def choose(transport: str) -> str:
    """Return the transport to use: `auto` is `python_torch` where openmm-torch has it, else `python`.

    Raises:
        OptionError: an unknown name.
        MissingDependencyError: a transport of openmm-torch that is not installed, or does not work beside this torch.
    """
    if transport not in TRANSPORTS:
        raise OptionError(f"transport={transport!r} is unknown; allowed: {', '.join(TRANSPORTS)}")
    if transport == "auto":
        return "python_torch" if _missing("python_torch") is None else "python"
    reason = None if transport == "python" else _missing(transport)
    if reason is not None:
        raise MissingDependencyError(f"transport={transport!r} needs {CLASSES[transport]} of openmm-torch: {reason}; "
                                     "install an openmm-torch made for this OpenMM and this torch, or leave the choice "
                                     "to transport='auto'")
    return transport


def make_force(transport: str, reference: ModelReference, settings: Settings, potential: Potential) -> openmm.Force:
    """Return a force of a chosen transport.

    Args:
        transport: what `choose` returned.
        reference: where the model is found again.
        settings: how to evaluate it.
        potential: the model.

    Raises:
        UnknownElementError, OptionError, StructureError: see `Computation`.
    """
    if transport == "torch":
        return _torch_force(Computation(reference, settings, potential))
    force: Any
    if transport == "python_torch":
        force = _openmmtorch().PythonTorchForce(TorchComputation(reference, settings, potential))
    else:
        import openmm

        force = openmm.PythonForce(Computation(reference, settings, potential))
    if settings.particles is not None:
        force.setParticles(settings.particles.tolist())
    return force


def _torch_force(computation: Computation) -> Any:
    """Return a TorchForce. It acts on all particles and has no subset: the module chooses them."""
    from mlip.potentials.torch_shim import scripted

    with warnings.catch_warnings():  # TorchScript is deprecated; as an error within TorchForce this ends the process
        warnings.simplefilter("ignore", DeprecationWarning)
        force = _openmmtorch().TorchForce(scripted(computation))
    force.setOutputsForces(True)
    return force


def _missing(transport: str) -> str | None:
    """Return why a transport of openmm-torch cannot be used; None where it can."""
    try:
        module = _openmmtorch()
    except (ImportError, OSError) as error:
        return str(error)
    if not hasattr(module, CLASSES[transport]):
        return "the installed one does not have it"
    return _broken(transport)


@lru_cache
def _broken(transport: str) -> str | None:
    """Return why one evaluation fails; None where it works.

    An openmm-torch that was made for another torch can be imported all the same, and fails when it makes a tensor. The
    model is a hydrogen atom: it has no edges, so that nothing but the transport can go wrong.
    """
    import openmm

    potential, reference = register(create("mace", ["H"], channels=1))
    settings = Settings(np.array([1]), None, periodic=False)
    system = openmm.System()
    system.addParticle(1.0)
    system.addForce(make_force(transport, reference, settings, potential))
    platform = openmm.Platform.getPlatformByName("Reference")
    try:
        context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
        context.setPositions([[0.0, 0.0, 0.0]])
        context.getState(energy=True, forces=True)
    except openmm.OpenMMException as error:
        return f"the installed one fails beside torch {torch.__version__} ({str(error).splitlines()[0]})"
    return None


def _openmmtorch() -> Any:
    with _no_warnings_logged():
        import openmmtorch
    return openmmtorch


@contextmanager
def _no_warnings_logged() -> Iterator[None]:
    """Keep still what openmm-torch logs at its import: that it uses an old name of OpenMM."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)
