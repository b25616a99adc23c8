"""`CommitteeCalculator`: several models behind the calculator interface of ASE, with their spread."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

import torch
from ase import Atoms
from ase.calculators.calculator import Parameters

from mlip.calculators.base import ModelCalculator
from mlip.checkpoints import Committee, CommitteePrediction, Potential, Prediction
from mlip.checkpoints.dispersion import Dispersion, refuse_contained
from mlip.checkpoints.evaluator import CommitteeEvaluator
from mlip.errors import OptionError

_PROVENANCE: dict[str, Any] = {
    "models": lambda p: p.info.name or p.info.family, "families": lambda p: p.info.family,
    "sha256": lambda p: p.info.sha256, "device": lambda p: str(p.device),
    "dtype": lambda p: str(p.dtype).removeprefix("torch."), "backend": lambda p: p.backend,
    "radial": lambda p: p.radial, "rotational_average": lambda p: p.rotational_average}


class CommitteeCalculator(ModelCalculator):
    """ASE calculator of the means over the members of a committee; see `ModelCalculator` for its results.

    The spreads, and what each member says, are not among the results, where ASE allows only the quantities it knows:
    `predict(atoms)` returns them, without another evaluation.

    Example:
        >>> atoms.calc = CommitteeCalculator(["seed-1.mlip", "seed-2.mlip", "seed-3.mlip"])  # doctest: +SKIP
        >>> atoms.get_forces()  # doctest: +SKIP
        >>> atoms.calc.predict(atoms).forces_std  # doctest: +SKIP

    Attributes:
        parameters: JSON-compatible provenance that ASE stores in trajectories and databases: names, families and
            sha256 of the members, and their settings.
    """

    name = "mlip-committee"
    options: ClassVar[tuple[str, ...]] = ("models", "device", "dtype", "skin", "backend", "radial",
                                          "rotational_average", "dispersion")
    how: ClassVar[str] = (
        "CommitteeCalculator(models, device=None, dtype=None, skin=1.0, backend=None, radial=None, "
        "rotational_average=None, dispersion=None), where models is a list of names, paths and potentials, or an "
        "mlip.Committee")

    _evaluator: CommitteeEvaluator
    _prediction: CommitteePrediction

    def __init__(self, models: Sequence[str | os.PathLike[str] | Potential] | Committee | None = None,
                 device: torch.device | str | None = None, dtype: torch.dtype | str | None = None,
                 skin: float = 1.0, backend: str | None = None, radial: str | None = None,
                 rotational_average: str | None = None, dispersion: str | None = None,
                 **unknown: NoReturn) -> None:
        """Load the models.

        Args:
            models: at least two names, paths of files or potentials, no two the same, or a committee; required.
            device: of all members, see `MLIPCalculator`; None keeps that of each, as for all that follow.
            dtype: `"float32"` or `"float64"`.
            skin: A, at least 0, of the neighbour lists; members of one cutoff share a list.
            backend: `"auto"`, `"compiled"` or `"reference"`.
            radial: `"exact"` or `"tabulated"`.
            rotational_average: a group of rotations, or `"none"`.
            dispersion: D3 to be added to the mean, see `MLIPCalculator`; `predict` tells the models alone.
            unknown: nothing; takes up misspelt options so that they get a helpful error.

        Raises:
            OptionError: an option outside its allowed values, or one that does not exist; models that make no
                committee; dispersion for a model whose training data contain it.
            MissingDependencyError: dispersion, and s-dftd3 is not installed.
            ModelNotFoundError, ModelFileError: no such model, or a file that is damaged.
        """
        self._refuse(unknown)
        if models is None:
            raise OptionError(f"no models were given; use {self.how}")
        committee = Committee(models.members if isinstance(models, Committee) else models, device, dtype, backend,
                              radial, rotational_average)
        for potential in committee.members:
            potential.warn_of_forces()
        self._evaluator = CommitteeEvaluator(committee, skin)
        self._dispersion = None if dispersion is None else Dispersion(dispersion)
        super().__init__()
        self.parameters = Parameters(skin=float(skin), **{
            key: [value(p) for p in committee.members] for key, value in _PROVENANCE.items()})
        if self._dispersion is not None:
            for potential in committee.members:
                refuse_contained(potential.info)
            self.parameters["dispersion"] = self._dispersion.method

    @property
    def committee(self) -> Committee:
        """The committee in use."""
        return self._evaluator.committee

    def predict(self, atoms: Atoms) -> CommitteePrediction:
        """Return means, spreads and what each member says; evaluates only atoms that have changed.

        Raises:
            UnknownElementError, StructureError: bad input.
            NonFiniteError: a member returned NaN or infinity.
        """
        self.get_property("energy", atoms)
        return self._prediction

    def _fill(self, p: Prediction) -> None:
        assert isinstance(p, CommitteePrediction)
        self._prediction = p
        super()._fill(p)
