"""`Dispersion`: Grimme's D3 correction by the library s-dftd3, for models of functionals that know no dispersion."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip.checkpoints.info import ModelInfo
from mlip.elements import SYMBOLS
from mlip.errors import MissingDependencyError, NonFiniteError, OptionError, StructureError
from mlip.graph import Structure
from mlip.units import BOHR, HARTREE

HEAVIEST = 103  # s-dftd3 1.7 answers 0 for heavier elements, or crashes
REACH, FADING = 60.0, 5.0  # Bohr
_FORM = re.compile(r"(d3bj|d3zero)(-atm)?:(\S+)")
_CONTAINED = re.compile(r"-D\b|\bD[34]|VV10|-V\b|vdW|\bMBD\b")


@dataclass(frozen=True)
class Correction:
    """What dispersion adds to a prediction.

    Attributes:
        energy: eV.
        forces: [N, 3] eV/A.
        stress: [3, 3] eV/A^3, positive under tension; None where the structure has no volume.
    """

    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64] | None


class Dispersion:
    """D3 of one functional: pairs up to 60 Bohr, triples up to 40, in float64, whatever the model's precision.

    Pairs and triples fade out over the last 5 Bohr; with the sharp ends that are the library's default, energies jump
    when shells of a crystal leave. Sources: Grimme et al., J. Chem. Phys. 132, 154104 (2010); J. Comput. Chem. 32, 1456
    (2011).

    Attributes:
        method: as it was given.
    """

    def __init__(self, method: str) -> None:
        """Look the parameters up.

        Args:
            method: damping and functional, such as `d3bj:pbe` (Becke-Johnson) or `d3zero:pbe`; `d3bj-atm:pbe` adds
                the three-body term.

        Raises:
            OptionError: no such damping, or a functional without parameters for it.
            MissingDependencyError: s-dftd3 is not installed.
        """
        found = _FORM.fullmatch(method) if isinstance(method, str) else None
        if found is None:
            raise OptionError(f"dispersion={method!r} is not supported; give damping and functional: 'd3bj:pbe', "
                              "'d3zero:pbe', or with three-body terms 'd3bj-atm:pbe'")
        self.method = method
        self._damping, self._atm, self._functional = found[1], found[2] is not None, found[3]
        self._parameters()

    def __reduce__(self) -> tuple[type[Dispersion], tuple[str]]:
        return type(self), (self.method,)

    def __call__(self, structure: Structure) -> Correction:
        """Return energy, forces and stress of dispersion.

        Raises:
            StructureError: an element beyond lawrencium, for which there are no parameters.
            NonFiniteError: the library gives NaN.
        """
        from dftd3.interface import DispersionModel

        volume = structure.volume
        if not len(structure):
            return Correction(0.0, np.zeros((0, 3)), None if volume is None else np.zeros((3, 3)))
        if structure.numbers.max() > HEAVIEST:
            raise StructureError(f"D3 has parameters up to {SYMBOLS[HEAVIEST]}; atom {structure.numbers.argmax()} is "
                                 f"{SYMBOLS[structure.numbers.max()]}: take no dispersion")
        model = DispersionModel(structure.numbers, *_boxed(structure))
        model.set_realspace_cutoff(disp2=REACH, disp3=40.0, cn=40.0, width2=FADING, width3=FADING)
        found = model.get_dispersion(self._parameters(), grad=True)
        energy, forces = float(found["energy"]) * HARTREE, found["gradient"] * (-HARTREE / BOHR)
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise NonFiniteError("D3 is NaN or infinite; look for atoms far too close to each other")
        virial = 0.5 * (found["virial"] + found["virial"].T) * HARTREE
        return Correction(energy, forces, None if volume is None else virial / volume)

    def _parameters(self) -> Any:
        """Return the parameters of the library; kept ones would complain when the process ends."""
        try:
            from dftd3 import interface
        except ImportError:
            raise MissingDependencyError.of("dftd3", "d3") from None
        kind = interface.RationalDampingParam if self._damping == "d3bj" else interface.ZeroDampingParam
        try:
            return kind(method=self._functional, atm=self._atm)
        except RuntimeError as error:
            raise OptionError(f"dispersion={self.method!r}: s-dftd3 has no parameters of {self._damping} for the "
                              f"functional {self._functional!r} ({error}); give that of the model's training data, "
                              "as 'pbe', 'r2scan' or 'b3lyp'") from None


def refuse_contained(info: ModelInfo) -> None:
    """Raise `OptionError` for a model whose training data contain dispersion: it would count twice.

    Known from what the model says of its data; of a model that says nothing the user must know.
    """
    found = _CONTAINED.search(info.training_data)
    if found is not None:
        raise OptionError(f"dispersion for the model {info.name or info.family!r} would count twice: its data are "
                          f"{info.training_data!r}, which contain dispersion already; leave the option out")


def _boxed(structure: Structure) -> tuple[NDArray[np.float64] | NDArray[np.bool_], ...]:
    """Return positions, and cell and periodicity where there is any, as the library needs them, in Bohr.

    Open directions of partly periodic structures become long periodic ones at right angles to the others, beyond all
    reach: s-dftd3 1.7 wraps atoms along open vectors, and misses images, so that two cells are not twice one.
    """
    positions, pbc = structure.positions / BOHR, structure.pbc
    if not pbc.any():
        return (positions,)
    cell = structure.cell / BOHR
    if not pbc.all():
        free = np.linalg.svd(cell[pbc])[2][pbc.sum():]
        room = np.ptp(positions @ free.T, axis=0) + 1.5 * REACH
        cell[~pbc] = room[:, None] * free
    return positions, cell, np.full(3, True)
