"""Trajectories whose properties are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from numpy.typing import NDArray

from mlip.analysis.trajectory import Motion


def topology_of(numbers: NDArray[np.int64]) -> Any:
    """Return a topology without bonds."""
    import mdtraj

    topology = mdtraj.Topology()
    residue = topology.add_residue("MOL", topology.add_chain())
    for z in numbers:
        element = mdtraj.element.Element.getByAtomicNumber(int(z))
        topology.add_atom(element.symbol, element, residue)
    return topology


def motion(numbers: Any, positions: Any, cells: Any = None, interval: float = 1.0) -> Motion:
    """Return a motion of atoms in A and ps, as it is held after reading."""
    import mdtraj

    numbers = np.asarray(numbers)
    frames = mdtraj.Trajectory(0.1 * np.asarray(positions), topology_of(numbers),
                               time=interval * np.arange(len(positions)))
    if cells is not None:
        frames.unitcell_vectors = 0.1 * np.broadcast_to(cells, (len(positions), 3, 3))
    return Motion(frames, numbers, len(positions), 1, True, (cells is not None,) * 3)


def walk(frames: int, atoms: int, step: float, seed: int = 0) -> NDArray[np.float64]:
    """Return a random walk [F, N, 3] with normal steps."""
    rng = np.random.default_rng(seed)
    return np.asarray(np.cumsum(rng.normal(0.0, step, (frames, atoms, 3)), axis=0) + rng.uniform(0, 10, (atoms, 3)))


def write_log(path: Path, time: Any, potential: Any, kinetic: Any, temperature: Any, volume: Any = None) -> None:
    """Write a log as `mlip md` does; without a volume its fields are empty."""
    rows = ["step,time_ps,potential_ev,kinetic_ev,total_ev,temperature_k,volume_a3,density_g_cm3"]
    for k, (t, p, e, T) in enumerate(zip(time, potential, kinetic, temperature, strict=True)):
        box = "," if volume is None else f"{volume[k]},{100.0 / volume[k]}"
        rows.append(f"{k},{t},{p},{e},{p + e},{T},{box}")
    path.write_text("\n".join(rows) + "\n")


@pytest.fixture
def argon(tmp_path: Path) -> Path:
    """Path of an `.xyz` of 30 frames of 20 argon atoms in a skewed cell, with times and without energies."""
    rng, cell = np.random.default_rng(1), np.array([[12.0, 0.0, 0.0], [3.0, 11.0, 0.0], [-2.0, 1.0, 13.0]])
    start = rng.uniform(0, 1, (20, 3)) @ cell
    frames = [Atoms("Ar20", positions=start + rng.normal(0, 0.1, (20, 3)), cell=cell, pbc=True,
                    info={"time": 500.0 * k}) for k in range(30)]
    write(tmp_path / "run.xyz", frames, format="extxyz")
    write(tmp_path / "run.topology.pdb", frames[0], format="proteindatabank")
    return tmp_path / "run.xyz"
