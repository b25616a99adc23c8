"""Crystals that survive, and some that do not."""

from __future__ import annotations

import pytest

from mlip.errors import UnknownElementError
from mlip.screening.properties.stability import DYNAMICS, Settings, compute


def test_copper_survives(elements, relaxed) -> None:
    found = compute(relaxed("Cu"), elements, Settings(steps=100, supercell=6.0, friction=50.0))
    assert (found["intact"], found["reason"], found["supercell"], found["time"]) == (True, "", [3] * 3, 0.1)
    assert found["nearest_distance"] == pytest.approx(relaxed("Cu").cell.lengths()[0])
    assert 0.01 < found["rms_displacement"] < found["largest_displacement"] < 0.5
    assert 100 < found["mean_temperature"] < 500
    assert 0 < found["final_temperature"] < 1000


def test_lithium_melts(elements, relaxed) -> None:
    found = compute(relaxed("Li"), elements, Settings(temperature=1000, steps=400, timestep=2.0))
    assert not found["intact"]
    assert "has moved by" in found["reason"]
    assert found["largest_displacement"] > found["nearest_distance"] / 2


def test_dynamics_that_end_badly(elements, relaxed) -> None:
    found = compute(relaxed("Li"), elements, Settings(temperature=1e6, steps=50, timestep=5.0, supercell=5.0))
    assert not found["intact"]
    assert found["reason"].startswith(("CloseContactError: ", "TemperatureError: "))
    assert [found[name] for name in DYNAMICS] == [None] * len(DYNAMICS)


def test_momenta_are_left_behind(elements, relaxed) -> None:
    crystal = relaxed("Cu")
    settings = Settings(steps=10, supercell=4.0)
    one = compute(crystal, elements, settings)
    crystal.set_velocities([[1.0, 0, 0]])
    assert compute(crystal, elements, settings) == one


def test_a_foreign_element_is_no_answer(binding, relaxed) -> None:
    with pytest.raises(UnknownElementError):
        compute(relaxed("Li"), binding, Settings())
