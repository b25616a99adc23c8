"""models and convert."""

from __future__ import annotations

import json

import pytest
from ase.build import molecule

import mlip


def test_list(run) -> None:
    code, out, err = run("models", "list")
    assert (code, err) == (0, "")
    lines = out.strip().split("\n")
    assert lines[0].split() == ["name", "family", "size", "where", "licence"]
    assert [line.split()[0] for line in lines if "bundled" in line] == sorted(mlip.checkpoints.bundled())
    assert lines[1].startswith("equiformer-v3-elements")
    assert any(line.startswith("mace-mp-0b3-medium") for line in lines)


def test_show(run, model) -> None:
    code, out, err = run("models", "show", model)
    assert (code, err) == (0, "")
    lines = [line.removeprefix("| ").removesuffix(" |") for line in out.split("\n") if line.startswith("| ")]
    shown = dict(line.split(" | ", 1) for line in lines if " | " in line)
    potential = mlip.load(model)
    assert shown["family"] == "mace"
    assert shown["elements"].split() == ["H", "C", "O", "Cu"]
    assert shown["precision"] == "float64"
    assert shown["sha256"] == potential.info.sha256
    assert int(shown["weights"]) == sum(p.numel() for p in potential.model.parameters())


def test_show_as_json(run, model) -> None:
    code, out, err = run("models", "show", model, "--json")
    assert (code, err) == (0, "")
    shown, potential = json.loads(out), mlip.load(model)
    assert shown["info"] == potential.info.to_dict()
    assert shown["model"]["elements"] == ["H", "C", "O", "Cu"]
    code, out, _ = run("models", "show", "mace-mp-0b3-medium", "--json")
    assert (code, json.loads(out)["licence"]) == (0, "MIT")


def test_show_bundled(run) -> None:
    code, out, _ = run("models", "show", "mace-acac")
    assert code == 0
    assert mlip.load("mace-acac").info.sha256 in out


def test_convert(run, model) -> None:
    code, out, err = run("convert", model, "mine.mlip", "--dtype", "float32", "--name", "mine", "--licence", "MIT",
                         "--citation", "me", "--training-data", "none", "--description", "random")
    assert (code, err) == (0, "")
    converted = mlip.load("mine.mlip")
    info = converted.info
    assert (info.name, info.licence, info.citation, info.training_data) == ("mine", "MIT", "me", "none")
    assert info.description == "random"
    assert info.sha256 in out
    assert str(converted.dtype) == "torch.float32"
    before = mlip.load(model).predict(molecule("CH3OH")).energy
    assert converted.predict(molecule("CH3OH")).energy == pytest.approx(before, abs=1e-4)


def test_convert_keeps_what_is_not_given(run) -> None:
    assert run("convert", "mace-acac", "copy.mlip", "--name", "copy")[0] == 0
    old, new = mlip.load("mace-acac").info, mlip.load("copy.mlip").info
    assert new.name == "copy"
    assert (new.family, new.licence, new.validation) == (old.family, old.licence, old.validation)
    assert new.sha256 != old.sha256
