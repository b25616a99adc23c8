"""Whole runs of tiny models through `run`: what is trained, kept, told, and resumed."""

from __future__ import annotations

import csv
import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from mlip import Potential, load
from mlip.graph.labelled import Labelled
from mlip.training import Dataset, Recipe, errors, load_data, run
from mlip.training.module import Batches, TrainingModule

Frames = list[Atoms]
Save = Callable[[str, Frames], Path]
Tables = Mapping[str, Any]

MACE = {"channels": 4, "edge_lmax": 1, "hidden_lmax": 1, "correlation": 2, "radial_mlp": [8], "num_bessel": 4,
        "cutoff": 3.5, "dtype": "float64"}
EQUIFORMER = {"family": "equiformer_v3", "channels": 4, "num_layers": 1, "lmax": 2, "mmax": 1, "num_heads": 2,
              "attention_hidden": 4, "attention_alpha": 4, "attention_value": 4, "feed_forward_hidden": 8,
              "edge_channels": 8, "num_gaussians": 6, "cutoff": 3.5}
TRANSIP = {"family": "transip", "channels": 8, "num_layers": 1, "num_heads": 2, "num_gaussians": 6, "cutoff": 3.5}
DATA = {"train": "train.xyz", "isolated_energies": {"H": -13.6, "O": -2013.8}}
FAST = {"epochs": 2, "batch_size": 5, "learning_rate": 0.02, "ema_decay": 0.5}


@pytest.fixture
def place(water: Callable[..., Frames], save: Save, tmp_path: Path) -> Path:
    """A folder with twelve molecules, of which one is held out."""
    return save("train.xyz", water()).parent


@pytest.fixture
def old(place: Path) -> Path:
    """A model that was trained on them, to start from."""
    return Path(trained(place, "first", epochs=6).path or "").rename(place / "old.mlip")


def trained(place: Path, name: str, tables: Tables | None = None, **options: Any) -> Potential:
    """Run a recipe in the folder `name` and load the model."""
    return load(run(recipe(place, tables, **options), place / name, report=str)[0])


def recipe(place: Path, tables: Tables | None = None, **options: Any) -> Recipe:
    return Recipe.from_dict({"data": DATA, "model": MACE, "training": {**FAST, **options}, **(tables or {})}, place)


def started(more: Tables, fields: Tables | None = None, train: str = "train.xyz") -> Tables:
    return {"data": {"train": train}, "model": fields or {}, "start": {"model": "old.mlip", **more}}


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "log.csv").open() as file:
        return [{k: float(v) for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)
                if row["step"] != "0"]


def state(potential: Potential) -> dict[str, torch.Tensor]:
    return dict(potential.model.state_dict())


def changed(before: Potential, after: Potential) -> set[str]:
    """Return the names of the weights that differ."""
    ours, theirs = state(before), state(after)
    assert ours.keys() == theirs.keys()
    return {name for name in ours if not torch.equal(ours[name], theirs[name])}


def interrupted(steps: int, monkeypatch: pytest.MonkeyPatch, place: Path, name: str, tables: Tables | None,
                **options: Any) -> None:
    """Stop a run in the step after so many."""
    step, count = TrainingModule.training_step, itertools.count()

    def counted(module: TrainingModule, *batch: Any) -> torch.Tensor:
        if next(count) == steps:
            raise KeyboardInterrupt
        return step(module, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", counted)
        with pytest.raises(KeyboardInterrupt):
            run(recipe(place, tables, **options), place / name, report=str)


class TestCourse:
    """Losses, stages, schedules and rounds."""

    def test_stress_of_crystals(self, tmp_path: Path, save: Save, emt: Callable[[Atoms], Atoms]) -> None:
        rng, frames = np.random.default_rng(0), []
        for i in range(14):
            atoms = bulk("Cu", cubic=True)
            atoms.set_cell(atoms.cell * (0.98 + 0.02 * (i % 4)), scale_atoms=True)
            atoms.positions += rng.normal(0, 0.05, (4, 3))
            frames.append(emt(atoms))
        save("train.xyz", frames)
        tables = {"data": {"train": "train.xyz", "valid_fraction": 0.2}, "model": {**MACE, "hidden_lmax": 0}}
        found = trained(tmp_path, "run", tables, epochs=6, batch_size=3, learning_rate=0.05, stress_weight=1e6)
        log = rows(tmp_path / "run")
        assert log[-1]["stress_rmse"] < 0.3 * log[0]["stress_rmse"]
        validation = load_data(recipe(tmp_path, tables).data, tmp_path / "run", tmp_path).validation
        assert len(validation) == 3
        assert found.info.validation == errors(Dataset(validation, found)).to_dict()
        assert "stress_rmse_mev_per_angstrom3" in found.info.validation

    def test_two_stages(self, place: Path) -> None:
        """The second weighs energies more, and the best model is one of it."""
        stages = [{"epochs": 3}, {"epochs": 3, "energy_weight": 1e5, "forces_weight": 1.0, "learning_rate": 0.005}]
        found = trained(place, "run", stages=stages)
        log = rows(place / "run")
        assert [row["learning_rate"] > 0.005 for row in log] == [True, True, False, False, False, False]
        assert len(log) == 6
        best = min(log[3:], key=lambda row: 1e5 * row["energy_rmse"]**2 + row["forces_rmse"]**2)
        assert found.info.validation["energy_rmse_mev_per_atom"] == best["energy_rmse"]
        one = trained(place, "one", stages=[{"epochs": 3}, {"epochs": 3, "learning_rate": 0.005}])
        assert rows(place / "one")[:3] == log[:3]
        assert changed(one, found)

    @pytest.mark.parametrize("kind", ["mse", "mae", "l2", "huber"])
    def test_each_loss(self, kind: str, place: Path) -> None:
        trained(place, "run", epochs=8, energy_loss=kind, forces_loss=kind, energy_weight=10.0, forces_weight=10.0)
        log = rows(place / "run")
        assert log[-1]["forces_rmse"] < 0.9 * log[0]["forces_rmse"]

    def test_the_weights_decide(self, place: Path) -> None:
        """Energies alone, forces alone."""
        trained(place, "energy", epochs=8, forces_weight=1e-20)
        trained(place, "forces", epochs=8, energy_weight=0.0)
        energy, forces = rows(place / "energy")[-1], rows(place / "forces")[-1]
        assert energy["energy_rmse"] < forces["energy_rmse"]
        assert forces["forces_rmse"] < energy["forces_rmse"]

    def test_a_plateau_lowers_the_rate(self, place: Path) -> None:
        """With a rate too small to get anywhere, and weights that do not move."""
        trained(place, "run", schedule="plateau", learning_rate=1e-20, batch_size=11, epochs=9)
        rates = [row["learning_rate"] for row in rows(place / "run")]
        assert rates == pytest.approx([1e-20] * 7 + [0.8e-20] * 2)  # the first is better than nothing

    @pytest.mark.parametrize(("every", "steps"), [(0, [3, 6]), (2, [2, 4, 6]), (4, [4, 6]), (50, [6])])
    def test_rounds(self, every: int, steps: list[int], place: Path) -> None:
        """Eleven structures in batches of five are three steps an epoch; rounds change nothing but what is seen."""
        trained(place, "run", validate_every=every)
        log = rows(place / "run")
        assert [row["step"] for row in log] == steps
        assert [row["epoch"] for row in log] == pytest.approx([step / 3 for step in steps], abs=1e-5)
        trained(place, "epochs")
        assert {**log[-1], "loss": 0} == {**rows(place / "epochs")[-1], "loss": 0}  # a mean since the last row

    def test_a_committee_has_one_validation(self, place: Path) -> None:
        paths = run(recipe(place, epochs=1), place / "run", seeds=[3, 4], report=str)
        assert [path.parent.name for path in paths] == ["seed-3", "seed-4"]
        assert changed(load(paths[0]), load(paths[1]))
        assert state(load(paths[0]))["atomic_energies"].equal(state(load(paths[1]))["atomic_energies"])
        assert paths[0].read_bytes() == Path(trained(place, "alone", epochs=1, seed=3).path or "").read_bytes()

    def test_the_same_validation_as_data_say(self, place: Path, water: Callable[..., Frames], save: Save) -> None:
        """Nothing of the test set is seen."""
        save("test.xyz", water(5, seed=7))
        without = trained(place, "without")
        tested = trained(place, "with", {"data": {**DATA, "test": "test.xyz"}})
        assert not changed(without, tested)
        assert tested.info.validation == without.info.validation


class TestStart:
    """Runs that continue from a trained model."""

    def test_all_weights(self, old: Path, place: Path) -> None:
        before = load(old)
        found = trained(place, "run", started({}))
        assert changed(before, found) == {name for name, _ in before.model.named_parameters()}
        assert found.dtype == before.dtype
        assert rows(place / "run")[0]["forces_rmse"] < rows(place / "first")[0]["forces_rmse"]

    def test_the_head(self, old: Path, place: Path) -> None:
        before, head = load(old), set()
        found = trained(place, "run", started({"method": "frozen"}))
        for weight in before.model.head_parameters():
            head |= {name for name, other in before.model.named_parameters() if other is weight}
        assert changed(before, found) == head
        assert 0 < len(head) < len(state(before))

    def test_adapters(self, old: Path, place: Path) -> None:
        """The file is that of an ordinary model; what has no adapter is as it was."""
        before = load(old)
        found = trained(place, "run", started({"method": "adapters", "rank": 1}), epochs=6, learning_rate=1e-3)
        moved = changed(before, found)
        assert 0 < len(moved) < len(list(before.model.named_parameters()))
        assert all(np.linalg.matrix_rank((state(found)[k] - state(before)[k]).numpy(), tol=1e-10).max() == 1
                   for k in moved)
        kept = torch.load(place / "run" / "last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
        assert len(kept[0]["params"]) == 2 * len(moved)
        again = trained(place, "again", {**started({"model": "run/best.mlip"})})
        assert changed(found, again)

    def test_direct_training_then_derivatives(self, place: Path) -> None:
        """EquiformerV3 with noise, then its conservative model, which learns on."""
        direct = trained(place, "direct", {"model": {**EQUIFORMER, "forces": "direct", "denoising": True}}, epochs=4,
                         denoising={"probability": 0.5, "std": 0.05})
        assert not direct.model.conservative
        found = trained(place, "run", started({"model": "direct/best.mlip"}, {"forces": "conservative"}), epochs=5,
                        batch_size=2, energy_weight=10.0, learning_rate=0.005)
        assert found.model.conservative
        log = rows(place / "run")
        assert log[-1]["forces_rmse"] < 0.8 * log[0]["forces_rmse"]
        same = {name for name in state(found) if name in state(direct)} - set(dict(found.model.named_parameters()))
        assert all(torch.equal(state(found)[name], state(direct)[name]) for name in same)

    def test_relative_paths(self, old: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """They start from the folder of the recipe, as those of the data do; names are no paths."""
        (place / "elsewhere").mkdir()
        monkeypatch.chdir(place / "elsewhere")
        by_path = trained(place, "run", started({}))
        assert not changed(by_path, trained(place, "absolute", started({"model": str(old)})))


class TestReplay:
    @pytest.fixture
    def tables(self, old: Path, place: Path, water: Callable[..., Frames], save: Save) -> Tables:
        save("new.xyz", water(8, seed=5))
        wrong = water(6, seed=6)
        for atoms in wrong:
            atoms.info["REF_energy"] += 100.0  # which nobody must see
        save("replay.xyz", wrong)
        return started({"replay": {"files": "replay.xyz", "fraction": 0.4}}, train="new.xyz")

    def test_what_is_in_the_batches(self, tables: Tables, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[Any] = []
        batches = Batches.__iter__

        def watched(self: Batches) -> Any:
            for batch in batches(self):
                seen.append(batch)
                yield batch

        with monkeypatch.context() as patch:
            patch.setattr(Batches, "__iter__", watched)
            trained(place, "run", tables, epochs=3)
        data = load_data(recipe(place, tables).data, place / "run", place)
        new = {e.structure.positions.tobytes() for e in data.training}
        held = {e.structure.positions.tobytes() for e in data.validation}
        assert (len(seen), len(new), len(held)) == (9, 7, 1)
        base = load(place / "old.mlip")
        for epoch in (seen[:3], seen[3:6], seen[6:]):
            structures = [s for batch in epoch for s in batch.structures]
            drawn = Counter(s.positions.tobytes() for s in structures)
            assert {k for k, n in drawn.items() if n == 1} >= new
            assert not held & set(drawn)
            assert sum(n for k, n in drawn.items() if k not in new) == 3 * 2  # two fifths of each batch
        for batch in seen:
            forces = np.split(batch.forces.numpy(), len(batch.structures))
            for structure, energy, force in zip(batch.structures, batch.energy.tolist(), forces, strict=True):
                if structure.positions.tobytes() not in new:
                    prediction = base.evaluate([structure])[0]
                    assert energy == pytest.approx(prediction.energy, abs=1e-9)
                    assert np.abs(force - prediction.forces).max() < 1e-9

    def test_what_is_not_replayed(self, tables: Tables, place: Path, monkeypatch: pytest.MonkeyPatch, save: Save,
                                  water: Callable[..., Frames]) -> None:
        """What validates or tests, and what is to be left out."""
        tests = water(2, seed=8)
        save("test.xyz", tests)
        frames = [*water(8, seed=5), *tests, *water(5, seed=7)]  # of which one is held out
        save("replay.xyz", frames)
        asked = {**tables, "data": {**tables["data"], "test": "test.xyz"},
                 "start": {"model": "old.mlip", "replay": {"files": "replay.xyz", "leave_out": {"replay.xyz": [12]}}}}
        given: dict[str, Any] = {}

        def no_training(*_: Any, **options: Any) -> Path:
            given.update(options)
            return place / "none"

        monkeypatch.setattr("mlip.training.driver.train", no_training)
        run(recipe(place, asked), place / "run", report=str)
        held = load_data(recipe(place, asked).data, place / "run", place).validation
        assert len(held) == 1
        where = [np.round(positions, 5).tobytes() for positions in (
            held[0].structure.positions, *(a.positions for a in (*tests, frames[12], *frames)),
            *(e.structure.positions for e in given["replay"]))]
        out, all_of_them, replayed_ones = set(where[:4]), set(where[4:19]), set(where[19:])
        assert replayed_ones == all_of_them - out
        assert len(given["replay"]) == 15 - 4

    def test_it_is_remembered(self, tables: Tables, place: Path) -> None:
        """The model is nearer to itself on what was replayed than without replay."""
        base = load(place / "old.mlip")
        alone = {**tables, "start": {"model": "old.mlip"}}
        frames = [Atoms(e.structure.numbers, e.structure.positions) for e in replayed(place)]
        before = np.concatenate([base.predict(atoms).forces for atoms in frames])
        away = {}
        for name, what in (("with", tables), ("without", alone)):
            found = trained(place, name, what, epochs=6, learning_rate=0.05)
            away[name] = np.abs(np.concatenate([found.predict(atoms).forces for atoms in frames]) - before).mean()
        assert away["with"] < away["without"]


def replayed(place: Path) -> list[Labelled]:
    from mlip.io.dataset import read_labelled

    return read_labelled(place / "replay.xyz")


class TestResume:
    """A run that was interrupted ends as if it had not been, to the last bit."""

    def compare(self, stop: int, place: Path, monkeypatch: pytest.MonkeyPatch, tables: Tables | None = None,
                **options: Any) -> None:
        whole = trained(place, "whole", tables, **options)
        interrupted(stop, monkeypatch, place, "parts", tables, **options)
        assert len(rows(place / "parts")) < len(rows(place / "whole"))
        parts = trained(place, "parts", tables, **options)
        assert not changed(whole, parts)
        assert rows(place / "parts") == rows(place / "whole")
        assert (place / "parts" / "best.mlip").read_bytes() == (place / "whole" / "best.mlip").read_bytes()

    @pytest.mark.parametrize("stop", [5, 7, 10])
    def test_stages(self, stop: int, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """In the first stage, at its end, and in the second."""
        self.compare(stop, place, monkeypatch, stages=[
            {"epochs": 2, "energy_loss": "huber"}, {"epochs": 2, "energy_weight": 1e4, "warmup_steps": 2}])

    def test_a_plateau(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """After the rate was lowered, between validations."""
        self.compare(11, place, monkeypatch, schedule="plateau", learning_rate=0.5, batch_size=11, epochs=12)
        rates = [row["learning_rate"] for row in rows(place / "parts")]
        assert rates[0] > rates[10]

    def test_replay(self, old: Path, place: Path, monkeypatch: pytest.MonkeyPatch, water: Callable[..., Frames],
                    save: Save) -> None:
        save("replay.xyz", water(20, seed=6))
        self.compare(5, place, monkeypatch, started({"replay": {"files": "replay.xyz", "fraction": 0.4}}), epochs=3)

    def test_adapters(self, old: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.compare(4, place, monkeypatch, started({"method": "adapters", "rank": 1}), epochs=3)

    def test_noise(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.compare(4, place, monkeypatch, {"model": {**EQUIFORMER, "forces": "direct", "denoising": True}},
                     denoising={})

    def test_rotations(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.compare(4, place, monkeypatch, {"model": TRANSIP}, latent_weight=1.0, torque_weight=1.0)

    def test_repulsion(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.compare(4, place, monkeypatch, {}, repulsion_weight=1.0)

    def test_anew(self, place: Path) -> None:
        """Without its state a run begins again, and so does its log."""
        trained(place, "run")
        first, best = rows(place / "run"), (place / "run" / "best.mlip").read_bytes()
        (place / "run" / "last.ckpt").unlink()
        with (place / "run" / "log.csv").open("a") as file:
            file.write("cut\n")
        trained(place, "run")
        assert rows(place / "run") == first
        assert (place / "run" / "best.mlip").read_bytes() == best

    def test_a_row_that_was_cut(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        interrupted(4, monkeypatch, place, "run", None)
        with (place / "run" / "log.csv").open("a") as file:
            file.write("2")
        trained(place, "run")
        trained(place, "whole")
        assert rows(place / "run") == rows(place / "whole")


def test_torque_of_what_learns_rotations(place: Path) -> None:
    """A weight on it makes it smaller, and the card tells how far rotations change the model."""
    def turned(weight: float) -> float:
        found = trained(place, f"run-{weight:g}", {"model": TRANSIP}, epochs=8, torque_weight=weight)
        return found.info.validation["energy_rot_std_mev_per_atom"]

    assert 0 < turned(1000.0) < 0.4 * turned(0.0)
