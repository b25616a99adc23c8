"""The driver of i-PI: units, batches of beads, and i-PI itself for some steps."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

import mlip
from mlip.calculators import MLIPCalculator, ipi_driver
from mlip.calculators.ipi_driver import MLIPDriver
from mlip.errors import NonFiniteError, OptionError, StructureError, UnknownElementError

units = pytest.importorskip("ipi.utils.units", reason="i-PI is not installed: pip install \"mlip-md[ipi]\"")
BOHR = 1.0 / units.unit_to_internal("length", "angstrom", 1.0)
HARTREE = 1.0 / units.unit_to_internal("energy", "electronvolt", 1.0)
BIN = Path(sys.executable).parent


def bare(atoms: Atoms) -> Atoms:
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


def driver_for(potential: mlip.Potential, atoms: Atoms, folder: Path, **options: object) -> MLIPDriver:
    write(folder / "template.xyz", bare(atoms), format="extxyz")
    return MLIPDriver(potential, folder / "template.xyz", **options)  # type: ignore[arg-type]


def atomic_units(atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    return atoms.cell.array.T / BOHR, atoms.positions / BOHR


class TestNumbers:
    def test_as_in_ase(self, mace: mlip.Potential, structure: Atoms, tmp_path: Path) -> None:
        energy, forces, virial, extras = driver_for(mace, structure, tmp_path)(*atomic_units(structure))
        structure.calc = MLIPCalculator(mace)
        assert energy * HARTREE == pytest.approx(structure.get_potential_energy(), rel=1e-12)
        np.testing.assert_allclose(forces * HARTREE / BOHR, structure.get_forces(), rtol=0, atol=1e-9)
        expected = -structure.get_stress(voigt=False) * structure.get_volume() if structure.pbc.any() else 0.0
        np.testing.assert_allclose(virial * HARTREE, np.broadcast_to(expected, (3, 3)), rtol=0, atol=1e-8)
        assert extras == ""

    def test_virial_is_the_derivative(self, mace: mlip.Potential, structures: dict[str, Atoms],
                                      tmp_path: Path) -> None:
        """i-PI: the virial is -dE/dstrain, symmetric."""
        atoms = structures["triclinic"]
        driver = driver_for(mace, atoms, tmp_path)
        cell, positions = atomic_units(atoms)
        strain = np.array([[0.3, 0.5, -0.2], [0.5, -0.4, 0.1], [-0.2, 0.1, 0.6]])

        def energy(scale: float) -> float:
            deform = np.eye(3) + scale * strain
            return float(driver.compute_structure(deform @ cell, positions @ deform)[0])

        slope = (energy(1e-4) - energy(-1e-4)) / 2e-4
        virial = driver.compute_structure(cell, positions)[2]
        assert -(virial * strain).sum() == pytest.approx(slope, abs=1e-7)
        np.testing.assert_allclose(virial, virial.T, rtol=0, atol=1e-14)

    def test_beads_in_one_batch(self, mace: mlip.Potential, structures: dict[str, Atoms], tmp_path: Path,
                                monkeypatch: pytest.MonkeyPatch) -> None:
        atoms = structures["triclinic"]
        driver = driver_for(mace, atoms, tmp_path)
        cell, positions = atomic_units(atoms)
        beads = [positions + np.random.default_rng(i).normal(0.0, 0.1, positions.shape) for i in range(4)]
        sizes: list[int] = []
        evaluate = type(mace).evaluate

        def counted(self: mlip.Potential, found: list[object], **options: object) -> object:
            sizes.append(len(found))
            return evaluate(self, found, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(type(mace), "evaluate", counted)
        many = driver([cell] * 4, beads)
        assert sizes == [4]
        for found, bead in zip(many, beads, strict=True):
            for one, other in zip(found[:3], driver(cell, bead)[:3], strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


class TestMistakes:
    def test_wrong_number_of_atoms(self, mace: mlip.Potential, structures: dict[str, Atoms], tmp_path: Path) -> None:
        driver = driver_for(mace, structures["molecule"], tmp_path)
        with pytest.raises(StructureError, match="the template has 6 atoms"):
            driver(np.eye(3), np.zeros((2, 3)))
        with pytest.raises(StructureError, match="as many positions"):
            driver([np.eye(3)] * 2, [np.zeros((6, 3))])

    def test_unknown_elements_before_the_first_step(self, mace: mlip.Potential, tmp_path: Path) -> None:
        with pytest.raises(UnknownElementError, match="Fe"):
            driver_for(mace, Atoms("Fe"), tmp_path)

    def test_bad_positions(self, mace: mlip.Potential, structures: dict[str, Atoms], tmp_path: Path) -> None:
        driver = driver_for(mace, structures["molecule"], tmp_path)
        with pytest.raises((StructureError, NonFiniteError), match="NaN"):
            driver(np.eye(3), np.full((6, 3), np.nan))

    def test_options(self, mace: mlip.Potential, tmp_path: Path) -> None:
        with pytest.raises(StructureError, match="no file"):
            MLIPDriver(mace, tmp_path / "missing.xyz")
        with pytest.raises(OptionError, match="int"):
            MLIPDriver(3, tmp_path / "missing.xyz")  # type: ignore[arg-type]
        with pytest.raises(OptionError, match="skin"):
            driver_for(mace, Atoms("H"), tmp_path, skin=-1.0)


INPUT = """
<simulation verbosity="low">
  <output prefix="out">
    <properties filename="log" stride="1"> [step, conserved{{electronvolt}}, potential{{electronvolt}}] </properties>
  </output>
  <total_steps> 5 </total_steps>
  <prng><seed> 1 </seed></prng>
  {forcefield}
  <system>
    <initialize nbeads="{beads}">
      <file mode="xyz" units="angstrom"> start.xyz </file>
      <velocities mode="thermal" units="kelvin"> 300 </velocities>
    </initialize>
    <forces><force forcefield="model"></force></forces>
    <ensemble><temperature units="kelvin"> 300 </temperature></ensemble>
    <motion mode="dynamics"><dynamics mode="nve"><timestep units="femtosecond"> 0.25 </timestep></dynamics></motion>
  </system>
</simulation>
"""
START = """{count}
# CELL(abcABC): 20.0 20.0 20.0 90.0 90.0 90.0 positions{{angstrom}} cell{{angstrom}}
{rows}
"""
PARAMETERS = {"model": "model.mlip", "template": "template.xyz"}


def prepare(folder: Path, mace: mlip.Potential, atoms: Atoms, forcefield: str, beads: int) -> None:
    mace.save(folder / "model.mlip")
    write(folder / "template.xyz", atoms, format="extxyz")
    rows = [f"{s} {x:.12f} {y:.12f} {z:.12f}"
            for s, (x, y, z) in zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)]
    (folder / "start.xyz").write_text(START.format(count=len(atoms), rows="\n".join(rows)))
    (folder / "input.xml").write_text(INPUT.format(forcefield=forcefield, beads=beads))


def started(folder: Path, program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, BIN / program, *arguments], cwd=folder, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def check_log(folder: Path, atoms: Atoms, mace: mlip.Potential) -> None:
    """The first potential is that of ASE, and the energy is conserved."""
    log = np.loadtxt(folder / "out.log")
    atoms.calc = MLIPCalculator(mace)
    assert log[0, 2] == pytest.approx(atoms.get_potential_energy(), rel=1e-7)
    assert len(log) == 6
    assert np.ptp(log[:, 1]) < 1e-2 * np.ptp(log[:, 2])


@pytest.mark.slow
class TestRuns:
    def test_path_integrals_with_beads_in_batches(self, mace: mlip.Potential, structures: dict[str, Atoms],
                                                  tmp_path: Path) -> None:
        given = ", ".join(f"{key}: {value}" for key, value in PARAMETERS.items())
        forcefield = (f'<ffdirect name="model"><pes> custom </pes><pes_path> {ipi_driver.__file__} </pes_path>'
                      f"<parameters>{{ {given} }}</parameters><batch_size> 4 </batch_size></ffdirect>")
        prepare(tmp_path, mace, structures["molecule"], forcefield, beads=4)
        server = started(tmp_path, "i-pi", "input.xml")
        text, _ = server.communicate(timeout=240)
        assert server.returncode == 0, text[-3000:]
        check_log(tmp_path, structures["molecule"], mace)

    def test_through_a_socket(self, mace: mlip.Potential, structures: dict[str, Atoms], tmp_path: Path) -> None:
        name = f"mlip-{os.getpid()}"
        forcefield = f'<ffsocket name="model" mode="unix"><address> {name} </address></ffsocket>'
        prepare(tmp_path, mace, structures["molecule"], forcefield, beads=1)
        prefix = tempfile.mkdtemp(prefix="ipi") + "/"  # short: paths of sockets have at most 107 bytes
        server = started(tmp_path, "i-pi", "-S", prefix, "input.xml")
        try:
            until = time.monotonic() + 120
            while not Path(prefix + name).exists() and server.poll() is None and time.monotonic() < until:
                time.sleep(0.1)
            given = ",".join(f"{key}={value}" for key, value in PARAMETERS.items())
            client = started(tmp_path, "i-pi-driver-py", "-u", "-a", name, "-S", prefix, "-m", "custom", "-P",
                             str(ipi_driver.__file__), "-o", given)
            said, _ = client.communicate(timeout=240)
            assert client.returncode == 0, said[-3000:]
            text, _ = server.communicate(timeout=60)
        finally:
            server.kill()
            shutil.rmtree(prefix)
        assert server.returncode == 0, text[-3000:]
        check_log(tmp_path, structures["molecule"], mace)
