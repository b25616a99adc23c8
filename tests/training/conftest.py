"""Small labelled structures and a small model to train."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write

from mlip import Potential, Structure, create
from mlip.graph.labelled import Labelled
from mlip.training import TrainingConfig, initial_potential

TINY: dict[str, Any] = {"channels": 16, "edge_lmax": 1, "hidden_lmax": 1, "correlation": 2, "radial_mlp": (8,),
                        "num_bessel": 4, "cutoff": 3.5}
FAST = TrainingConfig(epochs=4, batch_size=5, optimizer="muon", learning_rate=0.02, ema_decay=0.5)  # holds AdamW, too


def teacher_labels(count: int = 20, seed: int = 0) -> list[Labelled]:
    """Return water-like molecules with the energies and forces of a random model."""
    teacher = create("mace", ["H", "O"], seed=11, dtype="float64", **{**TINY, "edge_lmax": 2, "channels": 2})
    rng = np.random.default_rng(seed)
    shape = np.array([[0, 0, 0], [0.95, 0, 0], [-0.25, 0.93, 0]])
    structures = [Structure.create([8, 1, 1], shape + rng.normal(0, 0.12, (3, 3))) for _ in range(count)]
    predictions = teacher.evaluate(structures)
    return [Labelled(s, p.energy - 2041.0, p.forces) for s, p in zip(structures, predictions, strict=True)]


@pytest.fixture(scope="session")
def examples() -> list[Labelled]:
    """Twenty labelled molecules."""
    return teacher_labels()


@pytest.fixture
def start(examples: list[Labelled]) -> Potential:
    """An untrained potential fitted to the constants of the examples."""
    return initial_potential("mace", examples, {"H": -13.6, "O": -2013.8}, seed=1, dtype="float64", **TINY)


@pytest.fixture
def fast() -> TrainingConfig:
    """Options of a short run."""
    return dataclasses.replace(FAST)


@pytest.fixture(scope="session")
def emt() -> Callable[[Atoms], Atoms]:
    """Return what gives atoms exact REF_energy, REF_forces and REF_stress of a cheap potential."""
    def labelled(atoms: Atoms) -> Atoms:
        atoms.calc = EMT()
        energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)
        atoms.calc = None
        atoms.info.update(REF_energy=energy, REF_stress=stress)
        atoms.new_array("REF_forces", forces)
        return atoms

    return labelled


@pytest.fixture(scope="session")
def crystals(emt: Callable[[Atoms], Atoms]) -> Callable[..., list[Atoms]]:
    """Rattled crystals of eight atoms with exact REF_energy, REF_forces and REF_stress of a cheap potential."""
    @cache
    def labelled(count: int, seed: int, symbol: str) -> list[Atoms]:
        rng, found = np.random.default_rng(seed), []
        for i in range(count):
            atoms = bulk(symbol, cubic=True) * (2, 1, 1)
            if i % 4 == 0:  # the others share a cell
                atoms.set_cell(atoms.cell * (1 + 0.02 * (i % 3)), scale_atoms=True)
            atoms.positions += rng.normal(0, 0.06, atoms.positions.shape)
            found.append(emt(atoms))
        return found

    def made(count: int = 24, seed: int = 0, symbol: str = "Cu") -> list[Atoms]:
        return [atoms.copy() for atoms in labelled(count, seed, symbol)]
    return made


@pytest.fixture(scope="session")
def water() -> Callable[..., list[Atoms]]:
    """The molecules of `teacher_labels` as ASE has them, with REF_energy and REF_forces."""
    def made(count: int = 12, seed: int = 0) -> list[Atoms]:
        frames = []
        for e in teacher_labels(count, seed):
            frames.append(Atoms(e.structure.numbers, e.structure.positions, info={"REF_energy": e.energy}))
            frames[-1].new_array("REF_forces", e.forces)
        return frames
    return made


@pytest.fixture
def save(tmp_path: Path) -> Callable[[str, list[Atoms]], Path]:
    """Write extended XYZ with all digits into the folder of the test."""
    def saved(name: str, frames: list[Atoms]) -> Path:
        write(tmp_path / name, frames, format="extxyz", write_results=False)
        return tmp_path / name
    return saved
