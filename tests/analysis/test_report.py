"""The whole report: numbers of oscillators and gases, pictures of what there is, what readers are told."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import write

from mlip.analysis import analyze, report
from mlip.analysis.energies import read_log
from mlip.errors import DataError, MissingDependencyError, OptionError
from mlip.units import KB_EV

from .conftest import motion, walk, write_log

pytest.importorskip("mdtraj")


def oscillators(path: Path, frames: int = 2000, drift: float = 0.0) -> None:
    """Write 40 atoms on springs, of random phases, and a log; `drift` in meV/atom/ps."""
    rng, atoms, height = np.random.default_rng(0), 40, 0.04  # eV, of each of 3 springs
    time, phases = 0.01 * np.arange(frames), rng.uniform(0, 2 * np.pi, (atoms, 3))
    angle = 2 * np.pi * 5.0 * time[:, None, None] + phases
    run = motion([18] * atoms, rng.uniform(0, 20, (atoms, 3)) + 0.1 * np.cos(angle))
    potential = height * np.square(np.cos(angle)).sum(axis=(1, 2)) + 1e-3 * drift * atoms * time
    kinetic = height * np.square(np.sin(angle)).sum(axis=(1, 2))
    run.frames.save(str(path))
    run.frames[0].save(str(path.with_suffix(".topology.pdb")))
    write_log(path.with_suffix(".log.csv"), time, potential, kinetic, 2 * kinetic / (3 * atoms * KB_EV))


@pytest.mark.parametrize("drift", [0.0, 0.25])
def test_harmonic_oscillators(tmp_path: Path, drift: float) -> None:
    oscillators(tmp_path / "run.dcd", drift=drift)
    found = analyze(tmp_path / "run.dcd", temperature=300.0)
    numbers = json.loads(json.dumps(found.numbers()))
    energies = numbers["energies"]
    assert energies["source"] == "run.log.csv"
    assert energies["kinetic_ev"]["mean"] == pytest.approx(120 * 0.04 / 2, rel=1e-3)
    assert energies["total_ev"]["mean"] == pytest.approx(120 * 0.04 + 40e-3 * drift * 10.0, rel=1e-3)
    assert energies["drift_mev_per_atom_per_ps"]["slope"] == pytest.approx(drift, abs=1e-9)
    assert energies["degrees_of_freedom"] == 120
    assert energies["canonical_deviation_k"] == pytest.approx(300 * np.sqrt(2 / 120))
    assert numbers["length_ps"] == pytest.approx(19.99)
    assert found.motion.timed  # by the log
    line = next(line for line in found.table().splitlines() if line.startswith("drift of the total energy"))
    assert float(line.split("(")[1].split()[0]) == pytest.approx(1e3 * drift, abs=1e-6)
    assert line.endswith("meV/atom/ns)")
    assert "120 degrees of freedom at 300 K" in found.table()
    assert "a thermostat does not conserve" in found.table()
    assert "thermostat" not in analyze(tmp_path / "run.dcd").table()


def test_drift_with_noise_has_the_right_error(tmp_path: Path) -> None:
    path, rng, time = tmp_path / "run.log.csv", np.random.default_rng(0), np.arange(400) * 0.1
    write(tmp_path / "run.xyz", [Atoms("Ar", positions=[[0, 0, 0]])] * 400, format="extxyz")
    pulls = []
    for _ in range(10):
        noise = rng.normal(0, 0.01, 400)
        write_log(path, time, 1.0 + 0.002 * time + noise, np.full(400, 0.1), np.full(400, 300.0))
        slope = analyze(tmp_path / "run.xyz").energies.drift(1)
        pulls.append((slope.slope - 2.0) / slope.error)
    assert np.abs(pulls).mean() == pytest.approx(0.8, abs=0.5)


def test_a_gas_at_constant_pressure(tmp_path: Path) -> None:
    """A skewed box that breathes: density, structure and diffusion, from DCD with a log."""
    path, step, interval, rng = tmp_path / "gas.dcd", 0.25, 0.5, np.random.default_rng(0)
    cell = np.array([[18.0, 0.0, 0.0], [6.0, 17.0, 0.0], [-4.0, 5.0, 16.0]])
    scale = 1 + 0.003 * rng.normal(size=500)
    cells = cell * scale[:, None, None]
    fractions = walk(500, 100, step) @ np.linalg.inv(cell) + rng.uniform(0, 1, (100, 3))
    positions = np.einsum("fni,fij->fnj", fractions - np.floor(fractions), cells)
    run = motion([18] * 100, positions, cells)
    run.frames.save(str(path))
    run.frames[0].save(str(path.with_suffix(".topology.pdb")))
    volume, flat = np.linalg.det(cells), np.full(500, 1.0)
    write_log(path.with_suffix(".log.csv"), interval * np.arange(500), flat, flat, 300 * flat, volume)
    found, picture = report(path)
    assert picture == tmp_path / "gas.report.png"
    assert found.box.changes
    assert found.numbers()["box"]["volume_a3"]["mean"] == pytest.approx(volume.mean())
    assert found.numbers()["box"]["density_g_cm3"]["mean"] == pytest.approx((100 / volume).mean())  # as logged
    (one,), (pair,) = found.displacements, found.pairs
    assert one.diffusion == pytest.approx(step**2 / (2 * interval) * 0.99, rel=0.1)
    assert np.average(pair.g, weights=pair.r**2) == pytest.approx(1.0, abs=0.03)
    assert any("unwrapping: no atom moved more than" in note for note in found.notes)


def test_energies_of_frames(argon: Path) -> None:
    """Without a log those of extended XYZ are taken, with density from mass and cell; with neither there are none."""
    assert analyze(argon).energies is None
    assert any("there is no log" in note for note in analyze(argon).notes)
    text = argon.read_text().splitlines(keepends=True)
    for k in range(1, len(text), 22):
        text[k] = f"{text[k].rstrip()} energy={-1 - k} kinetic=0.5 temperature=200.0\n"
    argon.write_text("".join(text))
    found = analyze(argon)
    assert found.energies.source == "frames"
    np.testing.assert_allclose(found.energies.time, 0.5 * np.arange(30))
    assert found.energies.potential[1] == -24
    assert found.box.density[0] == pytest.approx(20 * 39.95 / 0.602214076 / (12 * 11 * 13), rel=1e-3)
    write_log(argon.with_suffix(".log.csv"), 0.5 * np.arange(30), *[np.full(30, 7.0)] * 3)
    assert analyze(argon).energies.potential[1] == 7.0


def test_times_that_nobody_knows(tmp_path: Path) -> None:
    run = motion([18] * 10, walk(80, 10, 0.3) % 9.0, np.diag([9.0] * 3))
    run.frames.save(str(tmp_path / "a.dcd"))
    run.frames[0].save(str(tmp_path / "a.topology.pdb"))
    unknown = analyze(tmp_path / "a.dcd")
    assert unknown.numbers()["length_ps"] is None
    assert unknown.displacements[0].diffusion is None
    assert any("give their interval" in note for note in unknown.notes)
    known = analyze(tmp_path / "a.dcd", interval=0.5)
    assert known.displacements[0].diffusion == pytest.approx(0.09 * 0.9, rel=0.5)
    with pytest.raises(OptionError, match="interval must be a number above 0"):
        analyze(tmp_path / "a.dcd", interval=0.0)
    with pytest.raises(OptionError, match="temperature must be a number above 0"):
        analyze(tmp_path / "a.dcd", temperature=float("nan"))
    write_log(tmp_path / "a.log.csv", 0.5 * np.arange(81), *[np.ones(81)] * 3)
    by_log = analyze(tmp_path / "a.dcd")
    assert by_log.displacements[0].diffusion == known.displacements[0].diffusion
    assert any("81 rows and the trajectory 80 frames" in note for note in by_log.notes)
    with pytest.raises(OptionError, match="leave the interval out"):
        analyze(tmp_path / "a.dcd", interval=0.5)


@pytest.mark.parametrize("kind", ["one frame", "one atom", "molecule", "slab", "rigid"])
def test_every_kind_has_a_picture(tmp_path: Path, kind: str) -> None:
    butane, rng = molecule("trans-butane"), np.random.default_rng(0)
    frames = {"one frame": [butane], "one atom": [Atoms("Ar", positions=[[0, 0, k]]) for k in range(5)],
              "molecule": [butane.copy() for _ in range(60)], "rigid": [molecule("CH4")] * 60,
              "slab": [Atoms("C3", positions=rng.uniform(0, 5, (3, 3)), cell=[6, 6, 0], pbc=(1, 1, 0))] * 9}[kind]
    if kind == "molecule":
        for frame in frames:
            frame.rattle(0.03, rng=rng)
    write(tmp_path / "run.xyz", frames, format="extxyz")
    found, picture = report(tmp_path / "run.xyz", tmp_path / "picture.png")
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG")
    panels = bool(found.pairs) + bool(found.displacements) + (
        0 if found.conformation is None else 3 if found.conformation.torsions else 1)
    assert panels == {"one frame": 4, "one atom": 0, "molecule": 5, "slab": 2, "rigid": 3}[kind]
    assert int.from_bytes(data[20:24], "big") == round(3.4 * 120) * max(1, -(-panels // 3))
    assert json.dumps(found.numbers(), allow_nan=False)
    assert found.table().startswith("run.xyz: ")


def test_mdtraj_is_named_where_it_is_missing(argon: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mdtraj", None)
    with pytest.raises(MissingDependencyError, match="mdtraj"):
        analyze(argon)


def test_pictures_have_an_ending(argon: Path) -> None:
    with pytest.raises(OptionError, match=r"must end in \.png"):
        report(argon, argon.with_name("report.jpg"))


def test_logs_that_cannot_be_right(tmp_path: Path) -> None:
    path = tmp_path / "run.log.csv"
    write_log(path, [0.0, 1.0], [1.0, 2.0], [1.0, 2.0], [300.0, 300.0])
    whole = path.read_text()
    assert np.isnan(read_log(path)["volume_a3"]).all()
    path.write_text(whole + "2,2.0,1.")  # killed while it wrote
    assert read_log(path)["time_ps"].tolist() == [0.0, 1.0]
    for text, match in ((whole.replace("kinetic_ev", "other"), "no column kinetic_ev"), (whole + "2,2.0\n", "not made"),
                        ("", "no column time_ps"), (whole.splitlines()[0] + "\n", "has no rows"),
                        (whole.replace(",2.0,2.0,", ",nan,2.0,"), "potential_ev .* no number in row 2"),
                        (whole.replace(",2.0,2.0,", ",word,2.0,"), "potential_ev .* not made of numbers")):
        path.write_text(text)
        with pytest.raises(DataError, match=match):
            read_log(path)
