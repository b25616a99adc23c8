"""Recipes and data that cannot be trained: each a typed error that names the problem, before the first step."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from mlip.checkpoints import ModelInfo
from mlip.errors import MissingDependencyError, MLIPError, OptionError
from mlip.graph.labelled import Labelled
from mlip.training import (
    DataConfig,
    Recipe,
    ReplayConfig,
    Stage,
    StartConfig,
    TrainingConfig,
    check,
    initial_potential,
    run,
)
from mlip.training.module import TrainingModule

Frames = list[Atoms]
Save = Callable[[str, Frames], Path]
Tables = Mapping[str, Any]

MACE: dict[str, Any] = {"channels": 4, "edge_lmax": 1, "hidden_lmax": 1, "correlation": 2, "radial_mlp": [8],
                        "num_bessel": 4, "cutoff": 3.5}
EQUIFORMER = {"family": "equiformer_v3", "channels": 4, "num_layers": 1, "lmax": 1, "mmax": 1, "num_heads": 1}
TRANSIP = {"family": "transip", "channels": 8, "num_layers": 1, "num_heads": 2}
E0 = {"H": -13.6, "O": -2013.8}
DATA = {"train": "train.xyz", "isolated_energies": E0}
OLD = {"model": "old.mlip"}
FAST = {"epochs": 1, "batch_size": 6}


def model(table: Tables) -> Tables:
    return {"data": DATA, "model": table, "training": FAST}


def training(table: Tables, kind: Tables = MACE) -> Tables:
    return {"data": DATA, "model": kind, "training": {**FAST, **table}}


def start(more: Tables, fields: Tables | None = None, **options: Any) -> Tables:
    """From the model beside the data."""
    return {"data": {"train": "train.xyz"}, "model": fields or {}, "start": {**OLD, **more},
            "training": {**FAST, **options}}


def replay(files: str | list[str], **options: Any) -> Tables:
    return {"replay": {"files": files, **options}}


def data(table: Tables, **options: Any) -> Tables:
    return {"data": {**DATA, **table}, "model": MACE, "training": {**FAST, **options}}


RECIPES: dict[str, tuple[Tables, str]] = {
    # tables
    "unknown table": ({**model(MACE), "modle": {}}, r"no table modle; known: data, model"),
    "no data": ({"model": MACE}, r"no table \[data\]: say which files"),
    "several tables of data": ({**model(MACE), "data": [DATA]}, r"\[data\] must be a table"),
    "a text for a table": ({**model(MACE), "training": "fast"}, r"\[training\] must be a table; 'fast'"),
    "a number for a card": ({**model(MACE), "card": 3}, r"\[card\] must be a table; 3"),
    "unknown card": ({**model(MACE), "card": {"author": "me"}}, r"\[card\] takes texts for name.*; author"),
    "card of numbers": ({**model(MACE), "card": {"name": 3}}, r"\[card\] takes texts .*; name"),
    # [model]
    "unknown family": (model({"family": "nequip"}), r"family 'nequip' is unknown; known: mace"),
    "family of another type": (model({"family": 3}), r"family 3 is unknown"),
    "option of another family": (model({**MACE, "lmax": 2}), r"unknown mace option\(s\) lmax; known"),
    "unknown size": (model({"family": "transip", "size": "XXL"}), r"size must be one of XS, S, M, L; 'XXL'"),
    "unknown precision": (model({**MACE, "dtype": "half"}), r"dtype 'half' is not supported"),
    "channels in words": (model({**MACE, "channels": "many"}), r"channels must be a whole number .*'many'"),
    "half a channel": (model({**MACE, "channels": 4.5}), r"channels must be a whole number .*4\.5"),
    "negative cutoff": (model({**MACE, "cutoff": -3.5}), r"cutoff must be a finite number of Angstrom above 0; -3\.5"),
    "cutoff of another type": (model({**MACE, "cutoff": True}), r"cutoff must be a positive number .*True"),
    "elements": (model({**MACE, "elements": ["H", "O"]}), r"elements"),
    "seed of the model": (model({**MACE, "seed": 3}), r"seed"),
    "energies in the model": (model({**MACE, "isolated": "isolated.xyz"}), r"isolated"),
    "a cutoff that reaches nothing": (model({**MACE, "cutoff": 0.4}), r"no atom .* within the cutoff of 0\.4 A"),
    "several heads": (model({**MACE, "heads": ["pbe", "scan"]}), r"pbe.*scan"),
    "direct in md mode": (model({**TRANSIP, "forces": "direct"}), r"direct"),
    # [training]
    "unknown option": (training({"epoch": 3}), r"\[training\] has no option epoch; known"),
    "epochs in words": (training({"epochs": "many"}), r"epochs must be a whole number from 1; 'many'"),
    "rate that is none": (training({"learning_rate": float("nan")}), r"learning_rate must be a number"),
    "unknown schedule": (training({"schedule": "step"}), r"schedule must be one of cosine"),
    "unknown loss": (training({"forces_loss": "rmse"}), r"forces_loss must be one of mse, mae, l2, huber"),
    "no weights": (training({"energy_weight": 0, "forces_weight": 0}), r"nothing would be learned"),
    "one stage": (training({"stages": {"epochs": 1}}), r"stages must be tables, \[\[training.stages\]\]"),
    "batches of a stage": (training({"stages": [{"batch_size": 2}]}), r"\[training.stages\] has no option batch_size"),
    "weights without a table": (training({"config_weights": 3.0}), r"config_weights must be numbers .*; 3\.0"),
    "weights of a group that is not there": (training({"config_weights": {"Elastc": 2.0}}),
                                             r"config_weights has Elastc, which .*there are: \(none\)"),
    "views of MACE": (training({"latent_weight": 1.0}), r"latent_weight .*mace know them: leave both at 0"),
    "torque of MACE": (training({"torque_weight": 1.0}), r"torque_weight .*mace know them"),
    "torque of direct forces": (training({"torque_weight": 1.0}, {**TRANSIP, "mode": "paper", "forces": "direct",
                                                                   "cutoff": 9.0}), r"torque_weight needs forces"),
    "noise for MACE": (training({"denoising": {}}), r"denoising is for .*equiformer_v3 .* for this mace"),
    "noise for derivatives": (training({"denoising": {}}, EQUIFORMER), r"denoising is for .* forces='direct'"),
    "noise without a table": (training({"denoising": True}), r"\[training.denoising\] must be a table; True"),
    "too much noise": (training({"denoising": {"std": 3.0}}), r"std must be a number above 0 and at most 0\.5; 3\.0"),
    "stress of molecules": (training({"stress_weight": 1.0}), r"stress is trained, but no training structure"),
    "stress in the second stage": (training({"stages": [{}, {"stress_weight": 1.0}]}), r"stress is trained, but no"),
    # [start]
    "no model to start from": (start({"model": "absent.mlip"}), r"no model named or file at 'absent\.mlip'"),
    "a start without a model": ({"data": DATA, "start": {"method": "naive"}}, r"start: model is missing"),
    "data for a model": (start({"model": "train.xyz"}), r"train\.xyz.* is no file"),
    "unknown method": (start({"method": "lora"}), r"method must be one of naive, frozen, adapters; 'lora'"),
    "another family": (start({}, {"family": "transip"}), r"family = 'transip' \(it has 'mace'\)"),
    "another cutoff": (start({}, {"cutoff": 5.0}), r"\[model\] asks .*cutoff = 5\.0 \(it has 3\.5\)"),
    "derivatives of MACE": (start({}, {"forces": "conservative"}), r"forces \(unknown to its family\)"),
    "precision of the start": (start({}, {"dtype": "half"}), r"dtype 'half' is not supported"),
    "adapters as large as matrices": (start({"method": "adapters", "rank": 64}), r"large enough for adapters of rank"),
    "unknown head": (start({"head": "scan"}), r"scan.*default|default.*scan"),
    "no room for replay": (start(replay("old.xyz"), batch_size=1), r"batch of 1 has no room .*batch_size = 2"),
    "no file to replay": (start(replay("absent.xyz")), r"there is no file .*absent\.xyz"),
    "elements to replay": (start(replay("copper.xyz")), r"Cu"),
    "labels to replay": (start(replay("far.xyz", labels="file")), r"labels = \"model\""),
    "replay without a table": (start({"replay": "old.xyz"}), r"must be a table, \[start.replay\] .*'old\.xyz'"),
    "options of data to replay": (start(replay("old.xyz", train="a.xyz")), r"\.replay: .*train; allowed are files"),
    "a file to replay twice": (start(replay(["old.xyz", "./old.xyz"])), r"\.replay: \./old\.xyz is given twice"),
    "units to replay": (start(replay("old.xyz", length_unit="Bohr")), r"of old\.xyz \(replay\) .*length_unit"),
    "replay of nothing": (start(replay([])), r"start\.replay: files is empty"),
    "only warm-up": (training({"warmup_steps": 500}), r"warmup_steps = 500 leave nothing of a stage of \d+ step"),
    # [data], as far as the data room's own tests do not see the whole run
    "no such file": (data({"train": "absent.xyz"}), r"there is no file .*absent\.xyz"),
    "no such file to validate": (data({"valid": "absent.xyz"}), r"there is no file .*absent\.xyz"),
    "a file twice": (data({"valid": "train.xyz"}), r"train\.xyz is given twice"),
    "unknown data option": (data({"tset": "far.xyz"}), r"data: unknown option\(s\) tset; allowed are train"),
    "forces under another name": (data({"forces_key": "dft_forces"}), r"no forces under dft_forces"),
    "an isolated atom too few": (data({"isolated_energies": {"H": -13.6}}), r"O .*missing|O have no energy"),
    "no file of isolated atoms": (data({"isolated_energies": None, "isolated": "absent.xyz"}), r"absent\.xyz"),
    "isolated atoms in Hartree": (data({"isolated_energies": {"H": -0.5, "O": -74.0}}), r"isolated atoms"),
    "elements in the validation": (data({"valid": "copper.xyz"}), r"copper\.xyz \(validation\) holds Cu"),
    "copies in the validation": (data({"valid": "copy.xyz"}), r"copy\.xyz \(validation\) is structure 4 of train\.xyz"),
    "copies in the test": (data({"test": "copy.xyz"}), r"copy\.xyz \(test\) is structure 4 of train\.xyz"),
    "Angstrom that are no nm": (data({"length_unit": "nm"}), r"no atom .* neighbour within the cutoff|length_unit"),
    "one structure": (data({"train": "copy.xyz"}), r"1 structure\(s\) to train on are too few"),
}


def third(change: Callable[[Atoms], Any]) -> Callable[[Frames], Any]:
    return lambda frames: change(frames[3])


def each(change: Callable[[Atoms], Any]) -> Callable[[Frames], Any]:
    return lambda frames: [change(atoms) for atoms in frames]


def scaled(name: str, factor: float) -> Callable[[Atoms], None]:
    def change(atoms: Atoms) -> None:
        place = atoms.info if name in atoms.info else atoms.arrays
        place[name] = place[name] * factor
    return change


def flat(atoms: Atoms) -> None:
    atoms.set_cell([[3, 0, 0], [6, 0, 0], [0, 0, 3]])
    atoms.pbc = True


SPOILT: dict[str, tuple[Callable[[Frames], Any], Tables, str]] = {
    "no forces": (third(lambda a: a.arrays.pop("REF_forces")), data({}), r"structure 3 of train.xyz .* no forces"),
    "NaN energy": (third(lambda a: a.info.update(REF_energy=np.nan)), data({}), r"structure 3 .*NaN"),
    "NaN force": (third(lambda a: a.arrays["REF_forces"].__setitem__(1, np.nan)), data({}), r"structure 3 .*NaN"),
    "a cell without volume": (third(flat), data({}), r"structure 3 .* dependent"),
    "two atoms in one place": (third(lambda a: a.positions.__setitem__(1, a.positions[2])), data({}), r"structure 3"),
    "a charge that MACE does not read": (third(lambda a: a.info.update(charge=1)), data({}), r"charge.*1"),
    "a spin that MACE does not read": (third(lambda a: a.info.update(spin=3)), data({}), r"3"),
    "forces 1e4 eV/A": (third(scaled("REF_forces", 1e4)), data({}), r"structure 3 .* force of \d+ eV/A"),
    "energies in kJ/mol": (each(scaled("REF_energy", 96.485)), data({}), r"isolated atoms is|energy_unit"),
    "energies in Hartree after a start": (each(scaled("REF_energy", 1 / 27.2)), start({}),
                                         r"between 12 pairs of close structures.* units that do not fit"),
    "positions in Bohr": (each(lambda a: a.set_positions(a.positions / 0.529177)), data({}), r"set length_unit"),
    "new elements": (third(lambda a: a.symbols.__setitem__(0, "S")), start({}), r"element\(s\) S; .*know them. Add"),
    "no structures": (lambda frames: frames.clear(), data({}), r"holds no structures|no file"),
}


@pytest.fixture(scope="session")
def origin(water: Callable[..., Frames], examples: list[Labelled], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data of several kinds and a model that fits some of them."""
    folder, copper = tmp_path_factory.mktemp("origin"), Atoms("Cu2", [[0, 0, 0], [0, 0, 2.3]])
    copper.info["REF_energy"] = -1.0
    copper.new_array("REF_forces", np.zeros((2, 3)))
    far = water(6, seed=2)
    each(lambda a: a.info.update(REF_energy=a.info["REF_energy"] + 9.0))(far)
    for name, frames in (("train", water()), ("copy", [water()[4][[0, 2, 1]]]), ("old", water(6, seed=1)), ("far", far),
                         ("copper", [copper])):
        write(folder / f"{name}.xyz", frames, format="extxyz", write_results=False)
    old = initial_potential("mace", examples, E0, **MACE)
    predicted = old.evaluate([e.structure for e in examples])
    old.model.add_shift(float(np.mean([(e.energy - p.energy) / 3 for e, p in zip(examples, predicted, strict=True)])))
    old.save(folder / "old.mlip")
    return folder


@pytest.fixture
def place(origin: Path, tmp_path: Path) -> Path:
    """The folder of the test, with those data and that model."""
    return Path(shutil.copytree(origin, tmp_path, dirs_exist_ok=True))


def refused(tables: Tables, place: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_step(*_: Any) -> None:
        pytest.fail("a step was taken")

    monkeypatch.setattr(TrainingModule, "training_step", no_step)
    monkeypatch.chdir(place.parent)
    with pytest.raises(MLIPError, match=f"(?s){text}") as caught:
        run(Recipe.from_dict(tables, place), place / "run", report=str)
    assert len(str(caught.value).splitlines()) == 1
    assert not [path for path in place.glob("run/*") if path.name not in ("frames", "replay")]


@pytest.mark.parametrize("case", RECIPES)
def test_recipes_that_are_refused(case: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables, text = RECIPES[case]
    refused(tables, place, text, monkeypatch)


@pytest.mark.parametrize("case", SPOILT)
def test_data_that_are_refused(case: str, place: Path, water: Callable[..., Frames], save: Save,
                               monkeypatch: pytest.MonkeyPatch) -> None:
    spoil, tables, text = SPOILT[case]
    frames = water()
    spoil(frames)
    save("train.xyz", frames)
    refused(tables, place, text, monkeypatch)


@pytest.mark.parametrize(("options", "text"), [
    ({"devices": 0}, r"devices must be a whole number from 1; 0"), ({"devices": -1}, r"devices must be .*-1"),
    ({"nodes": 0}, r"nodes must be a whole number from 1; 0"), ({"seeds": [3, 3]}, r"must differ; \[3, 3\] were"),
    ({"seeds": [-1]}, r"seed must be a whole number from 0; -1")])
def test_runs_that_are_refused(options: dict[str, Any], text: str, place: Path) -> None:
    with pytest.raises(OptionError, match=text):
        run(Recipe.from_dict(data({}), place), place / "run", report=str, **options)
    assert not list(place.glob("run/**/best.mlip"))


@pytest.mark.parametrize(("content", "text"), [
    (b"[data\ntrain = 3", r"recipe\.toml is not TOML"), (b"\xff\xfe", r"recipe\.toml is not TOML"),
    (b"[data]\ntrain = 'a'\ntrain = 'b'", r"is not TOML"), (b"", r"no table \[data\]"), (None, r"cannot read")])
def test_files_that_are_no_recipes(content: bytes | None, text: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "recipe.toml").write_bytes(content)
    with pytest.raises(OptionError, match=text):
        Recipe.read(tmp_path / "recipe.toml")
    with pytest.raises(OptionError, match=r"cannot read the recipe"):
        Recipe.read(tmp_path)


def test_a_recipe_as_it_is_written(tmp_path: Path) -> None:
    """What is not said has its default; stages inherit; paths start from the folder of the recipe."""
    (tmp_path / "recipe.toml").write_text("""
        [data]
        train = "a.xyz"
        [model]
        channels = 8
        [start]
        model = "old.mlip"

        [start.replay]
        files = ["b.xyz"]
        [training]
        batch_size = 3
        forces_weight = 7
        [[training.stages]]
        epochs = 2
        [[training.stages]]
        epochs = 1
        schedule = "constant"
        [card]
        licence = "MIT"
        """)
    recipe = Recipe.read(tmp_path / "recipe.toml")
    begin = StartConfig("old.mlip", replay=ReplayConfig(files=("b.xyz",)))
    assert recipe == Recipe(DataConfig(train=("a.xyz",)), {"channels": 8}, begin, TrainingConfig(
        batch_size=3, forces_weight=7, stages=(Stage(epochs=2, forces_weight=7), Stage(
            epochs=1, forces_weight=7, schedule="constant"))), {"licence": "MIT"}, tmp_path)


def test_the_card(place: Path) -> None:
    """It says where the model comes from; a start keeps what the recipe does not say."""
    info = ModelInfo("mace", name="old", licence="MIT", citation="them", description="fine-tuned")
    tuned = Recipe.from_dict({**start({}), "card": {"name": "new"}}, place).info(info)
    assert (tuned.name, tuned.licence, tuned.citation, tuned.description) == ("new", "MIT", "them", "fine-tuned")
    fresh = Recipe.from_dict({**data({}), "card": {"licence": "GPL"}}, place).info(ModelInfo("mace", description="x"))
    assert (fresh.licence, fresh.description) == ("GPL", "")


def test_the_check_takes_no_step(place: Path) -> None:
    text = check(Recipe.from_dict(start(replay("old.xyz")), place), place / "run")
    assert "fine-tuned from old.mlip" in text
    assert sorted(path.name for path in (place / "run").iterdir()) == ["frames", "replay"]


def test_the_check_knows_who_is_trained_on(place: Path, water: Callable[..., Frames], save: Save) -> None:
    """A group that only validates has no weight."""
    for name, seed in (("learned", 3), ("seen", 4)):
        frames = water(6, seed=seed)
        for atoms in frames:
            atoms.info["config_type"] = name
        save(f"{name}.xyz", frames)
    tables = data({"train": "learned.xyz", "valid": "seen.xyz"}, config_weights={"seen": 2.0})
    for attempt in (check, run):
        with pytest.raises(OptionError, match="config_weights has seen"):
            attempt(Recipe.from_dict(tables, place), place / "run")


@pytest.mark.skipif(sys.version_info >= (3, 11), reason="Python reads TOML itself")
def test_without_tomli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tomli", None)
    (tmp_path / "recipe.toml").write_text("")
    with pytest.raises(MissingDependencyError, match=r"tomli.*train"):
        Recipe.read(tmp_path / "recipe.toml")
