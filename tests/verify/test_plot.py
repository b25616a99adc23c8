"""Pictures: they are drawn from what there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlip.errors import OptionError
from mlip.training.evaluation import Evaluation
from mlip.verify.plot import plot_learning, plot_parity


def evaluation(stress: bool, count: int = 50) -> Evaluation:
    """Return an evaluation that has seen so many random numbers of each property."""
    found, rng = Evaluation(), np.random.default_rng(0)
    sums = {"energy": found.total.energy_per_atom, "forces": found.total.forces, "stress": found.total.stress}
    for name in sums if stress else ("energy", "forces"):
        label, error = rng.normal(size=count), rng.normal(0, 0.1, count)
        found.samples[name].add(label, label + error)
        sums[name].add(error)
    return found


def size_of(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


@pytest.mark.parametrize("count", [1, 50, 5000])
def test_parity(count: int, tmp_path: Path) -> None:
    for stress, panels in ((False, 2), (True, 3)):
        plot_parity(evaluation(stress, count), tmp_path / "parity.png", "a title")
        assert size_of(tmp_path / "parity.png") == (705 * panels, 960)


def test_learning(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("epoch,energy_rmse,energy_mae,valid_forces_rmse,seconds\n1,10.5,8.0,100.0,3\n2,5.0,,nan,3\n,,,,\n"
                   "3,0.5,0.3,20.0,3\n")
    plot_learning(log, tmp_path / "curve.png")
    assert size_of(tmp_path / "curve.png") == (1470, 585)


@pytest.mark.parametrize("text", ["", "epoch,energy_rmse\n", "epoch,seconds\n1,3\n", "energy_rmse\n1.0\n",
                                  "epoch,energy_rmse\n1,nan\n"])
def test_nothing_to_draw(text: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(OptionError, match="no errors to draw"):
        plot_learning(tmp_path / "log.csv", tmp_path / "curve.png")
    assert not (tmp_path / "curve.png").exists()
