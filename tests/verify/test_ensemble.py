"""Checks of ensembles: distributions that are known pass, wrong ones do not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

import mlip
from mlip.errors import OptionError
from mlip.simulation import Plan
from mlip.units import EV_A3_PER_BAR, KB_EV
from mlip.verify import ensemble
from mlip.verify.ensemble import verify_ensemble

pytest.importorskip("physical_validation")

CRYSTAL = bulk("Cu", cubic=True)
SAMPLES = 4000


def sampled(plan: Plan, folder: Path, wrong: float = 1.0) -> Path:
    """Write the log of oscillators in an ideal gas: 9 of each kind, four molecules; energies `wrong` times as large."""
    generator = np.random.default_rng(plan.seed)
    kt = KB_EV * plan.temperature
    kinetic, potential = generator.gamma(4.5, kt, (2, SAMPLES)) * wrong
    volume = generator.gamma(5, kt / (plan.pressure * EV_A3_PER_BAR), SAMPLES)
    path = folder / f"{plan.temperature}-{plan.pressure}.log.csv"
    rows = np.stack([np.arange(SAMPLES), potential, kinetic, potential + kinetic, volume], axis=1)
    np.savetxt(path, rows, delimiter=",", header="step,potential_ev,kinetic_ev,total_ev,volume_a3", comments="")
    return path


def checks_of(plan: Plan, folder: Path, wrong: float = 1.0) -> list[ensemble.EnsembleCheck]:
    validation = ensemble._validation()
    first = ensemble._data(validation, CRYSTAL, plan, sampled(plan, folder, wrong))
    found = ensemble._kinetic(validation, first, plan)
    for state in ensemble._neighbours(validation, first, plan):
        second = ensemble._data(validation, CRYSTAL, state, sampled(state, folder))
        found += ensemble._ratio(validation, first, second, plan, state)
    return found


@pytest.mark.parametrize("name", ["nvt", "npt"])
def test_known_distributions_pass(name, tmp_path) -> None:
    found = checks_of(Plan(ensemble=name, temperature=300, pressure=1000, seed=5), tmp_path)
    assert len(found) == {"nvt": 3, "npt": 4}[name]
    assert all(check.passed for check in found), ensemble.table(found)
    assert "ok" in ensemble.table(found)


def test_wrong_ones_do_not(tmp_path) -> None:
    found = checks_of(Plan(ensemble="nvt", temperature=300, seed=5), tmp_path, wrong=1.1)
    assert [check.passed for check in found] == [False, False, False]
    assert "FAILED" in ensemble.table(found)


@pytest.mark.parametrize("engine", ["ase", "openmm"])
def test_runs_are_made_and_kept(engine, tmp_path) -> None:
    if engine == "openmm":
        pytest.importorskip("openmm")
    potential = mlip.create("mace", ["Cu"], channels=2, edge_lmax=1, correlation=1, pair_repulsion=True, cutoff=3.0)
    plan = Plan(steps=300, ensemble="nvt", every=1, friction=200.0, timestep=5.0)
    found = verify_ensemble(CRYSTAL, potential, plan, tmp_path, engine=engine)
    assert len(found) == 5
    ends = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.checkpoint.npz")}
    assert len(ends) == 2
    assert verify_ensemble(CRYSTAL, potential, plan, tmp_path, engine=engine) == found
    assert ends == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.checkpoint.npz")}


def test_runs_that_are_too_short(tmp_path) -> None:
    plan = Plan(ensemble="nvt", temperature=300)
    validation = ensemble._validation()
    first = ensemble._data(validation, CRYSTAL, plan, sampled(plan, tmp_path))
    hot = dataclasses.replace(plan, temperature=1e6)
    second = ensemble._data(validation, CRYSTAL, hot, sampled(hot, tmp_path))
    with pytest.raises(OptionError, match=r"at 300 K and 1e\+06 K cannot be compared.*more steps"):
        ensemble._ratio(validation, first, second, plan, hot)


def test_what_cannot_be_checked(tmp_path) -> None:
    potential = mlip.create("mace", ["Cu"], channels=2)
    for plan, engine in ((Plan(), "ase"), (dataclasses.replace(Plan(), ensemble="nvt"), "gromacs")):
        with pytest.raises(OptionError, match="nvt and npt"):
            verify_ensemble(CRYSTAL, potential, plan, tmp_path, engine=engine)
