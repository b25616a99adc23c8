"""What OpenMM adds to a model."""

from __future__ import annotations

import numpy as np
import pytest

from mlip.errors import OptionError

pytest.importorskip("openmm")

from mlip.bench.overhead import bench_openmm, lattice, table


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
