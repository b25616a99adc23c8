"""EquiformerV3 checkpoints through `mlip.load` and `mlip convert`. A stand-in replaces the change of layout."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import torch
from ase.build import molecule
from torch import Tensor

import mlip
from mlip.checkpoints import catalogue, download
from mlip.checkpoints.catalogue import sha256_of
from mlip.checkpoints.fairchem import is_fairchem, read_fairchem
from mlip.cli.main import main
from mlip.errors import ModelFileError, OptionError, UnsupportedModelError
from mlip.models import families

if TYPE_CHECKING:
    from tests.checkpoints.conftest import Server


def _neighbour(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fake, fake_mace = _neighbour("fake_fairchem"), _neighbour("fake_mace")
Given = list[tuple[dict[str, Tensor], dict[str, Any]]]


@pytest.fixture
def given(mace: mlip.Potential, monkeypatch: pytest.MonkeyPatch) -> Given:
    """What the converter of EquiformerV3 was given; its stand-in makes a small MACE of the same precision.

    The mean of the first tensor becomes a weight of the MACE, so that other weights give another potential.
    """
    calls: Given = []

    def convert(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> tuple[Any, dict[str, Tensor]]:
        calls.append((dict(state), dict(config)))
        first = state["sphere_embedding.weight"]
        weights = {k: v.to(first.dtype) if v.is_floating_point() and k != "atomic_energies" else v.clone()
                   for k, v in mace.model.state_dict().items()}
        weights["atomic_energies"][..., 0] = first.double().mean()
        return mace.model.config, weights

    module = ModuleType("stand_in_for_equiformer_v3")
    module.convert = convert  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(families.REFERENCES, "equiformer_v3", module.__name__)
    return calls


def _same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return list(found) == list(expected) and all(
        found[k].dtype == v.dtype and torch.equal(found[k], v) for k, v in expected.items())


@pytest.mark.parametrize("name", ["best_checkpoint.pt", "a.model", "weights", "a.pth"])
def test_any_name(name: str, given: Given, tmp_path: Path) -> None:
    path = fake.save(tmp_path / name)
    potential = mlip.load(path)
    ((state, config),) = given
    expected, settings = read_fairchem(path)
    assert _same(state, expected)
    assert config == settings
    assert potential.path == path.resolve()
    assert potential.info.sha256 == sha256_of(path)
    assert potential.info.family == "mace", "that of the stand-in"
    assert potential.info.name == path.stem
    assert name in potential.info.description
    assert potential.dtype == torch.float32


def test_the_weights_of_the_last_step_are_the_default(given: Given, tmp_path: Path) -> None:
    path = fake.save(tmp_path / "a.pt")
    assert mlip.load(path, weights="state_dict").info == mlip.load(path).info
    assert _same(given[0][0], given[1][0])


def test_averaged_weights_are_another_potential(given: Given, tmp_path: Path) -> None:
    path = fake.save(tmp_path / "a.pt")
    last, average = mlip.load(path), mlip.load(path, weights="ema")
    assert _same(given[1][0], read_fairchem(path, "ema")[0])
    assert average.path is None, "loading the file again would give other weights"
    assert average.info.sha256 != last.info.sha256
    assert "averaged weights" in average.info.description
    saved = average.save(tmp_path / "a.mlip")
    assert mlip.load(saved).predict(molecule("CH4")).energy == average.predict(molecule("CH4")).energy
    assert abs(average.predict(molecule("CH4")).energy - last.predict(molecule("CH4")).energy) > 0.1


def test_float64_before_the_change_of_layout(given: Given, tmp_path: Path) -> None:
    potential = mlip.load(fake.save(tmp_path / "a.pt"), dtype="float64")
    assert potential.dtype == torch.float64
    assert {v.dtype for v in given[0][0].values()} == {torch.float64, torch.int64}


@pytest.mark.parametrize("weights", ["state_dict", "ema", "nonsense"])
def test_other_files_hold_one_set(weights: str, tmp_path: Path) -> None:
    own = mlip.load("mace-acac").save(tmp_path / "own.mlip")
    foreign = fake_mace.save(tmp_path / "foreign.model")
    for path in (own, foreign):
        with pytest.raises(OptionError, match=rf"{path.name} holds one set of weights.*leave it out"):
            mlip.load(path, weights=weights)
    assert not is_fairchem(own)
    assert not is_fairchem(foreign)


def test_unknown_weights(given: Given, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="state_dict, ema"):
        mlip.load(fake.save(tmp_path / "a.pt"), weights="raw")
    assert given == []


def test_other_models_are_refused_by_name(given: Given, tmp_path: Path) -> None:
    path = fake.save(tmp_path / "a.pt", config={**fake.CONFIG, "name": "equiformer_v2"})
    with pytest.raises(UnsupportedModelError, match=r"a\.pt: the model is 'equiformer_v2' \(EquiformerV2\)"):
        mlip.load(path)


def test_checkpoints_of_others_are_not_taken_for_fairchem(tmp_path: Path) -> None:
    torch.save({"model": fake.state_dict(), "optimizer": {}, "ema": {}}, tmp_path / "mace.pt")
    torch.save({"state_dict": fake.state_dict(), "hyper_parameters": {}}, tmp_path / "lightning.pt")
    for name in ("mace.pt", "lightning.pt"):
        assert not is_fairchem(tmp_path / name)
        with pytest.raises(UnsupportedModelError, match="checkpoint of a training run"):
            mlip.load(tmp_path / name)


@pytest.mark.parametrize("weights", [None, "state_dict", "ema"])
def test_convert(weights: str | None, given: Given, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = fake.save(tmp_path / "a.pt"), tmp_path / "mine.mlip"
    choice = [] if weights is None else ["--weights", weights]
    assert main(["convert", str(source), str(target), *choice, "--licence", "MIT"]) == 0
    info = mlip.load(target).info
    assert info.licence == "MIT"
    assert info.sha256 in capsys.readouterr().out
    assert _same(given[0][0], read_fairchem(source, weights or "state_dict")[0])


def test_convert_refuses_a_choice_where_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "mace-acac", str(tmp_path / "a.mlip"), "--weights", "ema"]) == 2
    assert "holds one set of weights" in capsys.readouterr().err
    assert not (tmp_path / "a.mlip").exists()


# ---- by name

NAMES = ("equiformer-v3-mptrj", "equiformer-v3-omat24-direct", "equiformer-v3-omat24", "equiformer-v3-oam")


def test_catalogue() -> None:
    table = catalogue.entries()
    found = [entry for entry in table.values() if entry.family == "equiformer_v3"]
    assert tuple(entry.name for entry in found) == NAMES
    assert len({entry.url for entry in found}) == len(NAMES)
    for entry in found:
        assert entry.url.startswith("https://huggingface.co/mirror-physics/equiformer_v3/resolve/main/checkpoint/")
        assert entry.licence == "MIT"
        assert "arXiv:2604.09130" in entry.citation
        assert entry.sha256 is entry.size is None, "nobody published them"
        assert download.target_path(entry).suffix == ".pt"
        assert entry.info().family == "equiformer_v3"


def test_load_by_name(given: Given, server: Server, model_cache: Path, tmp_path: Path,
                      monkeypatch: pytest.MonkeyPatch) -> None:
    """The released files, with a small one in their place: fetched once, recorded, and checked at every use."""
    server.data = fake.save(tmp_path / "a.pt").read_bytes()
    server.set("/mptrj_gradient.pt", server.data)
    entry = catalogue.entries()["equiformer-v3-mptrj"]
    local = catalogue.Entry(**{**vars(entry), "url": server.url("/mptrj_gradient.pt")})
    monkeypatch.setattr(catalogue, "_read", lambda: {entry.name: local})
    monkeypatch.setattr(download, "check_url", lambda url, local_http: None)
    for _ in range(2):
        potential = mlip.load(entry.name)
        assert (potential.info.name, potential.info.licence) == (entry.name, "MIT")
        assert potential.info.sha256 == sha256_of(tmp_path / "a.pt") == download.recorded(local)
    assert mlip.load(entry.name, weights="ema").info.training_data == "MPtrj"
    assert server.requests == 1
    path = model_cache / "models" / "equiformer-v3-mptrj.pt"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ModelFileError, match="the recorded one is"):
        mlip.load(entry.name)
