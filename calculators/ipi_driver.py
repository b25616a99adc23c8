"""The driver of i-PI: `i-pi-driver-py -m custom -P <this file> -o model=...,template=...`, or `<ffdirect>`.

i-PI loads drivers that it does not ship from files; `mlip.calculators.ipi_driver.__file__` is the path to give as
`-P` or `<pes_path>`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip.checkpoints import Potential, Prediction, load
from mlip.checkpoints.evaluator import BatchEvaluator
from mlip.errors import MissingDependencyError, OptionError, StructureError
from mlip.graph import Structure
from mlip.io.ase import structure_of
from mlip.io.files import read_structure

__DRIVER_NAME__ = "mlip"
__DRIVER_CLASS__ = "MLIPDriver"

Result = tuple[float, NDArray[np.float64], NDArray[np.float64], str]


class MLIPDriver:
    """Energy, forces and virial in atomic units, of one structure or of all beads in one batch.

    Lengths and energies are converted by the constants of i-PI, so that what its input gives in Angstrom reaches the
    model, and what the model says in eV reaches its output, as it was. Molecules have no virial: it is zero.

    Attributes:
        potential: the potential in use.
    """

    def __init__(self, model: Potential | str | os.PathLike[str], template: str | os.PathLike[str],
                 device: str | None = None, dtype: str | None = None, skin: float = 1.0, *,
                 verbose: object = None, verbosity: object = None) -> None:
        """Load the model and the template.

        Args:
            model: a potential, or the name or path of one.
            template: a file that ASE reads, with one structure: elements and periodic directions, and charge, spin and
                head where the model reads them. Its positions do not matter.
            device: `cpu` or `cuda[:i]`; None keeps that of the potential.
            dtype: `float32` or `float64`; None keeps that of the potential.
            skin: A, at least 0, of the neighbour lists.
            verbose: not used; i-PI gives it.
            verbosity: not used; i-PI gives it.

        Raises:
            OptionError: an option outside its allowed values.
            ModelNotFoundError, ModelFileError: no such model, or a file that is damaged.
            UnknownElementError, StructureError: a template that cannot be read, or that the model was not made for.
            MissingDependencyError: i-PI is not installed.
        """
        try:
            from ipi.utils import units
        except ImportError:
            raise MissingDependencyError.of("ipi", "ipi") from None
        if not isinstance(model, str | os.PathLike | Potential):
            raise OptionError(f"model={model!r} is a {type(model).__name__}; give a name, the path of a file, or an "
                              "mlip.Potential")
        self.potential = (model if isinstance(model, Potential) else load(os.fspath(model))).to(device, dtype)
        self.potential.warn_of_forces()
        self._template = structure_of(read_structure(os.fspath(template)))
        self.potential.check([self._template])
        self._evaluate = BatchEvaluator(self.potential, skin)
        self._angstrom = float(units.unit_to_user("length", "angstrom", 1.0))  # A for 1 Bohr of i-PI
        self._hartree = float(units.unit_to_user("energy", "electronvolt", 1.0))  # eV for 1 Hartree of i-PI

    def __call__(self, cell: Any, pos: Any) -> Any:
        """Return `compute(cell, pos)`; i-PI calls this."""
        return self.compute(cell, pos)

    def compute(self, cell: Any, pos: Any) -> Result | list[Result]:
        """Return the result of one structure, or those of a list of them, evaluated in one batch.

        Args:
            cell: [3, 3], Bohr, lattice vectors in columns; or a list of cells.
            pos: [N, 3], Bohr; or a list of positions.

        Raises:
            StructureError: bad input.
            NonFiniteError: the model returned NaN or infinity; names the atoms.
        """
        if not isinstance(cell, list):
            return self.compute_structure(cell, pos)
        if not isinstance(pos, list) or len(cell) != len(pos):
            raise StructureError("a list of cells needs a list of as many positions")
        structures = [self._structure(h, r) for h, r in zip(cell, pos, strict=True)]
        return [self._result(s, p) for s, p in zip(structures, self._evaluate(structures), strict=True)]

    def compute_structure(self, cell: NDArray[np.float64], pos: NDArray[np.float64]) -> Result:
        """Return the energy (Hartree), forces ([N, 3], Hartree/Bohr), virial ([3, 3], Hartree) and an empty text.

        Args:
            cell: [3, 3], Bohr, lattice vectors in columns.
            pos: [N, 3], Bohr.

        Raises:
            StructureError: bad input.
            NonFiniteError: the model returned NaN or infinity; names the atoms.
        """
        structure = self._structure(cell, pos)
        return self._result(structure, self._evaluate([structure])[0])

    def _structure(self, cell: NDArray[np.float64], pos: NDArray[np.float64]) -> Structure:
        t = self._template
        if np.shape(pos) != (len(t), 3):
            raise StructureError(f"i-PI sent positions of shape {np.shape(pos)}, but the template has {len(t)} atoms; "
                                 "give the structure i-PI starts from as template")
        checked = Structure.create(t.numbers, pos * self._angstrom, np.asarray(cell).T * self._angstrom, t.pbc)
        return replace(checked, charge=t.charge, spin=t.spin, head=t.head)

    def _result(self, structure: Structure, p: Prediction) -> Result:
        assert p.forces is not None
        virial = np.zeros((3, 3))
        if p.stress is not None and structure.volume is not None:
            virial = -p.stress * (structure.volume / self._hartree)
        return p.energy / self._hartree, p.forces * (self._angstrom / self._hartree), virial, ""
