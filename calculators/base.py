"""What the calculators of ASE have in common: results, caching, copies."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes, equal

from mlip.checkpoints import Prediction
from mlip.checkpoints.dispersion import Correction, Dispersion
from mlip.checkpoints.evaluator import CommitteeEvaluator, Evaluator
from mlip.errors import OptionError
from mlip.io.ase import INFO_KEYS, structure_of
from mlip.units import to_voigt


class ModelCalculator(Calculator):  # type: ignore[misc]
    """ASE calculator of energy, free_energy, energies, forces and stress; its children say of which models.

    One evaluation fills all of them: energy [eV], energies [N] (eV, they sum to energy), forces [N, 3]
    (eV/A) and, where the structure is periodic and its cell has a volume, stress [6] (eV/A^3, dE/dstrain
    over the volume of the user's cell, positive under tension, xx yy zz yz xz xy). The free energy is the
    energy: there is no electronic temperature.

    `atoms.info` may hold `charge` (e), `spin` or `spin_multiplicity` (2S+1) and `head` (name of a model
    head); a change of them is noticed like a change of positions, and nothing is written there. One
    calculator may serve any number of `Atoms` in turn, not several threads at once. Pickles and deep
    copies work; the deep copy shares the weights, which never change.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "energies", "forces", "stress"]
    ignored_changes: ClassVar[set[str]] = {"initial_charges", "initial_magmoms"}  # the models read atoms.info
    options: ClassVar[tuple[str, ...]]  # names of the arguments, and how the calculator is made, for errors
    how: ClassVar[str]

    _evaluator: Evaluator | CommitteeEvaluator
    _dispersion: Dispersion | None

    def calculate(self, atoms: Atoms | None = None, properties: Sequence[str] = ("energy",),
                  system_changes: Sequence[str] = all_changes) -> None:
        """Evaluate the model, and dispersion where it was asked for, and fill `results`.

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
        self.results: dict[str, Any] = {}
        super().calculate(atoms, properties, system_changes)
        structure = structure_of(self.atoms)
        if "stress" in properties and structure.volume is None:
            raise PropertyNotImplementedError(
                "no stress: the structure has no periodic direction or its cell has no volume; "
                "set atoms.cell and atoms.pbc for a crystal, or do not ask a molecule for its stress")
        prediction = self._evaluator(structure)
        correction = None if self._dispersion is None else self._dispersion(structure)
        self._fill(prediction)
        if correction is not None:
            self._add(correction)

    def _fill(self, p: Prediction) -> None:
        self.results = {"energy": p.energy, "free_energy": p.energy, "energies": p.energies, "forces": p.forces}
        if p.stress is not None:
            self.results["stress"] = to_voigt(p.stress)

    def _add(self, correction: Correction) -> None:
        energy = self.results["energy"] + correction.energy
        self.results.update(energy=energy, free_energy=energy, forces=self.results["forces"] + correction.forces)
        del self.results["energies"]  # dispersion has none of single atoms
        if correction.stress is not None:
            self.results["stress"] = self.results["stress"] + to_voigt(correction.stress)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what has changed since the last calculation, `atoms.info` included where models read it."""
        changes: list[str] = super().check_state(atoms, tol=tol)
        if self.atoms is not None:
            changes += [k for k in INFO_KEYS if not equal(self.atoms.info.get(k), atoms.info.get(k))]
        return changes

    @property
    def refuse_contacts(self) -> bool:
        """Whether atoms closer than real ones come raise `CloseContactError`; set by what moves atoms unwatched."""
        return self._evaluator.refuse_contacts

    @refuse_contacts.setter
    def refuse_contacts(self, refuse: bool) -> None:
        self._evaluator.refuse_contacts = refuse

    def set(self, **options: Any) -> dict[str, Any]:
        """Refuse options: they are fixed when the calculator is made.

        Raises:
            OptionError: any option.
        """
        if options:
            raise OptionError(f"{', '.join(options)}: an option cannot change; make a new calculator: {self.how}")
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_evaluator": copy.copy(self._evaluator)}

    def _refuse(self, unknown: dict[str, NoReturn]) -> None:
        """Raise `OptionError` for options that do not exist."""
        if unknown:
            hints = [f"{name} (did you mean {close[0]}?)" if close else name for name in unknown
                     for close in [difflib.get_close_matches(name, self.options, n=1, cutoff=0.5)]]
            raise OptionError(f"{type(self).__name__} has no option {', '.join(hints)}; use {self.how}")
