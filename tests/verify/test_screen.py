"""`mlip screen` as a process, killed for real."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write

import mlip
from mlip.cli.main import main
from mlip.errors import WorkerError
from mlip.verify.screen import ScreenReport, verify_screen


@pytest.mark.slow
def test_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    potential = mlip.create("mace", ["Cu"], seed=0, channels=4, hidden_lmax=1, edge_lmax=2, correlation=2,
                            radial_mlp=(16,), pair_repulsion=True, cutoff=4.0, dtype="float64", avg_num_neighbors=4.0)
    model = str(potential.save(tmp_path / "small.mlip"))
    write(tmp_path / "copper.xyz", [bulk("Cu", "fcc", a=3.2 + 0.02 * i) for i in range(6)], format="extxyz")
    assert main(["verify", "screen", model, str(tmp_path / "copper.xyz"), "-p", "energy,eos", "--kills", "3", "-o",
                 str(tmp_path)]) == 0
    said = capsys.readouterr().out  # the last processes may end before they are killed
    assert re.search(r"18 results, killed [123] times: the same table, byte for byte; 0 computed twice", said), said
    with pytest.raises(WorkerError, match="mlip screen ended with 2: mlip screen: OptionError: there is no property"):
        verify_screen([tmp_path / "copper.xyz"], tmp_path, ["--model", model, "-p", "luck"])


def test_what_the_report_says() -> None:
    good, bad = ScreenReport(18, 3, 0, 6, (), 9.0), ScreenReport(18, 3, 1, 6, ("table.csv",), 9.0)
    assert good.passed
    assert not ScreenReport(18, 3, 1, 6, (), 9.0).passed
    assert not bad.passed
    assert "DIFFERENT: table.csv; 1 computed twice, at most 6 begun again after a kill (9 s)" in str(bad)
