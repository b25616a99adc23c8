"""Every example runs as it stands, writes only where it is told to, and prints what it promises."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))  # the others are configurations
EXPECTED: dict[str, tuple[list[str], list[str]]] = {  # words of the output, files written
    "01_single_point": (["energy ", "largest force", "O-H length"], []),
    "02_relaxation": (["converged: True", "O6-H11"], ["relaxed.xyz"]),
    "03_ase_dynamics": (["NVE: 41 frames", "NVT: 21 frames"],
                        ["nve.traj", "nvt.checkpoint.npz", "nvt.final.xyz", "nvt.log.csv", "nvt.topology.pdb",
                         "nvt.xyz"]),
    "04_openmm_dynamics": (["40 frames", "total energy varies"], ["energies.csv", "molecule.pdb", "trajectory.dcd"]),
    "05_mixed_ml_mm": (["15 ML atoms", "energy of the molecule"], ["energies.csv", "start.pdb"]),
    "06_screening": (["Ge8", "failed: UnknownElementError", "8 of 9 results"], ["rows", "table.csv"]),
    "07_mace_gaunt": (["no data in nowhere", "clebsch_gordan", "gaunt_antisymmetric"], []),
    "08_equiformer_v3": (["'equiformer_v3', elements=Cu", "lattice constant", "2 frames of 32 atoms"],
                         ["crystal.pdb", "cu", "energies.csv", "relaxed.xyz", "trajectory.dcd"]),
    "09_transip": (["before training", "after training", "averaged over the 24 rotations", "MACE     drift",
                    "energy_rot_std_mev_per_atom", "TransIP  drift"],
                   ["acac", "frames.checkpoint.npz", "frames.final.xyz", "frames.log.csv", "frames.topology.pdb",
                    "frames.xyz"]),
    "10_train": (["structures", "# gaunt-mace-copper", "steps of 256 atoms"],
                 ["crystal.pdb", "energies.csv", "recipe.toml", "run", "test.xyz", "train.xyz", "trajectory.dcd"]),
    "11_mixed_solvent": (["15 ML atoms", "20 degrees: in vacuum"], ["profile.csv", "profile.png", "start.pdb"]),
    "13_matbench_discovery": (["sample-10    UnknownElementError", "9 of 10 structures relaxed"],
                              ["2026-01-01-discovery.csv.gz", "2026-01-01-geo-opt.jsonl.gz"]),
    "12_screening_folder": (["unknown-element.cif#0: no relax: UnknownElementError", "two-in-one-place.cif#0: no relax",
                             "22 of 24 results went well"], ["report.html", "rows", "structures", "table.csv"]),
}

SHORT = {"12_screening_folder": ["--properties", "relax"],
         "07_mace_gaunt": ["--channels", "4", "--data", "nowhere"],  # training is tested below
         "08_equiformer_v3": ["--epochs", "2", "--steps", "20"],
         "10_train": ["--epochs", "1", "--steps", "20", "--seeds", "0"],
         "11_mixed_solvent": ["--angles", "0", "20", "--steps", "40"],
         "09_transip": ["--frames", "12", "--epochs", "2", "--steps", "20"],
         "13_matbench_discovery": ["--date", "2026-01-01"]}


def register_plugin() -> None:
    """Do what installing the package does: let openmm-ml find the factory."""
    potential = pytest.importorskip("openmmml").MLPotential
    if "mlip" not in potential._implFactories:
        from mlip.potentials.openmmml_plugin import MLIPPotentialImplFactory

        potential.registerImplFactory("mlip", MLIPPotentialImplFactory())


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")


def test_all_are_known() -> None:
    assert [path.stem for path in EXAMPLES] == sorted(EXPECTED)


@pytest.mark.parametrize("name", list(EXPECTED))
def test_runs(name, tmp_path, monkeypatch, capsys) -> None:
    if "openmm" in (ROOT / "examples" / f"{name}.py").read_text():
        pytest.importorskip("openmm")
    if name.startswith(("05", "11")):
        register_plugin()
    here, output = tmp_path / "here", tmp_path / "output" / "new"
    here.mkdir()
    monkeypatch.chdir(here)
    words, files = EXPECTED[name]
    run(name, monkeypatch, *([str(output)] if files else []), *SHORT.get(name, []))
    printed = capsys.readouterr().out
    for word in words:
        assert word in printed
    assert list(here.iterdir()) == []  # nothing is left where the user stands
    assert sorted(p.name for p in output.iterdir() if output.exists()) == files if files else not output.exists()


def test_screening_resumes(tmp_path, monkeypatch, capsys) -> None:
    run("06_screening", monkeypatch, str(tmp_path))
    first, store = capsys.readouterr().out, sorted(p.name for p in (tmp_path / "rows").iterdir())
    run("06_screening", monkeypatch, str(tmp_path))
    assert capsys.readouterr().out == first
    assert sorted(p.name for p in (tmp_path / "rows").iterdir()) == store


def test_screening_of_own_structures(tmp_path, monkeypatch, capsys) -> None:
    from ase.build import bulk

    (tmp_path / "mine").mkdir()
    bulk("Cu").write(tmp_path / "mine" / "copper.xyz")
    run("06_screening", monkeypatch, str(tmp_path), "--structures", str(tmp_path / "mine"))
    printed = capsys.readouterr().out
    assert "copper.xyz#0" in printed
    assert "Ni" not in printed.partition("structure")[2]


def test_gaunt_is_trained(tmp_path, monkeypatch, capsys) -> None:
    """On structures that the bundled model labels."""
    from ase.io import write

    import mlip
    from mlip.simulation.quickstart import acetylacetone

    potential, generator, frames = mlip.load("mace-acac"), np.random.default_rng(0), []
    for _ in range(6):
        molecule = acetylacetone()
        molecule.positions += generator.normal(0.0, 0.05, molecule.positions.shape)
        found = potential.predict(molecule)
        molecule.info["REF_energy"], molecule.arrays["REF_forces"] = found.energy, found.forces
        frames.append(molecule)
    for name in ("train_300K.xyz.gz", "train_600K.xyz.gz"):
        write(tmp_path / name, frames, format="extxyz")
    atoms = [Atoms(symbol, info={"REF_energy": -10.0}) for symbol in ("H", "C", "O")]
    write(tmp_path / "isolated_atoms.xyz", atoms, format="extxyz")
    run("07_mace_gaunt", monkeypatch, str(tmp_path / "out"), "--data", str(tmp_path), "--epochs", "1",
        "--channels", "4", "--tensor-product", "clebsch_gordan", "gaunt_full")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["tensor", "clebsch_gordan", "gaunt_full"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["clebsch_gordan", "gaunt_full"]


def test_as_a_script(tmp_path) -> None:
    """In a process of its own, with warnings as errors, without an output folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-W", "error", str(ROOT / "examples" / "02_relaxation.py")], check=False,
                          capture_output=True, text=True, timeout=300, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(list(tmp_path.glob("mlip-*/relaxed.xyz"))) == 1


def test_the_charges_of_the_mixed_examples() -> None:
    """They go by the atoms of `acetylacetone()`, add up to nothing, and are those of the molecules they come from."""
    from xml.etree import ElementTree

    app = pytest.importorskip("openmm.app")
    from mlip.simulation.openmm_engine import topology_of
    from mlip.simulation.quickstart import acetylacetone

    path = ROOT / "examples" / "acetylacetone.xml"
    topology = topology_of(acetylacetone(), bonds=True)
    system = app.ForceField("charmm36.xml", str(path)).createSystem(topology)
    force = next(f for f in system.getForces() if f.getName() == "NonbondedForce")
    charges = [force.getParticleParameters(i)[0]._value for i in range(system.getNumParticles())]
    assert sum(charges) == pytest.approx(0.0, abs=1e-12)

    def kinds(root: ElementTree.Element, name: str) -> set[tuple[str | None, float]]:
        atoms = root.findall(f"Residues/Residue[@name='{name}']/Atom")
        return {(atom.get("type"), float(atom.get("charge", "nan"))) for atom in atoms}

    shipped = ElementTree.parse(Path(app.__file__).parent / "data" / "charmm36.xml").getroot()
    ours = kinds(ElementTree.parse(path).getroot(), "ACA")
    enol = {("CG2DC1", 0.11)}  # the charge of phenol's carbon, the type of butenone's
    assert ("CG2R61", 0.11) in kinds(shipped, "PHEN")
    assert ours - enol < kinds(shipped, "BEON") | kinds(shipped, "PHEN") | kinds(shipped, "PRPE")
