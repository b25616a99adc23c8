"""Our side of `mlip bench screen`: crystals that are made up, relaxed by `screen` and by a plain loop of ASE."""

from __future__ import annotations

import time
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import LBFGS
from numpy.typing import NDArray

from mlip.calculators import MLIPCalculator
from mlip.checkpoints import Potential
from mlip.errors import MLIPError, OptionError
from mlip.potentials.registry import register
from mlip.screening.cell import CellFilter
from mlip.screening.inputs import read_inputs
from mlip.screening.memory import Forecast, forecast_of
from mlip.screening.properties.relax import Settings
from mlip.screening.screen import SHARD
from mlip.screening.shard import Shard, batched, run_shard
from mlip.screening.store import Row

OURS = "screen"
FILTERS: dict[str, Callable[[Atoms], Any]] = {"ASE": FrechetCellFilter, "ASE, our cell filter": CellFilter}
RATTLE, STRAIN = 0.05, 0.03  # A, relative


def crystals(potential: Potential, sizes: list[int], seed: int = 0) -> list[Atoms]:
    """Return crystals of the elements of a model in turn, as they are found in nature, rattled and strained.

    Args:
        potential: knows the elements.
        sizes: most atoms of each; the primitive cell is repeated as long as they are not more.
        seed: of what is drawn.

    Raises:
        OptionError: none of the elements is a simple crystal.
    """
    draw, cells = np.random.default_rng(seed), []
    for symbol in potential.elements:
        try:
            cells.append(bulk(symbol))
        except (ValueError, RuntimeError):  # gases, and what ASE does not know
            continue
    if not cells:
        raise OptionError(f"{potential.info.name}: no element of it is a crystal that ASE can make")
    out = []
    for i, size in enumerate(sizes):
        atoms = _repeated(cells[i % len(cells)], size)
        strain = STRAIN * draw.normal(size=(3, 3)) / 2
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.5 * (strain + strain.T)), scale_atoms=True)
        atoms.positions += RATTLE * draw.normal(size=(len(atoms), 3))
        out.append(atoms)
    return out


def _repeated(cell: Atoms, most: int) -> Atoms:
    """Return a supercell of at most so many atoms, as round as can be."""
    repeats = np.ones(3, dtype=int)
    while True:
        longer = repeats.copy()
        longer[np.argmin(cell.cell.lengths() * repeats)] += 1
        if len(cell) * longer.prod() > most:
            return cell.repeat(repeats)
        repeats = longer


class Contest:
    """Crystals that ours and plain loops of ASE relax in turn: whenever ours has one, the others relax one too.

    So all sides have the same machine, whatever else runs on it.
    """

    def __init__(self, potential: Potential, structures: list[Atoms], settings: Settings) -> None:
        """Get ready."""
        self.potential, self.structures, self.settings = potential, structures, settings
        self.energies: dict[str, list[float | None]] = {name: [] for name in (OURS, *FILTERS)}
        self.times: dict[str, NDArray[np.float64]] = {name: np.zeros(2) for name in (OURS, *FILTERS)}

    def run(self) -> dict[str, dict[str, float]]:
        """Relax all.

        Returns:
            By side: seconds, processor (seconds), converged (how many), difference (largest of energies from ours,
            eV/atom).
        """
        self.potential.predict(self.structures[0])  # the check of the kernels
        rows: list[Row] = []

        def tell(row: Row) -> None:
            rows.append(row)
            for name in FILTERS:
                self.energies[name].append(self._by_ase(self.structures[len(rows) - 1], name))

        before = _now()
        _relax(self.potential, self.structures, self.settings, None, tell)
        self.times[OURS] = _now() - before - sum(self.times[name] for name in FILTERS)
        known = {row.hash: row.value.get("energy_per_atom") for row in rows}
        self.energies[OURS] = [known[entry.hash] for atoms in self.structures for entry in read_inputs(atoms)]
        return {name: self._told(name) for name in self.times}

    def _by_ase(self, start: Atoms, name: str) -> float | None:
        """Relax as a script does that knows nothing but ASE; return the energy for each atom, None without minimum."""
        before = _now()
        atoms = start.copy()
        atoms.calc = MLIPCalculator(self.potential)
        try:
            with LBFGS(FILTERS[name](atoms), logfile=None) as optimizer:
                converged = optimizer.run(fmax=self.settings.fmax, steps=self.settings.steps)
            return atoms.get_potential_energy() / len(atoms) if converged else None
        except MLIPError:
            return None
        finally:
            self.times[name] += _now() - before

    def _told(self, name: str) -> dict[str, float]:
        pairs = [(a, b) for a, b in zip(self.energies[name], self.energies[OURS], strict=True)
                 if a is not None and b is not None]
        return {"seconds": float(self.times[name][0]), "processor": float(self.times[name][1]),
                "converged": sum(each is not None for each in self.energies[name]),
                "difference": max((abs(a - b) for a, b in pairs), default=0.0)}


def contest(potential: Potential, count: int, atoms: int, fmax: float) -> dict[str, dict[str, float]]:
    """Relax crystals of up to so many atoms, and their cells, side by side; return what `Contest.run` does."""
    sizes = np.random.default_rng(0).integers(1, atoms + 1, count).tolist()
    return Contest(potential, crystals(potential, sizes), Settings(fmax=fmax)).run()


class Mixed:
    """Crystals of all sizes that are relaxed by a few steps in bounded memory."""

    def __init__(self, potential: Potential, count: int, atoms: int, memory: float) -> None:
        """Make them, of 2 to so many atoms; `memory` is what the process may have, bytes."""
        sizes = np.resize(np.arange(2, atoms + 1), count)
        self.potential, self.memory = potential, int(memory)
        self.structures = crystals(potential, np.random.default_rng(1).permutation(sizes).tolist())
        self.forecast: Forecast = forecast_of(potential)
        self.rows: list[Row] = []

    def run(self, steps: int) -> None:
        """Take the steps; what is not at a minimum then, all but a few, is a failure of the relaxation."""
        _relax(self.potential, self.structures, Settings(steps=steps), self.memory, self.rows.append)

    def told(self) -> dict[str, float]:
        """Return load (largest of a call), forecast (bytes of the process), atoms (largest number), refused."""
        model = batched(self.potential, self.memory)
        refused = sum("MemoryLimitError" in row.reason for row in self.rows)
        return {"load": model.most, "forecast": self.forecast.bytes(model.most), "refused": refused,
                "structures": len(self.rows), "atoms": max(map(len, self.structures))}


def _relax(potential: Potential, structures: list[Atoms], settings: Settings, memory: int | None,
           tell: Callable[[Row], Any]) -> None:
    """Relax as `screen` does in one process."""
    entries, (_, reference) = read_inputs(structures), register(potential)
    with TemporaryDirectory(prefix="mlip-bench-") as folder:
        for i in range(0, len(entries), SHARD):
            run_shard(Shard(folder, tuple(entries[i : i + SHARD]), reference, ("relax",), {"relax": settings}, memory),
                      tell)


def _now() -> NDArray[np.float64]:
    """Return wall time and processor time, s."""
    return np.array([time.perf_counter(), time.process_time()])
