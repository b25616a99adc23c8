"""Dispersion in dynamics: the same in both engines, in the barostat, and in what a run goes on from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read

import mlip
from mlip.checkpoints import Committee
from mlip.checkpoints.dispersion import Dispersion
from mlip.errors import CheckpointError, OptionError
from mlip.io.ase import structure_of
from mlip.simulation import Barostat, Plan, run_ase, run_openmm, with_velocities

pytest.importorskip("dftd3", reason="s-dftd3 is not installed: pip install \"mlip-md[d3]\"")
pytest.importorskip("openmm")
D3 = "d3bj:pbe"
ENGINES = {"ase": run_ase, "openmm": lambda *args, **options: run_openmm(*args, platform="Reference", **options)}


def energy_of(potential: mlip.Potential | Committee, atoms: Atoms) -> float:
    return float(potential.predict(atoms).energy) + Dispersion(D3)(structure_of(atoms)).energy


@pytest.mark.parametrize("kind", ["molecule", "cubic", "committee"])
def test_both_engines_take_the_same_path(binding, structures, kind) -> None:
    potential = binding
    if kind == "committee":
        other = mlip.create("mace", ["C", "Cu", "H", "O"], seed=1, channels=2, edge_lmax=1, correlation=1,
                            radial_mlp=(8,), cutoff=3.5, dtype="float64")
        potential = Committee([binding, other])
    start = with_velocities(structures["molecule" if kind == "committee" else kind], 300, seed=3)
    plan = Plan(steps=8, timestep=0.5, every=4)
    a, o = (run(start, potential, plan, dispersion=D3) for run in ENGINES.values())
    assert a.potential[0] == pytest.approx(energy_of(potential, start), abs=1e-9)
    np.testing.assert_allclose(o.potential, a.potential, atol=1e-7)
    np.testing.assert_allclose(o.final.get_momenta(), a.final.get_momenta(), atol=1e-6)
    without = run_ase(start, potential, plan)
    assert np.abs(a.final.get_momenta() - without.final.get_momenta()).max() > 1e-5


@pytest.mark.parametrize("engine", list(ENGINES))
def test_goes_on_at_constant_pressure(binding, moving_copper, tmp_path, monkeypatch, engine) -> None:
    """From a checkpoint to the files of a run that was never stopped; without dispersion it does not go on."""
    monkeypatch.setattr("mlip.simulation.restart.SECONDS", 0.0)
    for name in ("ase_engine", "openmm_engine"):
        monkeypatch.setattr(f"mlip.simulation.{name}.EVERY", 2)
    plan = Plan(steps=8, every=2, ensemble="npt", timestep=2.0, pressure=1e5)

    def run(name: str, dispersion: str | None = D3) -> mlip.simulation.Record:
        return ENGINES[engine](moving_copper, binding, plan, trajectory=tmp_path / name, resume=True,
                               dispersion=dispersion)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    whole = run("whole.xyz")
    for frame, energy in zip(read(tmp_path / "whole.xyz", ":"), whole.potential, strict=True):
        assert energy_of(binding, frame) == pytest.approx(energy, abs=1e-5)
    with monkeypatch.context() as patched:
        patched.setattr("mlip.simulation.record.Recorder.finish", stop)
        with pytest.raises(KeyboardInterrupt):
            run("killed.xyz")
    with pytest.raises(CheckpointError, match=r'dispersion \("d3bj:pbe" there, null now\)'):
        run("killed.xyz", None)
    assert run("killed.xyz").begun == 8
    for ending in ("xyz", "log.csv", "final.xyz"):
        whole_file, killed = (Path(tmp_path / f"{name}.{ending}") for name in ("whole", "killed"))
        assert whole_file.read_bytes() == killed.read_bytes()


def test_the_barostat_feels_it(binding, copper) -> None:
    """At 0 K and without pressure a change is accepted where it lowers the energy, and only there."""
    copper.set_cell(3.1 * copper.cell.array / copper.cell[0, 0], scale_atoms=True)
    barostat = Barostat(copper, binding, Plan(ensemble="npt", temperature=0.0, pressure=0.0), D3)
    positions, cell = copper.positions, copper.cell.array
    accepted = 0
    for _ in range(10):
        done = barostat.attempt(positions, cell)
        if done is not None:
            before, after = (Atoms("Cu4", r, cell=c, pbc=True) for r, c in ((positions, cell), done))
            assert energy_of(binding, after) < energy_of(binding, before)
            positions, cell = done
            accepted += 1
    assert 0 < accepted < 10


@pytest.mark.parametrize("engine", list(ENGINES))
def test_what_cannot_be(binding, moving_copper, tmp_path, engine) -> None:
    for method in ("pbe", "d3bj:nonsense"):
        with pytest.raises(OptionError, match="dispersion"):
            ENGINES[engine](moving_copper, binding, Plan(steps=1), trajectory=tmp_path / "run.xyz", dispersion=method)
    assert not list(tmp_path.iterdir())
