"""`TorchSimModel`: a potential as a model of torch-sim, which moves many systems at once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlip.checkpoints import Potential, load
from mlip.checkpoints.evaluator import BatchEvaluator
from mlip.errors import MissingDependencyError, OptionError
from mlip.graph import Structure, naming

try:
    from torch_sim.models.interface import ModelInterface
except ImportError:
    raise MissingDependencyError.of("torch-sim-atomistic", "batch") from None

if TYPE_CHECKING:
    from torch_sim.state import SimState


class TorchSimModel(ModelInterface):  # type: ignore[misc]
    """A model for `torch_sim.static`, `optimize`, `integrate` and their automatic batches.

    All systems of a state are one batch of the potential; each has a neighbour list with a skin, made by this package.
    Results are detached. Systems without volume have a stress of NaN, as torch-sim writes it where there is none;
    switch `compute_stress` off for molecules. States may hold the extras `charge` (or `total_charge`, e) and `spin` (or
    `total_spin`, 2S+1) of each system.

    Example:
        >>> torch_sim.optimize(system=atoms, model=TorchSimModel("mace-acac"), optimizer="fire")  # doctest: +SKIP

    Attributes:
        potential: the potential in use.
        dtype: float64, of the states torch-sim makes; the model works in the precision of the potential.
        device: of the model and of the states.
        compute_forces: may be changed.
        compute_stress: may be changed.
        memory_scales_with: `n_atoms_x_density`: the work goes with the neighbours within the cutoff.
    """

    def __init__(self, model: Potential | str | os.PathLike[str], device: torch.device | str | None = None,
                 dtype: torch.dtype | str | None = None, *, skin: float = 1.0, head: str | None = None,
                 compute_forces: bool = True, compute_stress: bool = True) -> None:
        """Load the model.

        Args:
            model: a potential, or the name or path of one.
            device: `"cpu"`, `"cuda"` or `"cuda:<index>"`; None keeps that of the potential.
            dtype: `"float32"` or `"float64"`, precision of the model; None keeps that of the potential.
            skin: A, at least 0, of the neighbour lists; 0 makes new ones at every call.
            head: name of the head, for models with several.
            compute_forces: whether to return forces.
            compute_stress: whether to return stresses.

        Raises:
            OptionError: an option outside its allowed values.
            ModelNotFoundError, ModelFileError: no such model, or a file that is damaged.
        """
        super().__init__()
        if not isinstance(model, str | os.PathLike | Potential):
            raise OptionError(f"model={model!r} is a {type(model).__name__}; give a name, the path of a file, or an "
                              "mlip.Potential")
        potential = (model if isinstance(model, Potential) else load(os.fspath(model))).to(device=device, dtype=dtype)
        potential.warn_of_forces()
        self._evaluate = BatchEvaluator(potential, skin)
        self._head = head
        self._device, self._dtype = potential.device, torch.float64
        self._compute_forces, self._compute_stress = bool(compute_forces), bool(compute_stress)

    @property
    def potential(self) -> Potential:
        """The `mlip.Potential` in use."""
        return self._evaluate.potential

    @ModelInterface.compute_forces.setter  # type: ignore[untyped-decorator]
    def compute_forces(self, value: bool) -> None:
        """Whether forces are returned."""
        self._compute_forces = bool(value)

    @ModelInterface.compute_stress.setter  # type: ignore[untyped-decorator]
    def compute_stress(self, value: bool) -> None:
        """Whether stresses are returned."""
        self._compute_stress = bool(value)

    def forward(self, state: SimState, **unused: Any) -> dict[str, Tensor]:
        """Return energies, forces and stresses of all systems of a state.

        Args:
            state: of torch-sim; its cells hold lattice vectors in columns. It is not changed.
            unused: what torch-sim passes to other models.

        Returns:
            `energy` [n_systems] eV, `forces` [n_atoms, 3] eV/A, `stress` [n_systems, 3, 3] eV/A^3 (positive under
            tension), in the precision and on the device of the state.

        Raises:
            UnknownElementError, StructureError: bad input; names the system of the state.
            NonFiniteError: the model returned NaN or infinity; names the atoms.
        """
        structures = self._structures(state)
        found = self._evaluate(structures, forces=self._compute_forces, stress=self._compute_stress)

        out = {"energy": np.array([p.energy for p in found])}
        if self._compute_forces:
            out["forces"] = np.concatenate([p.forces for p in found if p.forces is not None])
        if self._compute_stress:
            out["stress"] = np.stack([np.full((3, 3), np.nan) if p.stress is None else p.stress for p in found])
        return {name: torch.from_numpy(values).to(state.positions) for name, values in out.items()}

    def _structures(self, state: SimState) -> list[Structure]:
        sizes = torch.bincount(state.system_idx, minlength=len(state.cell)).cpu().numpy()
        bounds = np.cumsum(sizes)[:-1]
        numbers = np.split(_array(state.atomic_numbers), bounds)
        positions = np.split(_array(state.positions), bounds)
        cells, pbc = _array(state.cell).transpose(0, 2, 1), _array(state.pbc).astype(bool)
        charges, spins = (_extra(state, names) for names in (("charge", "total_charge"), ("spin", "total_spin")))
        structures = []
        for i, cell in enumerate(cells):
            with naming(i if len(cells) > 1 else None):
                structures.append(Structure.create(
                    numbers[i], positions[i], cell, pbc, head=self._head,
                    charge=None if charges is None else charges[i], spin=None if spins is None else spins[i]))
        return structures


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().numpy()


def _extra(state: SimState, names: tuple[str, ...]) -> NDArray[Any] | None:
    """Return a number for each system, by the first of the names that the state has."""
    found = next((value for name in names if (value := getattr(state, name, None)) is not None), None)
    return None if found is None else _array(found).reshape(-1)
