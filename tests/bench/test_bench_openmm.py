"""What OpenMM adds to a model."""

from __future__ import annotations

import os
import subprocess

import numpy as np
import pytest

from mlip.bench.choices import MACEChoice, TrainedMACE
from mlip.bench.openmm_peers import bench_md, rate
from mlip.bench.openmm_peers import table as md_table
from mlip.bench.overhead import bench_openmm, lattice, table
from mlip.errors import OptionError

pytest.importorskip("openmm")
PYTHON = os.environ.get("MLIP_PEER_MACE_PYTHON")
needs_peer = pytest.mark.skipif(not PYTHON, reason="set MLIP_PEER_MACE_PYTHON to a Python that has mace-torch and "
                                "openmm-ml")


def test_costs_of_a_step() -> None:
    (row,) = bench_openmm((64,), steps=20, memory_steps=100)
    assert row["atoms"] == 64
    assert row["step"] > row["overhead"] > 0
    assert row["step"] > row["model"] > 0
    assert row["nothing"] < row["step"]
    assert 0 <= row["growth"] < 0.05
    assert 1_000 < row["xml"] < 100_000
    assert 0 < row["copy"] < 0.05
    assert "| 64 |" in table([row])


def test_lattice() -> None:
    box = lattice(1_000)
    assert len(box) == 1_000
    assert box.volume == pytest.approx(22.0**3)
    assert len(lattice(1)) == 8
    distances = np.linalg.norm(box.positions[1:] - box.positions[0], axis=1)
    assert distances.min() == pytest.approx(2.2)


def test_bad_numbers() -> None:
    with pytest.raises(OptionError, match="memory_steps"):
        bench_openmm((64,), memory_steps=0)


def test_dynamics_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLIP_PEER_MACE_PYTHON", raising=False)
    rows = bench_md(water=24, choice=MACEChoice(channels=2), steps=4, rounds=1, radials=("exact",))
    assert [(r["system"], r["atoms"], r["variant"]) for r in rows] == [("molecule", 15, "mlip"), ("water", 24, "mlip")]
    assert all(r["rate"] == rate(r["seconds"]) and r["ratio"] is None for r in rows)
    assert "was not timed" in md_table(rows)


def test_nanoseconds_a_day() -> None:
    assert rate(0.0432) == pytest.approx(1.0)  # two million steps of 0.5 fs


@needs_peer
@pytest.mark.peer
@pytest.mark.slow
def test_dynamics_beside_the_peer() -> None:
    """With trained weights carried over to mace-torch, and with random ones of its own."""
    if subprocess.run([str(PYTHON), "-c", "import openmm, openmmml"], capture_output=True).returncode:
        pytest.skip("the environment of mace-torch has no openmm and openmmml")
    rows = bench_md(water=24, choice=MACEChoice(channels=2), steps=4, rounds=1, radials=("exact",), peer=PYTHON)
    for row in rows:
        assert row["ratio"] == row["peer_seconds"] / row["seconds"]
        assert row["energy_difference"] < 1e-3
        assert row["force_difference"] < 1e-3


def test_only_what_mace_torch_has() -> None:
    assert TrainedMACE.of("mace-3bpa").elements == (1, 6, 7, 8)
    with pytest.raises(OptionError, match="transip"):
        TrainedMACE.of("transip-acac")
    with pytest.raises(OptionError, match="tensor_product="):
        TrainedMACE.of("gaunt-mace-acac")
