"""Phonons by finite displacements with phonopy: bands, density of states, free energy, heat capacity."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from ase import Atoms
from ase.cell import Cell
from ase.dft.kpoints import parse_path_string

from mlip.checkpoints import Potential
from mlip.errors import MissingDependencyError
from mlip.screening.properties.common import check_numbers, predictions, repeats, require_crystal, settled
from mlip.units import AVOGADRO, ELEMENTARY_CHARGE

UNITS = {"supercell": "repeats", "displaced_cells": "", "atoms_per_cell": "", "lowest_frequency": "THz",
         "highest_frequency": "THz", "imaginary": "", "zero_point_energy": "eV/atom", "temperatures": "K",
         "free_energy": "eV/atom", "entropy": "J/K/mol of atoms", "heat_capacity": "J/K/mol of atoms",
         "dos_frequencies": "THz", "dos": "1/THz/cell", "band_labels": "", "band_distances": "1/A",
         "band_frequencies": "THz"}
IMAGINARY = 0.1  # THz; what lies less below zero is the rounding of acoustic modes
POINTS = 31  # of each straight part of the band path
EV_PER_KJ_MOL = 1000 / (AVOGADRO * ELEMENTARY_CHARGE)


@dataclass(frozen=True)
class Settings:
    """How forces and modes are sampled.

    Attributes:
        displacement: A, of one atom at a time; in both directions where symmetry does not make them one.
        supercell: A, least distance between opposite faces of the supercell.
        mesh: A; the mesh of wave vectors has as many points along each reciprocal vector as this length demands.
        fmax: eV/A; atoms relax to this, in their cell, before they are displaced.
        steps: largest number of optimiser steps.
        t_max: K; temperatures go from 0 to this.
        t_step: K.
    """

    displacement: float = 0.01
    supercell: float = 12.0
    mesh: float = 100.0
    fmax: float = 1e-4
    steps: int = 500
    t_max: float = 1000.0
    t_step: float = 50.0

    def __post_init__(self) -> None:
        check_numbers(self)


def compute(atoms: Atoms, potential: Potential, settings: Settings) -> dict[str, Any]:
    """Compute the harmonic phonons of a crystal at constant volume.

    The path of the bands is that of Setyawan and Curtarolo, Comput. Mater. Sci. 49, 299 (2010), in the primitive cell.
    Modes more than 0.1 THz below zero make the crystal unstable (`imaginary`); it then has no harmonic free
    energy, and what needs one is None.

    Args:
        atoms: a relaxed crystal.
        potential: the model, best in float64.
        settings: how.

    Returns:
        The values of `UNITS`. Bands are lists over the straight parts of the path.

    Raises:
        StructureError: no crystal.
        PropertyError: the relaxation did not converge.
        MissingDependencyError: phonopy is not installed.
    """
    require_crystal(atoms, "phonons")
    relaxed = settled(atoms, potential, settings.fmax, settings.steps, "the crystal before its phonons").atoms
    phonon = force_constants(relaxed, potential, settings)
    phonon.run_mesh(settings.mesh)
    phonon.run_total_dos()
    found = bands(phonon)
    all_frequencies = [phonon.mesh.frequencies.ravel(), *(np.ravel(f) for f in found["band_frequencies"])]
    lowest, highest = (float(f(np.concatenate(all_frequencies))) for f in (np.min, np.max))
    return {"supercell": np.diag(phonon.supercell_matrix).tolist(), "atoms_per_cell": len(phonon.primitive),
            "displaced_cells": len(phonon.supercells_with_displacements), "lowest_frequency": lowest,
            "highest_frequency": highest, "imaginary": lowest < -IMAGINARY,
            **thermal(phonon, settings, lowest >= -IMAGINARY),
            "dos_frequencies": phonon.total_dos.frequency_points.tolist(), "dos": phonon.total_dos.dos.tolist(),
            **found}


def force_constants(atoms: Atoms, potential: Potential, settings: Settings) -> Any:
    """Return a `phonopy.Phonopy` with symmetrised force constants.

    Raises:
        MissingDependencyError: phonopy is not installed.
    """
    try:
        from phonopy import Phonopy
        from phonopy.structure.atoms import PhonopyAtoms
    except ImportError:
        raise MissingDependencyError.of("phonopy", "screen") from None
    unit = PhonopyAtoms(atoms.get_chemical_symbols(), cell=atoms.cell.array,
                        scaled_positions=atoms.get_scaled_positions())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "primitive_matrix defaulted to 'auto'")  # it is meant
        phonon = Phonopy(unit, np.diag(repeats(atoms, settings.supercell)), primitive_matrix="auto")
    phonon.generate_displacements(distance=settings.displacement)
    moved = [Atoms(c.symbols, c.positions, cell=c.cell, pbc=True, info=dict(atoms.info))
             for c in phonon.supercells_with_displacements]
    phonon.forces = [p.forces for p in predictions(moved, potential, stress=False)]
    phonon.produce_force_constants()
    phonon.symmetrize_force_constants()
    return phonon


def bands(phonon: Any) -> dict[str, Any]:
    """Return labels, distances and frequencies of the straight parts of the band path."""
    path = Cell(phonon.primitive.cell).bandpath(eps=1e-3)
    pairs = [pair for part in parse_path_string(path.path) for pair in pairwise(part)]
    points = path.special_points
    phonon.run_band_structure([np.linspace(points[a], points[b], POINTS) for a, b in pairs])
    found = phonon.band_structure
    return {"band_labels": [list(pair) for pair in pairs], "band_distances": [d.tolist() for d in found.distances],
            "band_frequencies": [f.tolist() for f in found.frequencies]}


def thermal(phonon: Any, settings: Settings, stable: bool) -> dict[str, Any]:
    """Return zero-point energy, free energy, entropy and heat capacity for each atom; None for an unstable crystal."""
    count = len(phonon.primitive)
    temperatures = np.arange(0, settings.t_max + settings.t_step / 2, settings.t_step)
    found: dict[str, Any] = {"temperatures": temperatures.tolist()}
    names = ("zero_point_energy", "free_energy", "entropy", "heat_capacity")
    if not stable:
        return found | dict.fromkeys(names)
    phonon.run_thermal_properties(temperatures=temperatures, cutoff_frequency=1e-2)  # without acoustic modes at Gamma
    _, free, entropy, capacity = phonon.thermal_properties.thermal_properties
    free = free * EV_PER_KJ_MOL / count
    return found | dict(zip(names, (float(free[0]), free.tolist(), (entropy / count).tolist(),
                                    (capacity / count).tolist()), strict=True))
