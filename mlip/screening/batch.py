"""Many structures in one call of the model; each fails by itself, and has the numbers it would have alone."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms

from mlip.checkpoints import Potential, Prediction
from mlip.checkpoints.contacts import SIZES, check_contacts
from mlip.checkpoints.potential import split
from mlip.elements import SYMBOLS
from mlip.errors import MemoryLimitError, MLIPError, StructureError
from mlip.graph import Structure
from mlip.io.ase import require_atoms
from mlip.neighbors import NeighborList, VerletSkin
from mlip.nn.derivatives import BatchPrediction
from mlip.screening.filler import filler

SKIN = 1.0  # A
SIZES_OF_CALLS = (16_384, 8_192, 2_048)  # in the units of `load`; larger calls are no faster on a CPU
ATOM = 32  # edges that need as much memory as an atom


@dataclass
class System:
    """A structure that is evaluated again and again, with its neighbour list."""

    atoms: Atoms
    skin: VerletSkin
    structure: Structure | None = None
    edges: NeighborList | None = None

    @classmethod
    def of(cls, atoms: Atoms, potential: Potential) -> System:
        """Return a system that is as yet unchecked."""
        return cls(atoms, VerletSkin(potential.cutoff, SKIN))

    @property
    def load(self) -> int:
        """What it counts in a call, see `load_of`; 0 before it was prepared."""
        return 0 if self.edges is None else load_of(len(self.atoms), len(self.edges.senders))

    def prepare(self, potential: Potential) -> None:
        """Read the atoms as they are now.

        Raises:
            StructureError, UnknownElementError, CloseContactError: the model cannot or should not be asked.
        """
        self.structure = require_atoms(self.atoms)
        potential.check([self.structure])
        s = self.structure
        self.edges = self.skin.update(s.positions, s.cell, s.pbc)
        check_contacts(s, self.edges)


def load_of(atoms: int, edges: int) -> int:
    """Return what the memory of a call goes with."""
    return edges + ATOM * atoms


class BatchedModel:
    """Evaluates systems together, as many in a call as the memory allows.

    A system has the same bits in any company: before the first call this is tried on crystals made up for it, with the
    calls as large as they will be. Where it does not hold - models and devices whose arithmetic depends on the size of
    a tensor beyond what `filler` mends - each system has a call of its own.

    Attributes:
        potential: the model.
        most: largest load of a call that holds several systems; 0 where each has its own.
        limit: largest load of all, by the memory allowed; None for any.
    """

    def __init__(self, potential: Potential, most: int | None = None, limit: int | None = None) -> None:
        """Try how large calls may be.

        Args:
            potential: the model.
            most: what is known of this from before; None to try.
            limit: largest load, see `mlip.screening.memory`.
        """
        self.potential, self.limit = potential, limit
        self.most = 0 if most is None else most
        if most is None:
            sizes = [size for size in SIZES_OF_CALLS if limit is None or size <= limit]
            with contextlib.suppress(StructureError):  # a model that takes no crystals
                self.most = next((size for size in sizes if self._independent(size)), 0)

    def __call__(self, systems: Sequence[System]) -> list[Prediction | Exception]:
        """Return a prediction, or the reason why there is none, for each system as its atoms are now."""
        out: list[Prediction | Exception | None] = [None] * len(systems)
        for i, system in enumerate(systems):
            try:
                system.prepare(self.potential)
                self._check_size(system)
            except MLIPError as error:
                out[i] = error
        good = [i for i, found in enumerate(out) if found is None]
        for call in self._calls([systems[i] for i in good]):
            for found in self._evaluate(call):
                out[good.pop(0)] = found
        return [found for found in out if found is not None]

    def _check_size(self, system: System) -> None:
        load = system.load
        if self.limit is not None and load > self.limit:
            raise MemoryLimitError(f"{len(system.atoms)} atoms with {load} edges and atoms, counted as {ATOM} each, "
                                   f"are more than the {self.limit} that the memory allows; raise the memory")

    def _calls(self, systems: Sequence[System]) -> Iterator[list[System]]:
        """Cut systems into calls, in their order; one that is too large for company has a call of its own."""
        call: list[System] = []
        load = 0
        for system in systems:
            if call and load + system.load > self.most:
                yield call
                call, load = [], 0
            call.append(system)
            load += system.load
        if call:
            yield call

    def _evaluate(self, systems: Sequence[System]) -> list[Prediction | Exception]:
        try:
            return self._together(systems)
        except Exception as error:  # whatever one of them causes must not reach the others
            if len(systems) == 1:
                return [error]
            return [found for system in systems for found in self._evaluate([system])]

    def _together(self, systems: Sequence[System]) -> list[Prediction | Exception]:
        structures = [s.structure for s in systems if s.structure is not None]
        edges = [s.edges for s in systems if s.edges is not None]
        beside, links = filler(structures, edges, self.potential.cutoff)
        batch = self.potential.evaluate_batch([*structures, beside], edges=[*edges, links])
        ends = np.cumsum([len(s) for s in structures]).tolist()
        out: list[Prediction | Exception] = []
        for b, structure in enumerate(structures):
            try:
                out += split(_part(batch, b, ends[b] - len(structure), ends[b]), [structure])
            except MLIPError as error:  # NaN
                out.append(error)
        return out

    def _independent(self, size: int) -> bool:
        """Return whether crystals have the same bits alone and in calls of a size, wherever they stand."""
        draw = np.random.default_rng(0)
        systems = [System.of(probe(self.potential, int(n)), self.potential) for n in (1, 2, 3, 5, 8, 13, 21)]
        alone = [self._evaluate_alone(system) for system in systems]
        for system in systems:
            system.prepare(self.potential)
        filling = System.of(probe(self.potential, 4), self.potential)
        filling.prepare(self.potential)
        free = max(size - sum(s.load for s in systems), 0)
        company = systems + [filling] * (free // filling.load)
        for _ in range(3):
            order = draw.permutation(len(company))
            found = self._together([company[i] for i in order])
            for place, i in zip(range(len(order)), order, strict=True):
                if i < len(systems) and not _equal(found[place], alone[i]):
                    return False
        return True

    def _evaluate_alone(self, system: System) -> Prediction | Exception:
        system.prepare(self.potential)
        return self._together([system])[0]


def probe(potential: Potential, atoms: int) -> Atoms:
    """Return a crystal made up to measure a model with: cubes of its elements, no two alike.

    Args:
        potential: knows the elements.
        atoms: how many.
    """
    draw = np.random.default_rng(atoms)
    allowed = [SYMBOLS.index(symbol) for symbol in potential.elements]
    numbers = draw.choice(allowed, atoms)
    spacing = max(2.2 * float(SIZES[numbers].max()) + 0.3, 1.5)
    side = int(np.ceil(atoms ** (1 / 3)))
    grid = np.indices((side, side, side), dtype=np.float64).reshape(3, -1).T[:atoms]
    layers = int(grid[:, 0].max()) + 1
    positions = spacing * grid + draw.normal(0.0, 0.05, grid.shape)
    return Atoms(numbers, positions, cell=spacing * np.array([layers, side, side]), pbc=True)


def _part(batch: BatchPrediction, b: int, begin: int, end: int) -> BatchPrediction:
    def cut(x: torch.Tensor | None, rows: slice) -> torch.Tensor | None:
        return None if x is None else x[rows]

    return dataclasses.replace(batch, energy=batch.energy[b : b + 1], energies=batch.energies[begin:end],
                               forces=cut(batch.forces, slice(begin, end)), stress=cut(batch.stress, slice(b, b + 1)))


def _equal(one: Prediction | Exception, other: Prediction | Exception) -> bool:
    if not isinstance(one, Prediction) or not isinstance(other, Prediction):
        return False
    pairs = [(one.energies, other.energies), (one.forces, other.forces), (one.stress, other.stress)]
    return all(a is not None and b is not None and np.array_equal(a, b) for a, b in pairs)
