"""`MLIPCalculator`: a potential behind the calculator interface of ASE."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar, NoReturn

import torch
from ase.calculators.calculator import Parameters

from mlip.calculators.base import ModelCalculator
from mlip.checkpoints import Potential, load
from mlip.checkpoints.dispersion import Dispersion, refuse_contained
from mlip.checkpoints.evaluator import Evaluator
from mlip.errors import OptionError

if TYPE_CHECKING:
    from mlip.checkpoints.info import ModelInfo


class MLIPCalculator(ModelCalculator):
    """ASE calculator of one model; see `ModelCalculator` for its results and what it reads.

    Example:
        >>> atoms.calc = MLIPCalculator("model.mlip")  # doctest: +SKIP
        >>> atoms.get_potential_energy()  # doctest: +SKIP

    Attributes:
        parameters: JSON-compatible provenance that ASE stores in trajectories and databases: name, family and
            sha256 of the model, device, dtype, skin, backend, radial, rotational_average, and dispersion where there
            is any.
    """

    name = "mlip"
    options: ClassVar[tuple[str, ...]] = ("model", "device", "dtype", "skin", "backend", "radial", "rotational_average",
                                          "dispersion")
    how: ClassVar[str] = (
        "MLIPCalculator(model, device=None, dtype=None, skin=1.0, backend=None, radial=None, rotational_average=None, "
        "dispersion=None), where model is a name, the path of a file, or an mlip.Potential")

    _evaluator: Evaluator

    def __init__(self, model: str | os.PathLike[str] | Potential | None = None,
                 device: torch.device | str | None = None, dtype: torch.dtype | str | None = None,
                 skin: float = 1.0, backend: str | None = None, radial: str | None = None,
                 rotational_average: str | None = None, dispersion: str | None = None, **unknown: NoReturn) -> None:
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
            dispersion: D3 to be added, such as `"d3bj:pbe"`, see `Dispersion`; `energies` are then not among the
                results. None for none. For the functional of the training data, if that knows no dispersion.
            unknown: nothing; takes up misspelt options so that they get a helpful error.

        Raises:
            OptionError: an option outside its allowed values, or one that does not exist; dispersion for a model whose
                training data contain it.
            MissingDependencyError: dispersion, and s-dftd3 is not installed.
            ModelNotFoundError, ModelFileError: no such model, or a file that is damaged.
        """
        self._refuse(unknown)
        if model is None:
            raise OptionError(f"no model was given; use {self.how}")
        if not isinstance(model, str | os.PathLike | Potential):
            raise OptionError(f"model={model!r} is a {type(model).__name__}; use {self.how}")
        source = model if isinstance(model, Potential) else load(os.fspath(model))
        potential = source.to(device=device, dtype=dtype, backend=backend, radial=radial,
                              rotational_average=rotational_average)
        potential.warn_of_forces()
        self._evaluator = Evaluator(potential, skin)
        self._dispersion = None if dispersion is None else Dispersion(dispersion)
        super().__init__()
        info = source.info
        self.parameters = Parameters(
            model=info.name or info.family, family=info.family, sha256=info.sha256, skin=float(skin),
            device=str(potential.device), dtype=str(potential.dtype).removeprefix("torch."),
            backend=potential.backend, radial=potential.radial, rotational_average=potential.rotational_average)
        if self._dispersion is not None:
            refuse_contained(info)
            self.parameters["dispersion"] = self._dispersion.method

    @property
    def potential(self) -> Potential:
        """The `mlip.Potential` in use."""
        return self._evaluator.potential

    @property
    def info(self) -> ModelInfo:
        """Family, licence, citation, training data and sha256 of the model."""
        return self.potential.info
