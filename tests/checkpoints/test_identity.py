"""The sha256 of a potential says what it was read from; conversions and copies on disk do not change that."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mlip
from mlip.checkpoints import format as file_format
from mlip.errors import ConfigError, OptionError, UnsupportedModelError


def small(seed: int = 0) -> mlip.Potential:
    return mlip.create("mace", ["H", "O"], seed=seed, channels=2, edge_lmax=1, correlation=1, radial_mlp=(4,))


def test_the_first_file_of_a_new_model_is_its_home(tmp_path: Path) -> None:
    potential = small()
    potential.save(tmp_path / "a.mlip")
    document, _ = file_format.read(tmp_path / "a.mlip")
    assert potential.info.sha256 == document["sha256"] == mlip.load(tmp_path / "a.mlip").info.sha256
    assert potential.path == tmp_path / "a.mlip"


def test_a_copy_of_a_loaded_model_does_not_move_it(tmp_path: Path) -> None:
    small().save(tmp_path / "a.mlip")
    potential = mlip.load(tmp_path / "a.mlip")
    before = potential.info.sha256
    potential.save(tmp_path / "b.mlip")
    assert (potential.path, potential.info.sha256) == (tmp_path / "a.mlip", before)


def test_precision_is_not_part_of_the_identity(tmp_path: Path) -> None:
    small().save(tmp_path / "a.mlip")
    single, double = mlip.load(tmp_path / "a.mlip"), mlip.load(tmp_path / "a.mlip", dtype="float64")
    assert single.dtype != double.dtype
    assert single.info.sha256 == double.info.sha256 == single.to(dtype="float64").info.sha256


def test_the_header_can_be_read_without_the_tensors(tmp_path: Path) -> None:
    potential = small()
    potential.model.atomic_energies.copy_(torch.tensor([[-13.5, -2041.25]]))
    potential.save(tmp_path / "a.mlip")
    summary = file_format.read(tmp_path / "a.mlip")[0]["summary"]
    assert summary == {"elements": ["H", "O"], "precision": "float32",
                       "isolated_energies": {"default": {"H": -13.5, "O": -2041.25}}}


def test_new_weights_leave_every_random_state_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(*args: object) -> None:
        raise AssertionError("the generators of the GPUs were seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", touched)
    before = torch.get_rng_state()
    small(3)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("seed", ["a", -1, 2**70, 0.5, None, True])
def test_seeds_that_are_none(seed: object) -> None:
    with pytest.raises(OptionError, match="seed"):
        mlip.create("mace", ["H"], seed=seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("elements", [None, 6, "HO"])
def test_elements_that_are_no_list(elements: object) -> None:
    with pytest.raises(ConfigError, match="list"):
        mlip.create("mace", elements)  # type: ignore[arg-type]


@pytest.mark.parametrize(("weights", "config"), [(None, {}), ({}, []), (3, None)])
def test_references_that_are_no_mappings(weights: object, config: object) -> None:
    from mlip.checkpoints import from_reference

    with pytest.raises(UnsupportedModelError, match="mappings"):
        from_reference("mace", weights, config)  # type: ignore[arg-type]


def test_an_index_beyond_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(OptionError, match="1 CUDA device"):
        small().to(device="cuda:5")
