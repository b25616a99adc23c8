"""What rotations do to the predictions of a model."""

from __future__ import annotations

from ase import Atoms

from mlip.checkpoints import Potential
from mlip.checkpoints.symmetry import SymmetryReport, symmetry_reports
from mlip.graph import build_graph, check_elements, check_state
from mlip.io.ase import require_atoms
from mlip.models import EnergyModel


def symmetry_report(model: Potential | EnergyModel, atoms: Atoms, rotations: int = 64, seed: int = 0
                    ) -> SymmetryReport:
    """Measure how far a model is from invariance under rotations, on a structure, in the model's own precision.

    Args:
        model: a potential, or the model of one.
        atoms: N atoms; turned together with their cell.
        rotations: number of random rotations, at least 2.
        seed: of the rotations.

    Returns:
        Its text is a table with units.

    Raises:
        UnknownElementError, StructureError: atoms that the model cannot evaluate, or none.
        OptionError: fewer than two rotations.
    """
    structure = require_atoms(atoms)
    if isinstance(model, Potential):
        graph = model.graph([structure])
        model.check_backend(structure, graph)
        model = model.model
    else:
        config = model.config
        check_elements(structure.numbers, config.atomic_numbers)
        config.check_structure(structure)
        check_state(structure, config.known_charges, config.known_spins)
        graph = build_graph([structure], model.config.cutoff, heads=model.config.heads, device=model.device)
    return symmetry_reports(model, graph, rotations, seed)[0]
