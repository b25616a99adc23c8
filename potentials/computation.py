"""`Computation`: what OpenMM calls at every step, small enough to be serialised."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import astuple, replace
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from mlip.checkpoints import Potential
from mlip.checkpoints.evaluator import Evaluator
from mlip.errors import CloseContactError, MLIPError, ModelFileError, NonFiniteError, OptionError, TopologyError
from mlip.graph import Structure
from mlip.potentials.registry import ModelReference, find, resolve
from mlip.potentials.repeats import Repeats
from mlip.potentials.settings import Settings
from mlip.units import KJ_PER_MOL_NM_PER_EV_A, KJ_PER_MOL_PER_EV, NM_PER_ANGSTROM

MOST_REFUSED = 8  # contacts that a minimiser is led to before it is told
Packed = tuple[tuple[Any, ...], tuple[Any, ...]]
Reduced = tuple[Any, Packed]


class Computation:
    """The function of an `openmm.PythonForce`: State -> energy and forces.

    It serialises as a reference to its model, never as weights. It may be called from several threads
    and by several Contexts; the calls follow one another, and a jump of the positions from one Context
    to the next only costs a new neighbour list. (OpenMM 8.6 never frees the computation of a force that
    was deserialised or deep-copied; its neighbour list and its share in the model stay in memory.)
    """

    def __init__(self, reference: ModelReference, settings: Settings,
                 potential: Potential | None = None) -> None:
        """Check everything that can be checked before the first step.

        Args:
            reference: where the model is found again.
            settings: how to evaluate it.
            potential: the model; None to look for it at the first call.

        Raises:
            UnknownElementError: elements the model does not know.
            OptionError, StructureError: bad head, skin, charge or spin.
        """
        self.reference = reference
        self.settings = settings
        self._lock = threading.Lock()
        self.evaluator: Evaluator | None = None
        self._step: int | None = -1  # that was taken before the last call; None where nobody tells
        self._lowest = math.inf  # eV, energy since then
        self._refused = 0  # contacts with the lowest energy since then
        self._repeats = Repeats[tuple[float, torch.Tensor]]()
        if potential is not None:
            self._prepare(potential)

    @property
    def packed(self) -> Packed:
        """What it takes to make it again, `restore(*packed)`: small built-in values."""
        return astuple(self.reference), self.settings.pack()

    def __reduce__(self) -> Reduced:
        return restore, self.packed

    def __call__(self, state: Any) -> tuple[float, NDArray[np.float64]]:
        """Return the energy in kJ/mol and the forces, [N, 3] in kJ/mol/nm, at the positions of a State.

        Args:
            state: the `openmm.State` of the particles of the force.

        Raises:
            NonFiniteError, TopologyError, ModelFileError, ModelNotFoundError, StructureError: see `evaluate`.
        """
        positions = _nanometers(state.getPositions(asNumpy=True)) / NM_PER_ANGSTROM
        energy, forces = self._evaluate(positions, self._box(state), step=state.getStepCount())
        return energy * KJ_PER_MOL_PER_EV, forces.cpu().numpy() * KJ_PER_MOL_NM_PER_EV_A

    def evaluate(self, positions: torch.Tensor, box: NDArray[np.float64] | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the energy in kJ/mol, a scalar, and the forces in kJ/mol/nm, both float64 and detached.

        Args:
            positions: [N, 3], nm, of any precision and on any device; copied, since OpenMM hands over its own memory.
            box: [3, 3], nm, rows are box vectors; read where the force is periodic.

        Returns:
            Tensors on the device of the positions; the forces [N, 3] are contiguous.

        Raises:
            NonFiniteError: positions or results are NaN or infinite; names the particles of the System.
            TopologyError: the System has another number of particles.
            ModelFileError, ModelNotFoundError: the model of a copied force cannot be found again.
            CloseContactError: atoms closer than real ones come, at the first call or after a step. Where no step was
                taken, a minimiser may be trying: an energy that is the lowest since is made infinite, so that it takes
                that back as it does the others; at the ninth time it is an error.
            StructureError: a collapsed box.
        """
        r = positions.detach().to(torch.float64) / NM_PER_ANGSTROM
        energy, forces = self._evaluate(r.cpu().numpy(), box, r)
        forces = (forces * KJ_PER_MOL_NM_PER_EV_A).to(positions.device).contiguous()
        return forces.new_tensor(energy * KJ_PER_MOL_PER_EV), forces

    def _evaluate(self, positions: NDArray[np.float64], box: NDArray[np.float64] | None,
                  there: torch.Tensor | None = None, step: int | None = None) -> tuple[float, torch.Tensor]:
        """Return the energy, eV, and the forces, [N, 3] in eV/A, on the device of the model.

        Args:
            positions: [N, 3], A.
            box: [3, 3], nm.
            there: the positions as a tensor, where they may be on the device of the model already.
            step: steps that were taken, where that is known.
        """
        with self._lock:
            try:
                evaluator = self.evaluator or self._prepare(resolve(self.reference))
                self._check(positions)
                tried, self._step = self._step == step, step  # no step was taken: a minimiser may try anything
                evaluator.refuse_contacts = not tried
                cell = self._template.cell if box is None else box / NM_PER_ANGSTROM
                structure = replace(self._template, positions=positions, cell=cell)
                on_device = None if there is None else there.to(evaluator.potential.device)
                known = self._repeats.find(positions, cell)
                energy, forces = known or self._repeats.keep(positions, cell, evaluator.tensors(structure, on_device))
                self._refused = self._refused if tried else 0
                if energy < self._lowest if tried else known is not None:  # it would stay there, or nobody looked
                    energy = self._unless_in_contact(evaluator, structure, energy)
                self._lowest = min(energy, self._lowest) if tried else energy
                return energy - self._offset, forces
            except MLIPError as error:  # OpenMM keeps only the text
                error.args = (f"{type(error).__name__}: {error}{self._in_system(error)}",)
                raise

    def _unless_in_contact(self, evaluator: Evaluator, structure: Structure, energy: float) -> float:
        """Return the energy, or infinity where a minimiser tries atoms in contact and may still find a way around."""
        try:
            evaluator.check_contacts(structure)
        except CloseContactError:
            self._refused += 1
            if self._refused > MOST_REFUSED or evaluator.refuse_contacts or self._step is None:  # or nobody tells
                raise
            return math.inf
        return energy

    def _box(self, state: Any) -> NDArray[np.float64] | None:
        return _nanometers(state.getPeriodicBoxVectors(asNumpy=True)) if self.settings.periodic else None

    def _prepare(self, potential: Potential) -> Evaluator:
        s = self.settings
        heads = potential.heads
        if len(heads) > 1 if s.head is None else s.head not in heads:
            raise OptionError(f"head={s.head!r}: choose one of the heads of the model with head=...: "
                              f"{', '.join(heads)}")
        template = Structure.create(s.numbers, np.zeros((len(s.numbers), 3)), charge=s.charge, spin=s.spin,
                                    head=s.head)
        self._template = replace(template, pbc=np.full(3, s.periodic))
        potential.check([self._template])
        self._offset = _isolated_energy(potential, template) if s.energy == "interaction" else 0.0
        self.evaluator = Evaluator(potential, s.skin, refuse_contacts=True)
        self.settings = replace(s, skin=float(s.skin), charge=template.charge, spin=template.spin)
        return self.evaluator

    def _check(self, positions: NDArray[np.float64]) -> None:
        if positions.shape != (len(self.settings.numbers), 3):
            raise TopologyError(f"the System has {len(positions)} particles, but the force was made for "
                                f"{len(self.settings.numbers)} atoms; give atoms=[...] to act on some of "
                                "them")
        if math.isfinite(positions.sum()):  # one pass, at every step
            return
        bad = np.flatnonzero(~np.isfinite(positions).all(axis=1)).tolist()
        if bad:
            raise NonFiniteError(f"the positions of {len(bad)} atom(s), first {bad[:10]}, are NaN or "
                                 "infinite; minimise first, use a smaller time step, and look at the last "
                                 "frames before", bad)

    def _in_system(self, error: MLIPError) -> str:
        """Return what to add to a text that counts atoms within a subset of the System."""
        particles = self.settings.particles
        if particles is None or self.evaluator is None:
            return ""
        if isinstance(error, NonFiniteError | CloseContactError):
            error.atoms = tuple(particles[list(error.atoms)].tolist())
            return f"; as particles of the System: {list(error.atoms[:10])}"
        return "; atoms are counted within the subset of the force"


class TorchComputation(Computation):
    """The function of an `openmmtorch.PythonTorchForce`: State and tensor of positions -> tensors.

    Positions and forces stay on the device of the engine, where that is the device of the model; the neighbour list is
    made on the CPU.
    """

    def __reduce__(self) -> Reduced:
        return restore_torch, self.packed

    def __call__(self, state: Any, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        """Return the energy in kJ/mol and the forces, [N, 3] in kJ/mol/nm, as tensors; see `evaluate`.

        Args:
            state: the `openmm.State`, for the box.
            positions: [N, 3], nm.
        """
        return self.evaluate(positions, self._box(state))


class UnusableComputation:
    """Stands in for a computation that could not be restored; raises the reason when it is called."""

    def __init__(self, reason: str, again: Callable[..., Any], packed: tuple[Any, ...]) -> None:
        self.reason = reason
        self.again = again
        self.packed = packed

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.again, self.packed

    def __call__(self, *arguments: Any) -> NoReturn:
        """Raise `ModelFileError`."""
        raise ModelFileError(self.reason)

    evaluate = __call__


def restore(*packed: Any) -> Computation | UnusableComputation:
    """Return the computation of a serialised PythonForce; pickle calls it with `Computation.packed`.

    An exception raised here would crash OpenMM 8.6 (it uses the result of unpickling unchecked), so
    that the reason is kept and raised at the first evaluation. For that reason, and to make copying
    cheap, a model that is not in this process is loaded no sooner than at the first evaluation.
    """
    return _restored(Computation, restore, packed)


def restore_torch(*packed: Any) -> Computation | UnusableComputation:
    """Return the computation of a serialised PythonTorchForce, as `restore` does."""
    return _restored(TorchComputation, restore_torch, packed)


def _restored(kind: type[Computation], again: Callable[..., Any],
              packed: tuple[Any, ...]) -> Computation | UnusableComputation:
    try:
        reference, settings = packed
        found = ModelReference(*reference)
        return kind(found, Settings.unpack(settings), find(found))
    except Exception as error:
        reason = f"{type(error).__name__}: this force cannot be restored: {error}"
        return UnusableComputation(reason, again, packed)


def _nanometers(quantity: Any) -> NDArray[np.float64]:
    """Return the numbers of a quantity that a State gave: they are in nm, and `value_in_unit` would copy them."""
    values: NDArray[np.float64] = quantity._value
    return values


def _isolated_energy(potential: Potential, structure: Structure) -> float:
    """Return the sum of the energies of the isolated atoms, eV."""
    model = potential.model
    head = 0 if structure.head is None else potential.heads.index(structure.head)
    energies = model.atomic_energies[head].cpu()
    table = model.element_index(torch.from_numpy(structure.numbers).to(potential.device)).cpu()
    return float(energies[table].sum())
