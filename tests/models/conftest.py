"""Golden models: state dict, configuration and structures of one reference file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mlip import Potential, Structure
from mlip.checkpoints import from_reference

REFERENCE = Path(__file__).resolve().parents[2] / "data" / "reference"


@dataclass(frozen=True)
class Golden:
    """One file; `arrays` holds everything under its original key."""

    arrays: dict[str, NDArray[Any]]

    @classmethod
    def read(cls, path: Path) -> Golden:
        with np.load(path) as file:
            return cls({key: file[key] for key in file.files if "/mid/" not in key})

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = json.loads(str(self.arrays["config"]))
        return config

    def weights(self, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
        tensors = {k[3:]: torch.from_numpy(v.copy()) for k, v in self.arrays.items() if k.startswith("sd/")}
        return {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}

    @property
    def structures(self) -> list[Structure]:
        found = []
        for i in range(self.config["num_structures"]):
            pbc = self[i, "pbc"]
            head = str(self[i, "head"]) if self.config["heads"] else None
            found.append(Structure.create(self[i, "atomic_numbers"], self[i, "positions"],
                                          self[i, "cell"] if pbc.any() else None, pbc, head=head))
        return found

    def __getitem__(self, key: tuple[int, str]) -> NDArray[Any]:
        return self.arrays[f"s{key[0]}/{key[1]}"]


@dataclass(frozen=True)
class Published:
    """One file of EquiformerV3; `arrays` holds everything under its original key."""

    arrays: dict[str, NDArray[Any]]

    @classmethod
    def read(cls, path: Path) -> Published:
        with np.load(path) as file:
            return cls({key: file[key] for key in file.files})

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = json.loads(str(self["config_json"]))
        return {**config, "model_class": "equiformer_v3_dens" if config["direct_prediction"] else "equiformer_v3"}

    def weights(self, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
        tensors = {k[3:]: torch.from_numpy(v.copy()) for k, v in self.arrays.items() if k.startswith("sd/")}
        return {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}

    @property
    def structure(self) -> Structure:
        pbc = self["in/pbc"]
        return Structure.create(self["in/numbers"], self["in/positions"], self["in/cell"] if pbc.any() else None, pbc)

    def potential(self, dtype: torch.dtype = torch.float64, **config: Any) -> Potential:
        return from_reference("equiformer_v3", self.weights(dtype), {**self.config, **config})

    def __getitem__(self, key: str) -> NDArray[Any]:
        return self.arrays[key]


@pytest.fixture(scope="session")
def water() -> Published:
    """The small EquiformerV3 that comes with the sources."""
    return Published.read(REFERENCE / "equiformer_v3_water_l2m2.npz")


@pytest.fixture(scope="session")
def published(request: pytest.FixtureRequest) -> Callable[[str], Published]:
    """A function that reads a file of `golden/`, or `water`; the test is skipped where there is no such folder."""
    def read(name: str) -> Published:
        if name == "water":
            return request.getfixturevalue("water")  # type: ignore[no-any-return]
        return Published.read(request.getfixturevalue("shared_dir") / "golden" / f"{name}.npz")

    return read


@pytest.fixture(scope="session")
def plain() -> Golden:
    """The small model that comes with the sources."""
    return Golden.read(REFERENCE / "mace_plain_l2_c3_n2.npz")


@pytest.fixture(scope="session")
def golden_file() -> type[Golden]:
    """The reader."""
    return Golden
