"""`Potential`: a model with its provenance, ready to predict."""

from __future__ import annotations

import copy
import dataclasses
import threading
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
import torch
from numpy.typing import NDArray

from mlip.checkpoints import format as file_format
from mlip.checkpoints.agreement import check_agreement, piece_of, tabulation_error
from mlip.checkpoints.info import ModelInfo
from mlip.checkpoints.options import Radial, as_device, as_dtype, as_radial, as_rotational_average
from mlip.elements import SYMBOLS
from mlip.errors import DefaultedWarning, NonConservativeWarning, NonFiniteError, StructureError
from mlip.graph import AtomGraph, Structure, build_graph, check_elements, check_state, naming
from mlip.models.averaged import Averaged, averaged
from mlip.models.base import EnergyModel
from mlip.neighbors import NeighborList
from mlip.nn.adapters import merged
from mlip.nn.derivatives import BatchPrediction, evaluate
from mlip.ops import Backend, check_backend, use_compiled

if TYPE_CHECKING:
    from ase import Atoms

_CHECKING = threading.RLock()


@dataclass(frozen=True)
class Prediction:
    """What a potential says of one structure.

    Attributes:
        energy: total energy, eV.
        energies: [N] float64, eV, energy of each atom; they sum to `energy`.
        forces: [N, 3] float64, eV/A; None if not asked for.
        stress: [3, 3] float64, eV/A^3, positive under tension; None if not asked for or where the
            structure has no volume (molecules).
    """

    energy: float
    energies: NDArray[np.float64]
    forces: NDArray[np.float64] | None
    stress: NDArray[np.float64] | None


class Potential:
    """A model, its provenance and the file it came from. Its weights must not change; `to` returns a new one.

    Attributes:
        radial_error: of tabulated radial functions, eV/atom, measured on the first structure that was evaluated; None
            before, and for exact ones.
    """

    def __init__(self, model: EnergyModel, info: ModelInfo, path: Path | None = None,
                 identity: str | None = None, *, exact: EnergyModel | None = None) -> None:
        """Take over a model; it is frozen and set to evaluation.

        Args:
            model: weights; belongs to the potential from now on.
            info: provenance; its sha256 is not used.
            path: file the model can be loaded from again.
            identity: sha256 of what the model was read from; by default that of its content.
            exact: the model with exact radial functions and not averaged, where those of `model` are tabulated.
        """
        self.model = model.eval().requires_grad_(False)
        self._single = model.model if isinstance(model, Averaged) else model  # as it is without the average
        self._exact = self._single if exact is None else exact
        self._agrees = False  # whether `check_backend` was done
        self._told_defaults = False  # whether `check` said which charge and spin it assumes
        self.radial_error: float | None = None
        self._info = info
        self._identity = identity
        self.path = path

    def __repr__(self) -> str:
        return (f"Potential({self._info.name or self._info.family!r}, elements={''.join(self.elements[:12])}, "
                f"cutoff={self.cutoff:g} A, {str(self.dtype).removeprefix('torch.')}, {self.device}, "
                f"backend={self.backend!r}, radial={self.radial!r}, rotational_average={self.rotational_average!r})")

    @cached_property
    def info(self) -> ModelInfo:
        """Family, licence, citation, training data, units and sha256 of the model."""
        identity = self._identity or file_format.content_hash(*self._content())
        return dataclasses.replace(self._info, sha256=identity)

    @property
    def elements(self) -> tuple[str, ...]:
        """Chemical symbols the model knows."""
        return tuple(SYMBOLS[z] for z in self.model.config.atomic_numbers)

    @property
    def cutoff(self) -> float:
        """Cutoff radius of the neighbour list, A."""
        return self.model.config.cutoff

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the output heads; choose with `atoms.info["head"]` where there are several."""
        return self.model.config.heads

    @property
    def dtype(self) -> torch.dtype:
        """Working precision."""
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        """Device the model runs on."""
        return self.model.device

    @property
    def backend(self) -> Backend:
        """Back end as it was chosen; `mlip.backends()` tells what `auto` is here."""
        return self.model.backend

    @property
    def radial(self) -> Radial:
        """Whether the radial functions are exact or tabulated."""
        return "exact" if self._exact is self._single else "tabulated"

    @property
    def rotational_average(self) -> str:
        """Group of rotations that predictions are averaged over, or `"none"`."""
        return self.model.group if isinstance(self.model, Averaged) else "none"

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | str | None = None,
           backend: str | None = None, radial: str | None = None, rotational_average: str | None = None) -> Potential:
        """Return the potential with other settings; itself if nothing changes. None keeps a setting.

        Args:
            device: `"cpu"`, `"cuda"` or `"cuda:<index>"`.
            dtype: `"float32"` or `"float64"`.
            backend: `"compiled"` (the kernels for CPUs), `"reference"` (plain torch) or `"auto"`.
            radial: `"exact"`, or `"tabulated"`: radial networks are read from tables, for long runs. The error is
                measured when a table is made and stays far below 1e-6 eV/atom; forces are the exact gradient of the
                tabulated energy.
            rotational_average: `"T"`, `"O"`, `"Oh"`, `"I"` or `"Ih"`: the energy is the mean over all copies of the
                structure turned by a group of 12, 24, 48, 60 or 120 operations, at as many times the cost; forces and
                stress are its derivatives. For models that only learned what rotations do. `"none"` switches it off.

        Raises:
            OptionError: unusable options.
            BackendError: the compiled kernels were asked for and are not installed.
        """
        settings = (as_device(device, self.device), as_dtype(dtype, self.dtype),
                    self.backend if backend is None else check_backend(backend), as_radial(radial, self.radial),
                    as_rotational_average(rotational_average, self.rotational_average))
        if settings == (self.device, self.dtype, self.backend, self.radial, self.rotational_average):
            return self
        with torch.inference_mode(False):  # weights made in a caller's inference mode could not be differentiated
            return self._with(*settings)

    def _with(self, device: torch.device, dtype: torch.dtype, backend: Backend, radial: Radial,
              group: str) -> Potential:
        exact = copy.copy(self._exact)
        if (device, dtype) != (self.device, self.dtype):
            exact = copy.deepcopy(exact).to(device=device, dtype=dtype)
        model = exact if radial == "exact" else exact.tabulated()
        for each in (exact, model):
            each.set_backend(backend)
        if group != "none":
            model = averaged(model, group)
        twin = Potential(model, self._info, self.path, self.info.sha256, exact=exact)
        twin._told_defaults = self._told_defaults
        if model is exact:  # what is to be trained stays so
            for old, new in zip(self._exact.parameters(), exact.parameters(), strict=True):
                new.requires_grad_(old.requires_grad)
        return twin

    def warn_of_forces(self) -> None:
        """Warn the caller's caller of forces that are the derivative of no energy, with `NonConservativeWarning`."""
        if not self.model.conservative:
            warnings.warn("the model predicts forces that are the derivative of no energy: dynamics with it do not "
                          "conserve energy and heat up without a thermostat, and relaxations may not end; take a "
                          "conservative model for them", NonConservativeWarning, stacklevel=3)

    def graph(self, structures: Sequence[Structure],
              edges: Sequence[NeighborList] | None = None) -> AtomGraph:
        """Return the batch graph of structures for this model, after `check`."""
        self.check(structures)
        return build_graph(structures, self.cutoff, heads=self.heads, device=self.device, edges=edges)

    def check(self, structures: Sequence[Structure]) -> None:
        """Check that the model was made for structures like these.

        Raises:
            UnknownElementError: elements the model does not know.
            StructureError: a structure that the model cannot take, or a charge or spin that it does not know, or none
                where it knows the default not.

        Warns:
            DefaultedWarning: a charge or spin that the model reads is not given; once for a potential.
        """
        config = self.model.config
        assumed: dict[str, None] = {}
        for i, structure in enumerate(structures):
            with naming(i if len(structures) > 1 else None):
                check_elements(structure.numbers, config.atomic_numbers)
                config.check_structure(structure)
                assumed |= dict.fromkeys(check_state(structure, config.known_charges, config.known_spins))
        if assumed and not self._told_defaults:
            warnings.warn(f"no {' and no '.join(assumed)} was given, but the model reads it; charge 0 and multiplicity "
                          "1 are assumed. Set atoms.info['charge'] and atoms.info['spin'] (2S+1), or the arguments "
                          "charge and spin of OpenMM forces and Systems", DefaultedWarning, stacklevel=2)
            self._told_defaults = True

    def evaluate(self, structures: Sequence[Structure], *, forces: bool = True, stress: bool = True,
                 edges: Sequence[NeighborList] | None = None) -> list[Prediction]:
        """Predict for structures in one batch.

        Args:
            structures: any number; an empty list gives an empty list.
            forces: whether to compute forces.
            stress: whether to compute the stress of the structures that have a volume.
            edges: neighbour lists already known.

        Raises:
            UnknownElementError, StructureError: bad input.
            NonFiniteError: the model returned NaN or infinity; names the atoms.
            BackendError: compiled kernels and plain torch differ on the first structure.
        """
        return split(self.evaluate_batch(structures, forces=forces, stress=stress, edges=edges), structures)

    def evaluate_batch(self, structures: Sequence[Structure], *, forces: bool = True, stress: bool = True,
                       edges: Sequence[NeighborList] | None = None,
                       positions: torch.Tensor | None = None) -> BatchPrediction:
        """Predict as `evaluate` does, but leave the numbers on the device, unchecked.

        Args:
            structures: see `evaluate`, as for those that follow.
            forces: whether to compute forces.
            stress: whether to compute the stress.
            edges: neighbour lists already known.
            positions: [N, 3] float64, A, on the device of the model: the positions of the structures, where they are
                there already.
        """
        stress = stress and any(s.volume is not None for s in structures)
        graph = self.graph(structures, edges)
        if positions is not None:
            graph = graph.replace(positions=positions)
        if structures:
            self.check_backend(structures[0], graph)
        return evaluate(self.model, graph, forces=forces, stress=stress)

    def check_backend(self, structure: Structure, graph: AtomGraph) -> None:
        """Compare the compiled kernels with plain torch, and tabulated with exact radial functions.

        Done once, at the first structure that has edges; without them nearly nothing would be compared. An average over
        rotations is left out: it is the same for all back ends.

        Args:
            structure: a piece of it is evaluated.
            graph: of this structure, or a batch that begins with it.

        Raises:
            BackendError: the numbers differ.
        """
        if self._agrees:
            return
        with _CHECKING:  # plain torch is the model's back end for a while
            if self._agrees:
                return
            compiled = use_compiled(self.backend, self._single.atomic_energies)
            if compiled or self.radial == "tabulated":
                piece = piece_of(structure, graph, self._single)
                if compiled:
                    check_agreement(self._single, piece)
                if self.radial == "tabulated":
                    self.radial_error = tabulation_error(self._exact, piece)
                if not piece.edge_index.shape[1]:
                    return
            self._agrees = True

    @overload
    def predict(self, atoms: Atoms, *, forces: bool = True, stress: bool = True) -> Prediction: ...
    @overload  # the next line matches only where ASE has types
    def predict(  # type: ignore[overload-cannot-match]
            self, atoms: Sequence[Atoms], *, forces: bool = True, stress: bool = True) -> list[Prediction]: ...
    def predict(self, atoms: Atoms | Sequence[Atoms], *, forces: bool = True,
                stress: bool = True) -> Prediction | list[Prediction]:
        """Predict energy, forces and stress of ASE atoms.

        Args:
            atoms: one `ase.Atoms`, or a sequence that is evaluated as one batch. `atoms.info` may hold
                `charge`, `spin` (2S+1) and `head`.
            forces: whether to compute forces.
            stress: whether to compute the stress of periodic structures.

        Returns:
            One `Prediction`, or a list of them.

        Raises:
            UnknownElementError, StructureError: bad input.
            NonFiniteError: the model returned NaN or infinity; names the atoms.
        """
        from mlip.io.ase import structure_of

        single = hasattr(atoms, "get_positions")
        if not single and not isinstance(atoms, Iterable):
            raise StructureError(f"expected ase.Atoms or a sequence of them, got {type(atoms).__name__}")
        listed = [atoms] if single else list(atoms)
        results = self.evaluate([structure_of(a) for a in listed], forces=forces, stress=stress)
        return results[0] if single else results

    def save(self, path: str | Path) -> Path:
        """Write the potential to one file (`.mlip`, safetensors with a JSON header) and return its path.

        The file holds the model itself: tables and averages over rotations are chosen again when it is loaded, and
        low-rank adapters are folded into the weights.
        """
        header, tensors = self._content()
        target = Path(path).expanduser()
        identity = file_format.write(target, header, tensors)
        if self.path is None:  # from now on it can be found again; a loaded one keeps its first file
            self.path = target.resolve()
            self._identity = identity
            self.__dict__.pop("info", None)
        return target

    def _content(self) -> tuple[dict[str, object], dict[str, torch.Tensor]]:
        info = {k: v for k, v in self._info.to_dict().items() if k != "sha256"}
        model = self._exact
        energies = model.atomic_energies.tolist()
        header: dict[str, object] = {
            "config": model.config.to_dict(), "info": info,
            "summary": {"elements": list(self.elements), "precision": str(self.dtype).removeprefix("torch."),
                        "isolated_energies": {head: dict(zip(self.elements, row, strict=True))
                                              for head, row in zip(self.heads, energies, strict=True)}}}
        return header, {k: v.detach().cpu() for k, v in merged(model).state_dict().items()}


def split(result: BatchPrediction, structures: Sequence[Structure]) -> list[Prediction]:
    """Cut a batch into predictions.

    Raises:
        NonFiniteError: numbers that are none; names the atoms.
    """
    bounds = np.cumsum([len(s) for s in structures])[:-1]
    energies = np.split(result.energies.cpu().numpy(), bounds)
    forces = None if result.forces is None else np.split(result.forces.cpu().numpy(), bounds)
    stress = None if result.stress is None else result.stress.cpu().numpy()
    out = []
    for b, structure in enumerate(structures):
        prediction = Prediction(float(energies[b].sum()), energies[b], None if forces is None else forces[b],
                                None if stress is None or structure.volume is None else stress[b])
        _check_finite(prediction, b if len(structures) > 1 else None)
        out.append(prediction)
    return out


def _check_finite(p: Prediction, index: int | None) -> None:
    bad = ~np.isfinite(p.energies)
    if p.forces is not None:
        bad |= ~np.isfinite(p.forces).all(axis=1)
    where = "" if index is None else f" of structure {index}"
    if bad.any():
        atoms = np.flatnonzero(bad)
        raise NonFiniteError(f"the model returned NaN or infinity for {len(atoms)} atom(s){where}, first "
                             f"{atoms[:10].tolist()}; look for atoms far too close to each other", atoms.tolist())
    if p.stress is not None and not np.isfinite(p.stress).all():
        raise NonFiniteError(f"the model returned a stress{where} that is NaN or infinite")
