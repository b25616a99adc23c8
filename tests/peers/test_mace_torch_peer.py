"""Models that mace-torch made and saved, loaded and evaluated here, against mace-torch itself.

Set MLIP_PEER_MACE_PYTHON to a Python that has mace-torch, e.g. of `python -m venv /tmp/mace && /tmp/mace/bin/pip
install mace-torch`.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

import mlip
from mlip.checkpoints.mace_torch import read_mace_torch

pytestmark = [pytest.mark.peer, pytest.mark.slow]

NAMES = ("residual", "plain_zbl", "density", "heads", "degree2", "layers3", "layer1", "correlation4", "single", "old")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, structures and results, made by mace-torch."""
    python = os.environ.get("MLIP_PEER_MACE_PYTHON")
    if not python:
        pytest.skip("set MLIP_PEER_MACE_PYTHON to a Python that has mace-torch to compare with it")
    out = tmp_path_factory.mktemp("mace")
    script = Path(__file__).with_name("mace_models.py")
    done = subprocess.run([python, str(script), str(out)], capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {p.stem for p in out.glob("*.model")} == set(NAMES)
    return out


def _structures(folder: Path) -> dict[str, Atoms]:
    with np.load(folder / "structures.npz") as z:
        return {name: Atoms(z[f"{name}/numbers"], z[f"{name}/positions"], cell=z[f"{name}/cell"], pbc=z[f"{name}/pbc"])
                for name in sorted({key.split("/")[0] for key in z})}


@pytest.mark.parametrize("name", NAMES)
def test_tensors_are_those_of_state_dict(folder: Path, name: str) -> None:
    state, _ = read_mace_torch(folder / f"{name}.model")
    with np.load(folder / f"{name}.npz") as z:
        expected = {key.removeprefix("sd/"): z[key] for key in z if key.startswith("sd/")}
    assert list(state) == list(expected)
    for key, value in expected.items():
        assert state[key].numpy().dtype == value.dtype, key
        np.testing.assert_array_equal(state[key].numpy(), value, err_msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_configuration_is_the_one_used(folder: Path, name: str) -> None:
    _, found = read_mace_torch(folder / f"{name}.model")
    with np.load(folder / f"{name}.npz") as z:
        used = json.loads(str(z["config"]))
    dtype = used.pop("dtype")
    used.update(gate="silu", radial_type="bessel", apply_cutoff=True, use_reduced_cg=False)
    used["heads"] = None if name == "old" else used["heads"] or ["Default"]
    if used["num_interactions"] == 1:  # the model keeps no trace of what it does not use
        used.update(hidden_irreps="4x0e", MLP_irreps="16x0e")
    assert set(found) == set(used)
    for key, value in used.items():
        if isinstance(value, float) or key.startswith("atomic_"):
            np.testing.assert_array_equal(np.array(found[key], dtype), np.array(value, dtype), strict=True, err_msg=key)
        else:
            assert found[key] == value, key
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("name", NAMES)
def test_energies_forces_and_stress(folder: Path, name: str) -> None:
    potential = mlip.load(folder / f"{name}.model")
    single = potential.dtype == torch.float32
    assert single == (name == "single")
    heads = potential.heads if name == "heads" else ("",)
    with np.load(folder / f"{name}.npz") as z:
        for key, atoms in _structures(folder).items():
            for head in heads:
                atoms.info["head"] = head or potential.heads[0]
                prefix = f"{key}/{head}/"
                ours, where = potential.predict(atoms), f"{name} {prefix}"
                force = z[f"{prefix}forces"]
                e, f, s = (2e-5, 2e-5 * max(1.0, np.abs(force).max()), 1e-6) if single else (1e-9, 1e-9, 1e-10)
                assert abs(ours.energy - float(z[f"{prefix}energy"])) < e, where
                np.testing.assert_allclose(ours.forces, force, rtol=0, atol=f, err_msg=where)
                assert np.abs(force).max() > 1e-3, f"{where}: a trivial comparison"
                if f"{prefix}stress" in z:
                    np.testing.assert_allclose(ours.stress, z[f"{prefix}stress"], rtol=0, atol=s, err_msg=where)


def test_single_precision_file_evaluated_in_double(folder: Path) -> None:
    """mace-torch in double precision keeps coupling constants that were rounded to single; ours are exact."""
    potential = mlip.load(folder / "single.model", dtype="float64")
    with np.load(folder / "single.npz") as z:
        for key, atoms in _structures(folder).items():
            ours = potential.predict(atoms)
            assert abs(ours.energy - float(z[f"{key}//energy"])) < 1e-4
