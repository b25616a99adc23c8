"""The quickstart from end to end, on the bundled model."""

from __future__ import annotations

import dataclasses

import pytest
from ase.io import read

from mlip.errors import EngineMismatchError, OptionError
from mlip.simulation import run_openmm
from mlip.simulation.quickstart import acetylacetone, quickstart

pytest.importorskip("openmm")


def test_everything_is_there(tmp_path) -> None:
    folder = tmp_path / "new" / "folder"
    report = quickstart(folder, steps=20, progress=False)
    assert report.relaxation.converged
    names = sorted(p.name for p in folder.iterdir())
    endings = ("checkpoint.npz", "final.xyz", "log.csv", "topology.pdb", "xyz")
    runs = [f"{engine}.{ending}" for engine in ("ase", "openmm") for ending in endings]
    assert names == [*runs, "quickstart.png", "relaxed.xyz"]
    assert {p.name for p in report.files} == {n for n in names if n.count(".") == 1}
    picture = (folder / "quickstart.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000
    assert len(read(folder / "ase.xyz", ":")) == len(read(folder / "openmm.xyz", ":")) == 21
    relaxed = read(folder / "relaxed.xyz")
    assert relaxed.numbers.tolist() == acetylacetone().numbers.tolist()
    assert relaxed.get_potential_energy() == pytest.approx(report.relaxation.energy)

    lines = report.table().split("\n")
    assert len(lines) == 6
    assert lines[0].split() == ["ASE", "OpenMM", "difference"]
    for line, name in zip(lines[1:], ("energy at the start", "total-energy drift", "total-energy fluctuation",
                                      "mean temperature", "steps per second"), strict=True):
        assert line.startswith(name)
        first, second, difference = map(float, line.split()[-3:])
        if not name.startswith("steps"):
            assert second == pytest.approx(first, rel=1e-2, abs=1e-3)
            assert difference == pytest.approx(second - first, abs=2e-2)
    assert report.ase.potential[0] == pytest.approx(report.openmm.potential[0], abs=1e-5)


def test_engines_that_disagree(tmp_path, monkeypatch) -> None:
    def shifted(*arguments, **options):
        record = run_openmm(*arguments, **options)
        return dataclasses.replace(record, potential=record.potential + 1e-3)

    monkeypatch.setattr("mlip.simulation.quickstart.run_openmm", shifted)
    with pytest.raises(EngineMismatchError, match="disagree"):
        quickstart(tmp_path, steps=1, progress=False)


def test_bad_steps(tmp_path) -> None:
    with pytest.raises(OptionError, match="steps"):
        quickstart(tmp_path, steps=0, progress=False)
