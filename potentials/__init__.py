"""OpenMM forces and Systems from a potential, and the openmm-ml plugin.

`create_system` makes a System a model describes alone, `create_force` the force for a System of your
own (whole or a subset of its particles). Nothing heavy is imported before it is used: `import openmmml`
loads `openmmml_plugin` from here.

Constant pressure: the forces have no virial, so use a Monte Carlo barostat. It scales molecules, found from the bonds
of the topology that `create_system` is given; without bonds each atom counts as a molecule: correct, with small moves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlip._installation import check_single_distribution
from mlip._lazy import lazy

check_single_distribution()  # here too: the other package may own mlip/__init__.py

if TYPE_CHECKING:
    from mlip.potentials.committee import create_committee_force
    from mlip.potentials.computation import Computation
    from mlip.potentials.dispersion import create_dispersion_force
    from mlip.potentials.force import create_force
    from mlip.potentials.system import create_system

_HOMES = {
    "Computation": "mlip.potentials.computation",
    "create_committee_force": "mlip.potentials.committee",
    "create_dispersion_force": "mlip.potentials.dispersion",
    "create_force": "mlip.potentials.force",
    "create_system": "mlip.potentials.system",
}

__all__ = ["Computation", "create_committee_force", "create_dispersion_force", "create_force", "create_system"]

__getattr__, __dir__ = lazy(__name__, _HOMES)
