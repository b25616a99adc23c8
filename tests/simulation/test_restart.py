"""A run that is killed at any moment goes on as if nothing had happened."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

import mlip
from mlip.checkpoints import Committee
from mlip.errors import CheckpointError
from mlip.simulation import Plan, Record, StopRule, run_ase, run_openmm

pytest.importorskip("openmm")
EVENTS = {"open", "os.rename", "os.truncate", "os.remove"}  # of Python, before it touches a file
ENGINES: dict[str, Callable[..., Record]] = {
    "ase": run_ase, "openmm": lambda *args, **options: run_openmm(*args, platform="Reference", **options)}
_watched: list[tuple[Path, Path]] = []


def _copy(event: str, arguments: tuple[Any, ...]) -> None:
    """Copy a folder as a kill would leave it."""
    if event not in EVENTS or not _watched:
        return
    folder, target = _watched.pop()  # what is done here is not watched
    if str(arguments[0]).startswith(str(folder)):
        shutil.copytree(folder, target / f"{len(list(target.iterdir())):03}")
    _watched.append((folder, target))


@pytest.fixture(scope="session")
def _hook() -> None:
    """There is no way to remove it again."""
    sys.addaudithook(_copy)


@pytest.fixture
def killed(_hook: None, tmp_path: Path) -> Iterator[Callable[[Callable[[], object]], list[Path]]]:
    """A function that lets a run write to `tmp_path / "whole"`, and returns what a kill would have left at each
    moment."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()

    def watched(run: Callable[[], object]) -> list[Path]:
        _watched.append((tmp_path / "whole", tmp_path / "killed"))
        try:
            run()
        finally:
            _watched.clear()
        different = {tuple(files(folder).items()): folder for folder in sorted((tmp_path / "killed").iterdir())}
        return list(different.values())

    yield watched
    _watched.clear()


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints at each frame, a barostat that acts at each second step."""
    monkeypatch.setattr("mlip.simulation.restart.SECONDS", 0.0)
    for engine in ("ase_engine", "openmm_engine"):
        monkeypatch.setattr(f"mlip.simulation.{engine}.EVERY", 2)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def results(folder: Path) -> dict[str, Any]:
    """What must be equal: all files but the checkpoint; of HDF5, which holds dates, the numbers."""
    found: dict[str, Any] = {k: v for k, v in files(folder).items() if not k.endswith(".npz")}
    for name in [name for name in found if name.endswith(".h5")]:
        mdtraj = pytest.importorskip("mdtraj")
        frames = mdtraj.load(str(folder / name))
        found[name] = [a.tolist() for a in (frames.xyz, frames.time, frames.unitcell_vectors)]
    return found


CASES = [("ase", "nve", ".xyz"), ("ase", "nvt", ".dcd"), ("ase", "npt", ".h5"),
         ("openmm", "nve", ".xtc"), ("openmm", "nvt", ".xyz"), ("openmm", "npt", ".dcd")]


def needs(ending: str) -> None:
    for package in {".xtc": ["mdtraj"], ".h5": ["mdtraj", "tables"]}.get(ending, []):
        pytest.importorskip(package)


@pytest.mark.parametrize(("engine", "ensemble", "ending"), CASES)
def test_killed_at_any_moment(binding, moving_copper, tmp_path, killed, engine, ensemble, ending) -> None:
    needs(ending)
    plan = Plan(steps=7, ensemble=ensemble, every=2, temperature=300, friction=20.0, timestep=2.0)

    def run(folder: Path) -> Record:
        return ENGINES[engine](moving_copper, binding, plan, trajectory=folder / f"run{ending}", resume=True)

    whole = tmp_path / "whole"
    moments = killed(lambda: run(whole))
    assert len(moments) > 15
    expected, final, begun = results(whole), run(whole).final.positions, []
    assert set(expected) == {f"run{ending}", "run.topology.pdb", "run.final.xyz", "run.log.csv"}
    for folder in moments:
        record = run(folder)
        begun.append(record.begun)
        assert results(folder) == expected, folder
        assert len(record.time) == 4
        assert np.array_equal(record.final.positions, final)
    assert {0, 2, 4, 6} <= set(begun)
    assert begun == sorted(begun)


@pytest.mark.parametrize(("engine", "ensemble", "ending"), CASES)
def test_several_frames_after_the_checkpoint(binding, moving_copper, tmp_path, killed, engine, ensemble,
                                             ending) -> None:
    """Checkpoints are rarer than frames; a frame may be written in part."""
    needs(ending)
    plan = Plan(steps=7, ensemble=ensemble, every=1, temperature=300, friction=20.0, timestep=2.0)

    def run(folder: Path) -> Record:
        return ENGINES[engine](moving_copper, binding, plan, trajectory=folder / f"run{ending}", resume=True)

    whole = tmp_path / "whole"
    moments = [m for m in killed(lambda: run(whole)) if (m / "run.checkpoint.npz").exists()]
    first, last = moments[0], next(m for m in reversed(moments) if not (m / "run.final.xyz").exists())
    shutil.copy(first / "run.checkpoint.npz", last)
    growing = last / ("run.frames.dcd" if ending == ".h5" else f"run{ending}")
    growing.write_bytes(growing.read_bytes()[:-7])
    assert run(last).begun < 3
    assert results(last) == results(whole)


def test_a_finished_run(binding, moving_copper, tmp_path) -> None:
    path = tmp_path / "run.xyz"
    plan = Plan(steps=3, every=2)
    done = run_ase(moving_copper, binding, plan, trajectory=path)
    before = files(tmp_path)
    again = run_ase(moving_copper, binding, plan, trajectory=path, resume=True)
    assert files(tmp_path) == before
    assert (done.begun, again.begun) == (0, 3)
    for field in ("time", "potential", "kinetic", "temperature"):
        assert np.array_equal(getattr(again, field), getattr(done, field))
    assert np.array_equal(again.final.get_momenta(), done.final.get_momenta())
    path.unlink()
    with pytest.raises(CheckpointError, match=r"run\.xyz.*begin anew"):
        run_ase(moving_copper, binding, plan, trajectory=path, resume=True)
    assert run_ase(moving_copper, binding, plan, trajectory=path).begun == 0


def test_another_run_is_refused(binding, moving_copper, tmp_path) -> None:
    path, plan = tmp_path / "run.xyz", {"steps": 4, "every": 2}
    run_ase(moving_copper, binding, Plan(**plan), trajectory=path)
    before, cold = files(tmp_path), moving_copper.copy()
    cold.set_momenta(np.ones((4, 3)))
    charged = moving_copper.copy()
    charged.info["charge"] = 0
    for what, arguments in {
            r"seed \(0 there, 1 now\)": (run_ase, moving_copper, binding, Plan(seed=1, **plan)),
            r"pressure \(1\.0 there, 2\.0 now\)": (run_ase, moving_copper, binding, Plan(pressure=2.0, **plan)),
            r'engine \("ase" there, "openmm" now\)': (run_openmm, moving_copper, binding, Plan(**plan)),
            "start structure": (run_ase, cold, binding, Plan(**plan)),
            r'charge \(null there, "0" now\)': (run_ase, charged, binding, Plan(**plan)),
            "model options": (run_ase, moving_copper, binding.to(dtype="float32"), Plan(**plan))}.items():
        engine, atoms, potential, other = arguments
        with pytest.raises(CheckpointError, match=rf"run\.checkpoint\.npz belongs to another run.*{what}.*anew"):
            engine(atoms, potential, other, trajectory=path, resume=True)
        assert files(tmp_path) == before
    run_ase(moving_copper, binding, Plan(steps=2, every=2), trajectory=path)  # anew, as asked
    assert files(tmp_path)["run.xyz"] != before["run.xyz"]


def test_a_damaged_checkpoint(binding, moving_copper, tmp_path) -> None:
    path, plan = tmp_path / "run.xyz", Plan(steps=2, every=1, ensemble="nvt")
    run_ase(moving_copper, binding, plan, trajectory=path)
    checkpoint = tmp_path / "run.checkpoint.npz"
    good = checkpoint.read_bytes()
    for bad in (b"", b"nonsense", good[:-30], good[: len(good) // 2], good[:400] + b"\xff" + good[401:]):
        checkpoint.write_bytes(bad)
        with pytest.raises(CheckpointError, match=r"no checkpoint that can be read.*delete it to begin anew"):
            run_ase(moving_copper, binding, plan, trajectory=path, resume=True)
        assert checkpoint.read_bytes() == bad
    checkpoint.unlink()
    assert run_ase(moving_copper, binding, plan, trajectory=path, resume=True).begun == 0


@pytest.mark.parametrize("name", ["run.dcd", "run.log.csv"])
def test_files_that_are_shorter(binding, moving_copper, tmp_path, monkeypatch, name) -> None:
    """Going on would fill them up with zeros."""
    path, plan = tmp_path / "run.dcd", Plan(steps=4, every=1)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mlip.simulation.record.Recorder.finish", stop)
    with pytest.raises(KeyboardInterrupt):
        run_ase(moving_copper, binding, plan, trajectory=path)
    monkeypatch.undo()
    before = (tmp_path / name).read_bytes()
    for wrong in (before[:-1], None):
        (tmp_path / name).unlink()
        if wrong is not None:
            (tmp_path / name).write_bytes(wrong)
        with pytest.raises(CheckpointError, match=rf"not as it was.*{name}.*begin anew"):
            run_ase(moving_copper, binding, plan, trajectory=path, resume=True)
        (tmp_path / name).write_bytes(before)
    assert run_ase(moving_copper, binding, plan, trajectory=path, resume=True).begun == 4


def test_a_rule_goes_on(binding, moving_copper, tmp_path, killed) -> None:
    other = mlip.create("mace", ["H", "C", "O", "Cu"], seed=1, channels=2, edge_lmax=1, correlation=1,
                        radial_mlp=(8,), cutoff=3.5, dtype="float64")
    committee = Committee([binding, other])

    def run(folder: Path) -> StopRule:
        rule = StopRule(select_above=1e-6, selected=folder / "run.selected.xyz",
                        keep=(folder / "run.checkpoint.npz").exists())
        run_ase(moving_copper, committee, Plan(steps=6, every=2, timestep=4.0), trajectory=folder / "run.xyz",
                rule=rule, resume=True)
        return rule

    whole: list[StopRule] = []
    moments = killed(lambda: whole.append(run(tmp_path / "whole")))
    assert 1 < whole[0].kept < 7
    expected = results(tmp_path / "whole")
    for folder in moments:
        rule = run(folder)
        assert (rule.kept, rule.largest) == (whole[0].kept, whole[0].largest)
        assert results(folder) == expected, folder


def test_one_atom_goes_on(binding, tmp_path, killed) -> None:
    """No neighbours, no degrees of freedom left."""
    plan = Plan(steps=2, every=1, ensemble="nvt")
    moments = killed(lambda: run_ase(Atoms("C"), binding, plan, trajectory=tmp_path / "whole" / "run.xyz"))
    for folder in moments[-4:]:
        run_ase(Atoms("C"), binding, plan, trajectory=folder / "run.xyz", resume=True)
        assert results(folder) == results(tmp_path / "whole")
