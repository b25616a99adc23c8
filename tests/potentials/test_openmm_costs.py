"""A System with a model is small and quick to copy, and dynamics do not gather memory."""

from __future__ import annotations

import copy
import time

import numpy as np
import openmm
import pytest

import mlip
from mlip.bench.openmm_side import Engine
from mlip.bench.overhead import MODEL, lattice
from mlip.bench.sides import save_structure
from mlip.nn.workspace import WORKSPACE
from mlip.potentials import create_system


@pytest.mark.parametrize("channels", [2, 64])
def test_system_of_a_thousand_atoms(omm, channels) -> None:
    potential = mlip.create("mace", (1, 8), **{**MODEL, "channels": channels})
    system = create_system(omm.topology([8, 1, 1] * 333), potential)
    assert len(openmm.XmlSerializer.serialize(system)) < 100_000
    seconds = []
    for _ in range(5):
        start = time.process_time()
        copy.deepcopy(system)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.05


def test_buffers_do_not_gather(tmp_path) -> None:
    """The number of pairs changes at every step, and with it what is asked of the buffers."""
    save_structure(lattice(64), tmp_path / "atoms.npz")
    engine = Engine(mlip.create("mace", (8,), **MODEL), tmp_path / "atoms.npz")
    engine.run_blocks(20)
    before = len(WORKSPACE._free)
    engine.run_blocks(200)
    assert len(WORKSPACE._free) <= before


def test_parts_of_a_step(tmp_path) -> None:
    save_structure(lattice(64), tmp_path / "atoms.npz")
    found = Engine(mlip.create("mace", (8,), **MODEL), tmp_path / "atoms.npz").overhead(20)
    assert found["overhead"] > 0
    assert found["step"] == pytest.approx(found["model"] + found["overhead"], rel=0.3)  # medians of each
    assert np.isfinite(list(found.values())).all()
