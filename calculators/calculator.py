"""`MLIPCalculator`: a potential behind the calculator interface of ASE."""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, Parameters, PropertyNotImplementedError, all_changes, equal

from mlip.checkpoints import Potential, load
from mlip.checkpoints.evaluator import Evaluator
from mlip.errors import OptionError
from mlip.io.ase import INFO_KEYS, structure_of
from mlip.units import to_voigt

if TYPE_CHECKING:
    from mlip.checkpoints.info import ModelInfo
    from mlip.checkpoints.potential import Prediction

OPTIONS = ("model", "device", "dtype", "skin", "backend", "radial", "rotational_average")
HOW = ("MLIPCalculator(model, device=None, dtype=None, skin=1.0, backend=None, radial=None, rotational_average=None), "
       "where model is a name, the path of a file, or an mlip.Potential")


class MLIPCalculator(Calculator):  # type: ignore[misc]
    """ASE calculator of energy, free_energy, energies, forces and stress.

    One evaluation fills all of them: energy [eV], energies [N] (eV, they sum to energy), forces [N, 3]
    (eV/A) and, where the structure is periodic and its cell has a volume, stress [6] (eV/A^3, dE/dstrain
    over the volume of the user's cell, positive under tension, xx yy zz yz xz xy). The free energy is the
    energy: there is no electronic temperature.

    `atoms.info` may hold `charge` (e), `spin` or `spin_multiplicity` (2S+1) and `head` (name of a model
    head); a change of them is noticed like a change of positions, and nothing is written there. One
    calculator may serve any number of `Atoms` in turn, not several threads at once. Pickles and deep
    copies work; the deep copy shares the weights, which never change.

    Example:
        >>> atoms.calc = MLIPCalculator("model.mlip")  # doctest: +SKIP
        >>> atoms.get_potential_energy()  # doctest: +SKIP

    Attributes:
        potential: the `mlip.Potential` in use.
        parameters: JSON-compatible provenance that ASE stores in trajectories and databases: name, family and
            sha256 of the model, device, dtype, skin, backend, radial, rotational_average.
    """

    name = "mlip"
    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "energies", "forces", "stress"]
    ignored_changes: ClassVar[set[str]] = {"initial_charges", "initial_magmoms"}  # the models read atoms.info

    def __init__(self, model: str | os.PathLike[str] | Potential | None = None,
                 device: torch.device | str | None = None, dtype: torch.dtype | str | None = None,
                 skin: float = 1.0, backend: str | None = None, radial: str | None = None,
                 rotational_average: str | None = None, **unknown: NoReturn) -> None:
        """Load the model.

        Args:
            model: name of a catalogued model, path of a model file, or a potential; required.
            device: `"cpu"`, `"cuda"` or `"cuda:<index>"`; None keeps the device of the potential.
            dtype: `"float32"` or `"float64"`; None keeps the precision of the potential.
            skin: A, at least 0; the neighbour list is reused until an atom has moved so far that a pair
                could be missing. Energies do not depend on it; 0 rebuilds the list at every call.
            backend: `"auto"`, `"compiled"` or `"reference"`; None keeps that of the potential.
            radial: `"exact"` or `"tabulated"`, see `Potential.to`; None keeps that of the potential.
            rotational_average: `"none"`, `"T"`, `"O"`, `"Oh"`, `"I"` or `"Ih"`, see `Potential.to`; None keeps that of
                the potential.
            unknown: nothing; takes up misspelt options so that they get a helpful error.

        Raises:
            OptionError: an option outside its allowed values, or one that does not exist.
            ModelNotFoundError, ModelFileError: no such model, or a file that is damaged.
        """
        _refuse(unknown)
        if model is None:
            raise OptionError(f"no model was given; use {HOW}")
        if not isinstance(model, str | os.PathLike | Potential):
            raise OptionError(f"model={model!r} is a {type(model).__name__}; use {HOW}")
        source = model if isinstance(model, Potential) else load(os.fspath(model))
        self.potential: Potential = source.to(device=device, dtype=dtype, backend=backend, radial=radial,
                                              rotational_average=rotational_average)
        self.potential.warn_of_forces()
        self._evaluator = Evaluator(self.potential, skin)
        super().__init__()
        info = source.info
        self.parameters = Parameters(
            model=info.name or info.family, family=info.family, sha256=info.sha256, skin=float(skin),
            device=str(self.potential.device), dtype=str(self.potential.dtype).removeprefix("torch."),
            backend=self.potential.backend, radial=self.potential.radial,
            rotational_average=self.potential.rotational_average)

    @property
    def info(self) -> ModelInfo:
        """Family, licence, citation, training data and sha256 of the model."""
        return self.potential.info

    def calculate(self, atoms: Atoms | None = None, properties: Sequence[str] = ("energy",),
                  system_changes: Sequence[str] = all_changes) -> None:
        """Evaluate the model and fill `results`.

        Args:
            atoms: the atoms; None for those of the last call.
            properties: every implemented property is computed, whatever is listed.
            system_changes: not needed.

        Raises:
            PropertyNotImplementedError: the stress of a structure without volume.
            UnknownElementError, StructureError: bad input.
            NonFiniteError: the model returned NaN or infinity; names the atoms.
        """
        if atoms is None and self.atoms is None:
            raise OptionError("there are no atoms to calculate; use calculator.calculate(atoms)")
        self.results = {}
        super().calculate(atoms, properties, system_changes)
        structure = structure_of(self.atoms)
        if "stress" in properties and structure.volume is None:
            raise PropertyNotImplementedError(
                "no stress: the structure has no periodic direction or its cell has no volume; "
                "set atoms.cell and atoms.pbc for a crystal, or do not ask a molecule for its stress")
        self.results = _results(self._evaluator(structure))

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what has changed since the last calculation, `atoms.info` included where models read it."""
        changes: list[str] = super().check_state(atoms, tol=tol)
        if self.atoms is not None:
            changes += [k for k in INFO_KEYS if not equal(self.atoms.info.get(k), atoms.info.get(k))]
        return changes

    def set(self, **options: Any) -> dict[str, Any]:
        """Refuse options: they are fixed when the calculator is made.

        Raises:
            OptionError: any option.
        """
        if options:
            raise OptionError(f"{', '.join(options)}: an option cannot change; make a new calculator: {HOW}")
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_evaluator"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._evaluator = Evaluator(self.potential, self.parameters["skin"])

    def __deepcopy__(self, memo: dict[int, Any]) -> MLIPCalculator:
        memo[id(self.potential)] = self.potential
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return twin


def _results(p: Prediction) -> dict[str, Any]:
    results: dict[str, Any] = {"energy": p.energy, "free_energy": p.energy, "energies": p.energies,
                               "forces": p.forces}
    if p.stress is not None:
        results["stress"] = to_voigt(p.stress)
    return results


def _refuse(unknown: dict[str, NoReturn]) -> None:
    if unknown:
        hints = [f"{name} (did you mean {close[0]}?)" if close else name for name in unknown
                 for close in [difflib.get_close_matches(name, OPTIONS, n=1, cutoff=0.5)]]
        raise OptionError(f"MLIPCalculator has no option {', '.join(hints)}; use {HOW}")
