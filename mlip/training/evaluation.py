"""How well a potential does on labelled structures: errors by property, element and kind of structure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip.checkpoints import Committee, Potential
from mlip.elements import SYMBOLS
from mlip.errors import NonFiniteError, OptionError, StructureError
from mlip.graph import naming
from mlip.graph.labelled import Labelled
from mlip.nn.derivatives import evaluate
from mlip.training.metrics import (
    Difference,
    ErrorSums,
    Sums,
    differences,
    in_batches,
    mean_difference,
    stress_label,
    wanted,
)
from mlip.units import GPA_PER_EV_A3

Array = NDArray[np.float64]

WORST = 10  # structures that are listed
SAMPLE = 20_000  # pairs kept for a plot


class Sample:
    """A fair sample of bounded size from a stream of (label, prediction) pairs."""

    def __init__(self, size: int = SAMPLE) -> None:
        self.seen = self._waiting = 0
        self._size, self._rows, self._limit = size, np.empty((0, 3)), np.inf  # rows: key, label, prediction
        self._new: list[Array] = []
        self._generator = np.random.default_rng(0)

    def add(self, labels: Array, predictions: Array) -> None:
        """Add numbers of any shape, pair by pair."""
        keys = self._generator.random(labels.size)  # the rows with the smallest keys stay
        rows = np.column_stack([keys, labels.ravel(), predictions.ravel()])
        self.seen += len(rows)
        self._new.append(rows[keys < self._limit])
        self._waiting += len(self._new[-1])
        if self._waiting > self._size:
            self._choose()

    @property
    def pairs(self) -> Array:
        """The pairs that were drawn, [n, 2]."""
        self._choose()
        return self._rows[:, 1:]

    def _choose(self) -> None:
        self._rows, self._new, self._waiting = np.concatenate([self._rows, *self._new]), [], 0
        if len(self._rows) > self._size:
            self._rows = self._rows[np.argpartition(self._rows[:, 0], self._size)[: self._size]]
            self._limit = float(self._rows[:, 0].max())


@dataclass(frozen=True, order=True)
class Outlier:
    """A structure with a large error: meV/atom of its energy, or meV/A of its worst force (length of the vector)."""

    error: float
    index: int
    config_type: str

    def to_dict(self) -> dict[str, Any]:
        """Return index, kind and error."""
        return {"structure": self.index, "config_type": self.config_type, "error": round(self.error, 4)}


@dataclass
class Evaluation:
    """Errors of a potential on a stream of structures; its text is a table.

    Attributes:
        total: of all structures.
        config_types: of each kind of structure; a single nameless kind is left out.
        elements: of the forces on the atoms of each element, eV/A, by symbol.
        atoms: number of atoms of each element.
        worst_energy: structures with the largest error of the energy per atom, worst first.
        worst_forces: structures with the largest error of a force, worst first.
        samples: pairs for plots: `energy` (eV/atom above the model's isolated atoms), `forces` (eV/A, components) and
            `stress` (eV/A^3, six components).
    """

    total: ErrorSums = field(default_factory=ErrorSums)
    config_types: dict[str, ErrorSums] = field(default_factory=dict)
    elements: dict[str, Sums] = field(default_factory=dict)
    atoms: dict[str, int] = field(default_factory=dict)
    worst_energy: list[Outlier] = field(default_factory=list)
    worst_forces: list[Outlier] = field(default_factory=list)
    samples: dict[str, Sample] = field(default_factory=lambda: {k: Sample() for k in ("energy", "forces", "stress")})

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as JSON-compatible values, with units in the names."""
        return {**numbers(self.total),
                "elements": {symbol: {"atoms": count, **_two("forces", "mev_per_angstrom", self.elements.get(symbol))}
                             for symbol, count in self.atoms.items()},
                "config_types": {name: numbers(sums) for name, sums in self.config_types.items()},
                "worst_energy_mev_per_atom": [o.to_dict() for o in self.worst_energy],
                "worst_force_mev_per_angstrom": [o.to_dict() for o in self.worst_forces]}

    def __str__(self) -> str:
        t = self.total
        counts = ", ".join(f"{symbol} {count}" for symbol, count in self.atoms.items())
        lines = [f"{t.structures} structures, {t.atoms} atoms: {counts}; forces on {t.forces.count // 3} atoms, stress "
                 f"of {t.stress.count // 6} structures", "", f"{'':34}{'RMSE':>12}{'MAE':>12}{'numbers':>12}"]
        lines += [_line(*row) for row in (
            ("energy (meV/atom)", t.energy_per_atom), ("energy (meV)", t.energy), ("forces (meV/A)", t.forces),
            ("stress (meV/A^3)", t.stress), ("stress (GPa)", t.stress, GPA_PER_EV_A3)) if row[1].count]
        if len(self.elements) > 1:
            lines += [_line(f"forces on {symbol} (meV/A)", sums) for symbol, sums in self.elements.items()]
        lines += [*_by_kind(self.config_types), ""]
        for name, unit, found in (("energy", "meV/atom", self.worst_energy), ("force", "meV/A", self.worst_forces)):
            if found:
                some = ", ".join(f"{o.index}{f' ({o.config_type})' if o.config_type else ''}: {o.error:.3g}"
                                 for o in found[:5])
                lines.append(f"largest errors of {name} ({unit}), by structure: {some}")
        return "\n".join(lines)


def evaluate_on(potential: Potential | Committee, examples: Iterable[Labelled],
                batch_atoms: int = 1024) -> Evaluation:
    """Compare a potential, or the mean of a committee, with labelled structures.

    The structures are read as a stream, and only sums are kept. A structure without forces or stress counts for what
    it has.

    Args:
        potential: any, or several that are one committee.
        examples: labelled structures.
        batch_atoms: atoms that are evaluated at once, a structure at least.

    Raises:
        UnknownElementError, StructureError: a structure that the model cannot evaluate, by its index.
        OptionError: there are no structures.
        NonFiniteError: a prediction is NaN or infinite, by the index of its structure.
    """
    found, first = Evaluation(), 0
    each = potential.each if isinstance(potential, Committee) else lambda function: [function(potential)]
    for batch in in_batches(examples, batch_atoms):
        compared = each(partial(_compared, batch=batch, first=first))
        isolated = np.mean([energies for _, energies in compared], axis=0)
        for i, (example, *of_members) in enumerate(zip(batch, *(off for off, _ in compared), strict=True)):
            _add(found, example, mean_difference(of_members), first + i, float(isolated[i]))
        first += len(batch)
    if not first:
        raise OptionError("there are no structures to evaluate the model on")
    found.atoms = dict(sorted(found.atoms.items(), key=lambda item: SYMBOLS.index(item[0])))
    found.elements = {symbol: found.elements[symbol] for symbol in found.atoms if symbol in found.elements}
    if set(found.config_types) == {""}:
        found.config_types = {}
    return found


def numbers(sums: ErrorSums) -> dict[str, Any]:
    """Return counts and errors by name, with units in the names; what there is nothing of is left out."""
    return {"structures": sums.structures, "atoms": sums.atoms,
            **_two("energy", "mev_per_atom", sums.energy_per_atom), **_two("energy", "mev_per_structure", sums.energy),
            **_two("forces", "mev_per_angstrom", sums.forces), **_two("stress", "mev_per_angstrom3", sums.stress),
            **_two("stress", "gpa", sums.stress, GPA_PER_EV_A3)}


def _compared(potential: Potential, batch: Sequence[Labelled], first: int) -> tuple[list[Difference], Array]:
    """Return prediction minus label of B structures, and [B] energies of their isolated atoms, eV."""
    structures = [e.structure for e in batch]
    for i, structure in enumerate(structures):
        with naming(first + i):
            potential.check([structure])
    try:
        graph = potential.graph(structures)
    except StructureError as error:
        raise type(error)(f"of the structures {first} to {first + len(batch) - 1}: {error}") from None
    potential.check_backend(structures[0], graph)
    result = evaluate(potential.model, graph, **wanted(batch))
    energies = (result.energies - result.interaction).cpu().numpy()
    isolated = np.bincount(graph.batch.cpu().numpy(), energies, len(batch)).astype(np.float64)
    found = list(differences(batch, result))
    for i, difference in enumerate(found):
        if not all(np.isfinite(x).all() for x in vars(difference).values() if x is not None):
            raise NonFiniteError(f"the model returned NaN or infinity for structure {first + i}; look for atoms far "
                                 "too close to each other")
    return found, isolated


def _add(found: Evaluation, example: Labelled, d: Difference, index: int, isolated: float) -> None:
    """Add one structure, whose isolated atoms have so much energy, eV."""
    atoms, kind = len(example.structure), example.config_type
    found.total.add(atoms, d)
    found.config_types.setdefault(kind, ErrorSums()).add(atoms, d)
    label = np.array([(example.energy - isolated) / max(atoms, 1)])
    found.samples["energy"].add(label, label + d.energy / max(atoms, 1))
    _rank(found.worst_energy, Outlier(1e3 * abs(d.energy) / max(atoms, 1), index, kind))
    numbers_here = example.structure.numbers
    for z in np.unique(numbers_here):
        found.atoms[SYMBOLS[z]] = found.atoms.get(SYMBOLS[z], 0) + int((numbers_here == z).sum())
        if d.forces is not None:
            found.elements.setdefault(SYMBOLS[z], Sums()).add(d.forces[numbers_here == z])
    if d.forces is not None and example.forces is not None and atoms:
        found.samples["forces"].add(example.forces, example.forces + d.forces)
        _rank(found.worst_forces, Outlier(1e3 * float(np.linalg.norm(d.forces, axis=1).max()), index, kind))
    stress = stress_label(example)
    if d.stress is not None and stress is not None:
        found.samples["stress"].add(stress, stress + d.stress)


def _rank(worst: list[Outlier], new: Outlier) -> None:
    """Keep the list of the worst, worst first."""
    if len(worst) < WORST or new > worst[-1]:
        worst.append(new)
        worst.sort(reverse=True)
        del worst[WORST:]


def _two(name: str, unit: str, sums: Sums | None, factor: float = 1e3) -> dict[str, float]:
    if sums is None or sums.rmse is None or sums.mae is None:
        return {}
    return {f"{name}_rmse_{unit}": round(factor * sums.rmse, 4), f"{name}_mae_{unit}": round(factor * sums.mae, 4)}


def _line(name: str, sums: Sums, factor: float = 1e3) -> str:
    return f"{name:34}{factor * (sums.rmse or 0.0):>12.3f}{factor * (sums.mae or 0.0):>12.3f}{sums.count:>12}"


def _by_kind(kinds: dict[str, ErrorSums]) -> list[str]:
    if not kinds:
        return []
    width = max(34, *(len(name) + 2 for name in kinds))
    head = ["", f"{'RMSE of each config_type':{width}}{'energy':>12}{'forces':>12}{'stress':>12}{'structures':>12}",
            f"{'':{width}}{'meV/atom':>12}{'meV/A':>12}{'meV/A^3':>12}"]
    cells = {name: ["-" if s.rmse is None else f"{1e3 * s.rmse:.3f}" for s in (k.energy_per_atom, k.forces, k.stress)]
             for name, k in kinds.items()}
    return head + [f"{name or '(none)':{width}}{''.join(f'{c:>12}' for c in cells[name])}{k.structures:>12}"
                   for name, k in kinds.items()]
