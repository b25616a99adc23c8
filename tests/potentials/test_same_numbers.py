"""One structure has the same numbers in every engine: ASE = OpenMM = torch-sim = i-PI."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

import mlip
from mlip.calculators import MLIPCalculator
from mlip.potentials import create_system
from mlip.simulation.openmm_engine import topology_of
from mlip.units import KJ_PER_MOL_NM_PER_EV_A, KJ_PER_MOL_PER_EV

Numbers = tuple[float, np.ndarray]
BOUNDS = {"float64": (1e-9, 1e-7), "float32": (1e-6, 1e-4)}  # relative energy; forces, eV/A


def by_openmm(potential: mlip.Potential, atoms: Atoms, folder: Path) -> Numbers:
    openmm = pytest.importorskip("openmm")
    system = create_system(topology_of(atoms), potential)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(atoms.positions / 10)
    state = context.getState(energy=True, forces=True)
    return (state.getPotentialEnergy()._value / KJ_PER_MOL_PER_EV,
            state.getForces(asNumpy=True)._value / KJ_PER_MOL_NM_PER_EV_A)


def by_torchsim(potential: mlip.Potential, atoms: Atoms, folder: Path) -> Numbers:
    if importlib.util.find_spec("torch_sim") is None:
        pytest.skip("torch-sim is not installed: pip install \"mlip-md[batch]\", Python 3.12 or newer")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries it is built on
        import torch_sim

        from mlip.calculators.torchsim import TorchSimModel
    model = TorchSimModel(potential, compute_stress=False)
    found = model(torch_sim.io.atoms_to_state([atoms], model.device, model.dtype))
    return float(found["energy"]), found["forces"].numpy()


def by_ipi(potential: mlip.Potential, atoms: Atoms, folder: Path) -> Numbers:
    units = pytest.importorskip("ipi.utils.units", reason="i-PI is not installed: pip install \"mlip-md[ipi]\"")
    from mlip.calculators.ipi_driver import MLIPDriver

    write(folder / "template.xyz", atoms, format="extxyz")
    length, energy = (units.unit_to_internal(*of, 1.0) for of in (("length", "angstrom"), ("energy", "electronvolt")))
    found = MLIPDriver(potential, folder / "template.xyz")(atoms.cell.array.T * length, atoms.positions * length)
    return found[0] / energy, found[1] * length / energy


ENGINES: dict[str, Callable[[mlip.Potential, Atoms, Path], Numbers]] = {
    "openmm": by_openmm, "torch-sim": by_torchsim, "i-pi": by_ipi}


def triclinic() -> Atoms:
    """A triclinic crystal in the form OpenMM wants, with atoms outside of its cell."""
    cell = [[4.1, 0.0, 0.0], [1.2, 4.4, 0.0], [-1.2, 0.9, 5.0]]
    atoms = Atoms("CuOC", cell=cell, pbc=True, scaled_positions=[[0.1, 0.1, 0.1], [0.6, 0.4, 0.5], [0.2, 0.7, 0.8]])
    atoms.positions[1] += np.array([1, -2, 1]) @ cell
    return atoms


@pytest.mark.parametrize("dtype", list(BOUNDS))
@pytest.mark.parametrize("kind", ["molecule", "triclinic"])
@pytest.mark.parametrize("engine", list(ENGINES))
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_as_in_ase(potential: mlip.Potential, structures: dict[str, Atoms], engine: str, kind: str, dtype: str,
                   tmp_path: Path) -> None:
    atoms = triclinic() if kind == "triclinic" else structures["molecule"]
    chosen = potential.to(dtype=dtype)
    energy, forces = ENGINES[engine](chosen, atoms, tmp_path)
    atoms.calc = MLIPCalculator(chosen)
    relative, absolute = BOUNDS[dtype]
    assert energy == pytest.approx(atoms.get_potential_energy(), rel=relative)
    np.testing.assert_allclose(forces, atoms.get_forces(), rtol=0, atol=absolute)
    assert np.abs(atoms.get_forces()).max() > 1e-3
