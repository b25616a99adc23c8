"""Checkpoints in the layout of the published files, with golden weights: the whole way from the file to the numbers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import mlip
from mlip.checkpoints.fairchem import read_fairchem
from mlip.cli.main import main
from mlip.elements import SYMBOLS
from mlip.errors import UnknownElementError, UnsupportedModelError
from mlip.models.equiformer_v3.reference import is_constant

CASES = ("water", "equiformer_v3/cu4_l3m2", "equiformer_v3/nacl8_triclinic_l4m2",
         "equiformer_v3_direct/nacl8_direct_dens_l2m2")
PREFIXES = ("", "module.", "_orig_mod.module.")
RMSD = 0.8125  # of the targets in `fake_fairchem`
OFFSET = 0.25  # their mean energy


def _layout() -> ModuleType:
    path = Path(__file__).parents[1] / "checkpoints" / "fake_fairchem.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fake = _layout()


def references(golden: Any) -> list[float]:
    """Return reference energies of the elements of a structure, and of helium."""
    energies = [0.0] * 119
    for z in {2, *golden.structure.numbers.tolist()}:
        energies[z] = -1.5 * z
    return energies


def write(path: Path, golden: Any, **options: Any) -> Path:
    """Write golden weights as the published trainer would."""
    config = json.loads(str(golden["config_json"]))
    name = "equiformer_v3_dens" if config["direct_prediction"] else "equiformer_v3"
    return fake.save(path, golden.weights(), config={**config, "name": name},  # type: ignore[no-any-return]
                     references=references(golden), **options)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", CASES)
def test_from_the_file_to_the_numbers(name: str, prefix: str, published: Any, tmp_path: Path) -> None:
    golden = published(name)
    potential = mlip.load(write(tmp_path / "best.pt", golden, prefix=prefix))
    numbers = golden.structure.numbers
    (found,) = potential.evaluate([golden.structure])
    expected = RMSD * golden["out/energy"].item() + OFFSET - 1.5 * numbers.sum()
    assert found.energy == pytest.approx(expected, rel=0, abs=1e-12)
    np.testing.assert_allclose(found.forces, RMSD * golden["out/forces"], rtol=0, atol=1e-9)
    if found.stress is not None:
        np.testing.assert_allclose(found.stress, RMSD * golden["out/stress"], rtol=0, atol=1e-10)
    assert set(potential.elements) == {SYMBOLS[z] for z in {2, *numbers.tolist()}}


def test_elements_that_were_not_trained_are_refused(published: Any, tmp_path: Path) -> None:
    from ase.build import molecule

    potential = mlip.load(write(tmp_path / "best.pt", published("water")))
    with pytest.raises(UnknownElementError, match="C"):
        potential.predict(molecule("CH4"))


def test_averaged_weights_and_conversion(published: Any, tmp_path: Path) -> None:
    golden = published("water")
    average = [0.99 * tensor for key, tensor in golden.weights().items() if not is_constant(key)]
    source = write(tmp_path / "best.pt", golden, shadow=average)
    raw, smooth = mlip.load(source), mlip.load(source, weights="ema")
    assert torch.equal(smooth.model.embedding, 0.99 * raw.model.embedding)
    assert main(["convert", str(source), str(tmp_path / "mine.mlip"), "--weights", "ema"]) == 0
    (again,), (expected,) = (p.evaluate([golden.structure]) for p in (mlip.load(tmp_path / "mine.mlip"), smooth))
    assert again.energy == expected.energy
    np.testing.assert_array_equal(again.forces, expected.forces)
    assert abs(raw.evaluate([golden.structure])[0].energy - expected.energy) > 1e-3


def test_all_tensors_of_the_file_are_used(published: Any, tmp_path: Path) -> None:
    golden = published("water")
    weights = golden.weights()
    weights["blocks.0.extra.weight"] = torch.ones(3, dtype=torch.float64)
    config = {**json.loads(str(golden["config_json"])), "name": "equiformer_v3"}
    path = fake.save(tmp_path / "best.pt", weights, config=config)
    assert "blocks.0.extra.weight" in read_fairchem(path)[0]
    with pytest.raises(UnsupportedModelError, match=r"blocks\.0\.extra\.weight"):
        mlip.load(path)
