"""`mlip md` as a process, killed for real."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write

import mlip
from mlip.errors import WorkerError
from mlip.simulation.record import outputs_of
from mlip.verify.restart import RestartReport, different, verify_restart


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A model, a structure, and what to do with them; processes find this package."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    potential = mlip.create("mace", ["H", "C", "O", "Cu"], seed=0, channels=4, hidden_lmax=1, edge_lmax=2,
                            correlation=2, radial_mlp=(16,), pair_repulsion=True, cutoff=4.0, dtype="float64",
                            avg_num_neighbors=4.0)
    atoms = bulk("Cu", "fcc", a=3.35, cubic=True)
    atoms.positions += np.random.default_rng(1).normal(0.0, 0.05, (4, 3))
    write(tmp_path / "copper.xyz", atoms)
    return ["--model", str(potential.save(tmp_path / "small.mlip")), "--every", "3", "--timestep", "2"]


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "ensemble", "kills"), [("ase", "npt", 2), ("openmm", "nvt", 1)])
def test_kills(options, tmp_path, engine, ensemble, kills) -> None:
    """Each is a process that starts anew, which is what takes time."""
    pytest.importorskip("openmm")
    report = verify_restart(tmp_path / "copper.xyz", tmp_path, options, engine=engine, ensemble=ensemble, steps=400,
                            kills=kills)
    assert report.passed
    assert report.kills == kills
    assert f"{engine}-{ensemble}" in str(report)
    assert f"killed {kills} times: the same files" in str(report)
    assert (tmp_path / f"{engine}-{ensemble}-killed.dcd").stat().st_size > 15_000


def test_a_difference_is_seen(tmp_path) -> None:
    whole, killed = (outputs_of(tmp_path / f"{name}.dcd") for name in ("whole", "killed"))
    for path in (*whole, *killed):
        path.write_bytes(b"the same")
    assert different(whole, killed) == ()
    killed.checkpoint.unlink()  # not compared
    killed.trajectory.write_bytes(b"the sane")
    killed.final.unlink()
    assert different(whole, killed) == ("killed.dcd", "killed.final.xyz")
    report = RestartReport("ase-nvt", 3, 10, different(whole, killed), 1.0)
    assert not report.passed
    assert str(report).endswith("killed 3 times: DIFFERENT: killed.dcd, killed.final.xyz (1 s)")


def test_what_fails(options, tmp_path) -> None:
    with pytest.raises(WorkerError, match=r"mlip md ended with 2: mlip md: OptionError: steps"):
        verify_restart(tmp_path / "copper.xyz", tmp_path, options, steps=0)
