"""An op that evaluates a model, and the scripted module that calls it: for openmm-torch with `TorchForce` only.

A `TorchForce` runs TorchScript, which holds no Python. The module carries a text that says what to evaluate, and gives
it to the op `mlip::openmm_force`, which importing this file registers: do that before a System is read from XML in
another process, else TorchScript does not know the op.
"""

from __future__ import annotations

import ast
from typing import Any

import torch
from torch import Tensor

from mlip.errors import TopologyError
from mlip.potentials.computation import Computation, UnusableComputation, restore

_computations: dict[str, Computation | UnusableComputation] = {}  # until the process ends: forces live in C++


class Shim(torch.nn.Module):
    """What is scripted: positions of all particles, and the box of periodic forces -> energy and forces."""

    def __init__(self, text: str) -> None:
        """Keep the text for the op."""
        super().__init__()
        self.text = text

    def forward(self, positions: Tensor, box: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the energy in kJ/mol and the forces in kJ/mol/nm."""
        energy, forces = torch.ops.mlip.openmm_force(positions, box, self.text)
        return energy, forces


def scripted(computation: Computation) -> torch.jit.ScriptModule:
    """Return a module that evaluates a computation in TorchScript; all copies in this process share it."""
    text = repr(computation.packed)
    _computations[text] = computation
    module: torch.jit.ScriptModule = torch.jit.script(Shim(text))
    return module


def openmm_force(positions: Tensor, box: Tensor | None, text: str) -> tuple[Tensor, Tensor]:
    """Return the energy in kJ/mol and the forces in kJ/mol/nm on all particles of a System.

    Args:
        positions: [M, 3], nm, of all particles.
        box: [3, 3], nm; None where the force is not periodic.
        text: `Computation.packed`, written out.

    Raises:
        TopologyError: the System has too few particles; further those of `Computation.evaluate`.
    """
    computation = _computations.get(text) or _computations.setdefault(text, restore(*ast.literal_eval(text)))
    here = None if box is None else box.detach().to(torch.float64).cpu().numpy()
    particles = None if isinstance(computation, UnusableComputation) else computation.settings.particles
    if particles is None:
        return computation.evaluate(positions, here)
    if particles.max() >= len(positions):
        raise TopologyError(f"TopologyError: the System has {len(positions)} particles, but the force acts on particle "
                            f"{particles.max()}; make it for this System")
    chosen = torch.from_numpy(particles).to(positions.device)
    energy, forces = computation.evaluate(positions.detach()[chosen], here)
    everywhere = forces.new_zeros(positions.shape)
    everywhere[chosen] = forces
    return energy, everywhere


_LIBRARY: Any = torch.library.Library("mlip", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("openmm_force(Tensor positions, Tensor? box, str text) -> (Tensor, Tensor)")
# no kernel of its own for autograd: inside, the model is differentiated as ever
_LIBRARY.impl("openmm_force", openmm_force, "CompositeImplicitAutograd")
