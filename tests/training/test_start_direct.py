"""Conservative models from direct ones: the same energy, and forces that are its derivatives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

import mlip
from mlip import Potential
from mlip.checkpoints import ModelInfo
from mlip.errors import OptionError
from mlip.graph.labelled import Labelled
from mlip.training import TrainingConfig, errors, initial_potential, split, train
from mlip.training.config import DenoisingConfig
from mlip.training.data import Dataset
from mlip.training.start_direct import conservative_from
from mlip.verify import checks

EQUIFORMER: dict[str, Any] = {"lmax": 2, "mmax": 1, "channels": 8, "num_layers": 1, "num_heads": 2,
                              "attention_hidden": 4, "attention_alpha": 4, "attention_value": 4,
                              "feed_forward_hidden": 8, "edge_channels": 8, "num_gaussians": 6, "cutoff": 4.0}
TRANSIP: dict[str, Any] = {"mode": "paper", "channels": 16, "num_layers": 2, "num_heads": 2, "num_gaussians": 6,
                           "cutoff": 9.0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "equiformer_v3": ("equiformer_v3", EQUIFORMER), "denoising": ("equiformer_v3", {**EQUIFORMER, "denoising": True}),
    "transip": ("transip", TRANSIP)}


@pytest.fixture(params=MODELS)
def direct(request: pytest.FixtureRequest) -> Potential:
    family, options = MODELS[request.param]
    found = mlip.create(family, ["H", "C", "O"], seed=3, dtype="float64", **options, forces="direct")
    model: Any = found.model
    for buffer, value in ((model.scale, 1.7), (model.shift, -0.3), (model.force_scale, 2.1)):
        buffer.fill_(value)
    model.atomic_energies.copy_(torch.tensor([[-13.0, -1000.0, -2000.0]]))
    return found


class TestConservativeFrom:
    def test_the_same_energy(self, direct: Potential) -> None:
        before = {k: v.clone() for k, v in direct.model.state_dict().items()}
        found, atoms = conservative_from(direct), molecule("CH3CH2OH")
        assert found.model.conservative
        assert not direct.model.conservative
        assert (found.dtype, found.backend) == (direct.dtype, direct.backend)
        here, there = found.predict(atoms), direct.predict(atoms)
        assert here.energy == pytest.approx(there.energy, rel=0, abs=1e-12)
        assert np.abs(here.forces - there.forces).max() > 1e-2
        assert checks.finite_difference_forces(found, atoms) < 1e-6
        ours = found.model.state_dict()
        assert all(value.equal(before[name]) for name, value in ours.items())
        gone = {name.split(".")[0] for name in set(before) - set(ours)}
        assert gone <= {"forces", "force_scale", "stress", "stress_scale", "denoise", "force_embedding"}
        assert {"forces", "force_scale"} <= gone
        after = direct.model.state_dict()
        assert all(value.equal(after[name]) for name, value in before.items())
        next(iter(found.model.parameters())).zero_()
        assert direct.predict(atoms).energy == there.energy

    def test_as_it_is_used(self, direct: Potential) -> None:
        twin = direct.to(dtype="float32", backend="reference", rotational_average="T")
        torch.manual_seed(7)
        drawn = torch.rand(1)
        torch.manual_seed(7)
        found = conservative_from(twin)
        assert torch.rand(1).equal(drawn)
        assert (found.dtype, found.backend, found.rotational_average) == (torch.float32, "reference", "none")

    def test_where_it_comes_from(self, direct: Potential, tmp_path: Path) -> None:
        info = ModelInfo(direct.info.family, name="big", licence="MIT", citation="them", training_data="theirs",
                         validation={"forces_mae_mev_per_angstrom": 1.0})
        found = conservative_from(Potential(direct.model, info))
        assert (found.info.licence, found.info.citation, found.info.training_data) == ("MIT", "them", "theirs")
        assert (found.info.name, found.info.validation) == ("", {})
        assert found.info.description == "the energy of big with direct forces, before further training"
        back = mlip.load(found.save(tmp_path / "start.mlip"))
        assert back.model.conservative
        assert back.predict(Atoms("CO", [[0, 0, 0], [0, 0, 1.2]])).energy == found.predict(
            Atoms("CO", [[0, 0, 0], [0, 0, 1.2]])).energy

    def test_nothing_to_do(self) -> None:
        with pytest.raises(OptionError, match="family mace is conservative already"):
            conservative_from(mlip.create("mace", ["H"], channels=4))


@pytest.mark.parametrize("name", ["denoising", "transip"])
def test_pre_training_then_fine_tuning(name: str, examples: list[Labelled], tmp_path: Path) -> None:
    """Direct, with noised structures where there is denoising; the conservative model then begins ahead and learns."""
    family, options = MODELS[name]
    start = initial_potential(family, examples, {"H": -13.6, "O": -2013.8}, seed=1, **options, forces="direct")
    noise = DenoisingConfig() if name == "denoising" else None
    config = TrainingConfig(epochs=12, learning_rate=0.01, ema_decay=0.5, energy_weight=100.0, denoising=noise)
    trained = mlip.load(train(start, *split(examples, 0.1, 0), tmp_path / "direct", config))
    assert not trained.model.conservative
    tuned = conservative_from(trained)
    again = train(tuned, *split(examples, 0.1, 0), tmp_path / "tuned", replace(config, denoising=None))
    untrained, pre_trained, best = (errors(Dataset(examples, p)) for p in (
        conservative_from(start), tuned, mlip.load(again)))
    assert pre_trained.energy_rmse < 0.9 * untrained.energy_rmse
    assert best.forces_rmse < 0.95 * min(untrained.forces_rmse, pre_trained.forces_rmse)
