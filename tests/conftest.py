"""Shared fixtures: seeds, small random potentials, structures of every kind, optional data."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.data import atomic_numbers
from ase.units import kB
from torch import nn

import mlip
from mlip.checkpoints import ModelInfo
from mlip.graph import AtomGraph
from mlip.models import EnergyModel, ModelConfig

ELEMENTS = ("H", "C", "O", "Cu")

# One entry per family and variant that must keep the contract of tests/calculators/test_model_contract.py.
SMALL_MODELS: dict[str, dict[str, object]] = {
    "mace": {"family": "mace", "channels": 8, "hidden_lmax": 1, "edge_lmax": 2, "correlation": 3,
             "radial_mlp": (16,), "interaction_first": "plain", "avg_num_neighbors": 2.0, "cutoff": 4.0},
    "mace-density-zbl": {"family": "mace", "channels": 4, "hidden_lmax": 1, "edge_lmax": 3, "correlation": 2,
                         "radial_mlp": (16,), "interaction_first": "density_residual",
                         "interaction": "density_residual", "distance_transform": "agnesi",
                         "pair_repulsion": True, "cutoff": 4.0},
    "mace-gaunt": {"family": "mace", "channels": 4, "hidden_lmax": 1, "edge_lmax": 2, "correlation": 3,
                   "radial_mlp": (16,), "avg_num_neighbors": 2.0, "cutoff": 4.0, "tensor_product": "gaunt_grid"},
    "mace-gaunt-full": {"family": "mace", "channels": 2, "hidden_lmax": 1, "edge_lmax": 3, "correlation": 4,
                        "radial_mlp": (16,), "avg_num_neighbors": 2.0, "cutoff": 4.0,
                        "tensor_product": "gaunt_full"},  # large enough for powers on a grid
    "mace-gaunt-antisymmetric": {"family": "mace", "channels": 4, "hidden_lmax": 1, "edge_lmax": 2, "correlation": 3,
                                 "radial_mlp": (16,), "avg_num_neighbors": 2.0, "cutoff": 4.0,
                                 "tensor_product": "gaunt_antisymmetric"},
    "equiformer-v3": {"family": "equiformer_v3", "lmax": 2, "mmax": 2, "channels": 8, "num_layers": 2, "num_heads": 2,
                      "attention_hidden": 4, "attention_alpha": 4, "attention_value": 4, "feed_forward_hidden": 8,
                      "edge_channels": 8, "num_gaussians": 6, "avg_num_neighbors": 2.0, "cutoff": 4.0},
    "equiformer-v3-direct": {"family": "equiformer_v3", "lmax": 3, "mmax": 2, "channels": 4, "num_layers": 1,
                             "num_heads": 2, "attention_hidden": 4, "attention_alpha": 4, "attention_value": 2,
                             "feed_forward_hidden": 4, "edge_channels": 4, "num_gaussians": 5,
                             "avg_num_neighbors": 2.0, "cutoff": 4.0, "forces": "direct"},
    "transip": {"family": "transip", "channels": 16, "num_layers": 2, "num_heads": 2, "num_gaussians": 6,
                "cutoff": 4.0},
}
LEARNING = ("transip",)  # families that learn what rotations do


def small_potential(name: str, *, dtype: str = "float64") -> mlip.Potential:
    """Return a small potential with random weights and plausible isolated-atom energies."""
    options = dict(SMALL_MODELS[name])
    potential = mlip.create(str(options.pop("family")), elements=list(ELEMENTS), seed=0, **options)
    e0 = torch.tensor([-13.6, -1029.5, -2042.0, -45000.0], dtype=torch.float64)
    potential.model.atomic_energies.copy_(e0.expand_as(potential.model.atomic_energies))
    return potential.to(dtype=dtype)


class Lopsided(EnergyModel):
    """A small smooth model that is not invariant under rotations: plane waves of edge vectors, summed over neighbours.

    E_i = tanh(sum_j fc(r) a . sin(W v + b_zi + c_zj)) / 2 with random numbers and fc = (1 - r^2/rc^2)^3.
    """

    def __init__(self, waves: int = 6) -> None:
        super().__init__()
        self.config = ModelConfig(tuple(sorted(atomic_numbers[e] for e in ELEMENTS)), cutoff=4.0)
        draw = torch.Generator().manual_seed(0)
        for name, shape in (("wave", (3, waves)), ("at", (len(ELEMENTS), waves)), ("near", (len(ELEMENTS), waves)),
                            ("amplitude", (waves,))):
            setattr(self, name, nn.Parameter(torch.randn(shape, generator=draw, dtype=torch.float64)))
        self._register_elements(torch.tensor([[-13.6, -1029.5, -2042.0, -45000.0]]))

    @property
    def rotation_invariant(self) -> bool:
        return False

    def forward(self, graph: AtomGraph) -> torch.Tensor:
        (sender, receiver), v = graph.edge_index, graph.vectors(self.dtype)
        z = self.element_index(graph.numbers)
        decay = (1 - v.square().sum(dim=1) / self.config.cutoff**2) ** 3
        waves = torch.sin(v @ self.wave + self.at[z[receiver]] + self.near[z[sender]]) @ self.amplitude
        return v.new_zeros(graph.num_atoms).index_add(0, receiver, decay * waves).tanh() / 2


@pytest.fixture(scope="session")
def lopsided() -> mlip.Potential:
    """A potential, in float64, whose energy depends on the orientation."""
    return mlip.Potential(Lopsided(), ModelInfo(family="lopsided", name="lopsided"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small models are fastest on one thread, above all where several test runs share the cores."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Every test starts from the same random state."""
    np.random.seed(0)  # noqa: NPY002 - ASE's dynamics may draw from the global state
    torch.manual_seed(0)


@pytest.fixture(scope="session", params=list(SMALL_MODELS))
def potential(request: pytest.FixtureRequest) -> mlip.Potential:
    """Each small potential in turn, float64."""
    return small_potential(request.param)


@pytest.fixture(scope="session", params=[n for n, c in SMALL_MODELS.items() if c.get("forces") != "direct"])
def conservative(request: pytest.FixtureRequest) -> mlip.Potential:
    """Each small potential whose forces and stress are derivatives of its energy."""
    found = small_potential(request.param)
    assert found.model.conservative
    return found


@pytest.fixture(scope="session", params=[n for n, c in SMALL_MODELS.items() if c["family"] not in LEARNING])
def invariant(request: pytest.FixtureRequest) -> mlip.Potential:
    """Each small potential that knows rotations."""
    found = small_potential(request.param)
    assert found.model.rotation_invariant
    return found


@pytest.fixture(scope="session", params=[n for n, c in SMALL_MODELS.items() if c["family"] in LEARNING])
def learning(request: pytest.FixtureRequest) -> mlip.Potential:
    """Each small potential that can only learn rotations; these have learned nothing."""
    found = small_potential(request.param)
    assert not found.model.rotation_invariant
    return found


@pytest.fixture(scope="session", params=list(SMALL_MODELS))
def of_elements(request: pytest.FixtureRequest) -> Callable[[Sequence[str]], mlip.Potential]:
    """A function that makes each small potential for the elements given, made in float64, with small constants."""
    options = dict(SMALL_MODELS[request.param])
    family = str(options.pop("family"))

    def made(elements: Sequence[str]) -> mlip.Potential:
        potential = mlip.create(family, list(elements), dtype="float64", **options)
        draw = torch.Generator().manual_seed(3)
        for name in ("atomic_energies", "scale", "shift"):
            buffer = potential.model.get_buffer(name)
            buffer.copy_(torch.rand(buffer.shape, generator=draw, dtype=torch.float64))
        return potential

    return made


@pytest.fixture(scope="session", params=[n for n, c in SMALL_MODELS.items() if c["family"] == "mace"])
def any_mace(request: pytest.FixtureRequest) -> mlip.Potential:
    """Each small MACE: mirror images have one energy, and radial functions can be tabulated."""
    return small_potential(request.param)


@pytest.fixture(scope="session", params=[n for n, c in SMALL_MODELS.items() if c["family"] == "equiformer_v3"])
def any_equiformer(request: pytest.FixtureRequest) -> mlip.Potential:
    """Each small EquiformerV3."""
    return small_potential(request.param)


@pytest.fixture(scope="session")
def family_of() -> Callable[[str], mlip.Potential]:
    """Make a small potential of `SMALL_MODELS` by its name, float64."""
    return small_potential


@pytest.fixture(scope="session")
def mace() -> mlip.Potential:
    """One small MACE in float64, for tests that do not depend on the family."""
    return small_potential("mace")


def _cubic() -> Atoms:
    return rattled(bulk("Cu", cubic=True), 0.1)


def _triclinic() -> Atoms:
    cell = [[4.1, 0.2, -0.3], [1.9, 4.4, 0.4], [-1.2, 0.9, 5.0]]
    scaled = [[0.1, 0.1, 0.1], [0.6, 0.4, 0.5], [0.2, 0.7, 0.8]]
    return Atoms("CuOC", cell=cell, pbc=True, scaled_positions=scaled)


def _left_handed() -> Atoms:
    atoms = _triclinic()
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    assert np.linalg.det(atoms.cell.array) < 0
    return atoms


def _small_cell() -> Atoms:
    return Atoms("CuO", [[0, 0, 0], [1.3, 1.4, 1.25]], cell=[2.6, 2.7, 2.8], pbc=True)


def _slab() -> Atoms:
    atoms = rattled(fcc111("Cu", (1, 1, 2), vacuum=6.0), 0.08) + Atoms("O", [[0.2, 0.1, 9.9]])
    assert atoms.pbc.tolist() == [True, True, False]
    return atoms


def _tilted_slab() -> Atoms:
    cell = [[3.4, 0.0, 0.5], [9.0, 8.0, 4.0], [0.7, 0.6, 3.7]]  # open along the second, tilted vector
    positions = [[0.3, 0.2, 0.1], [1.9, 1.7, 0.6], [2.5, 0.4, 2.3]]
    return Atoms("CuOC", positions, cell=cell, pbc=[True, False, True])


def _wire() -> Atoms:
    return Atoms("C2H", [[0.1, 0.0, 0.1], [1.4, 0.3, 0.2], [0.9, 1.2, 1.0]], cell=[9, 9, 2.9], pbc=[0, 0, 1])


def _molecule() -> Atoms:
    return rattled(molecule("CH3OH"), 0.05)


def _boxed() -> Atoms:
    atoms = _molecule()
    atoms.set_cell([3.0, 3.0, 3.0])  # a cell without meaning: nothing is periodic
    return atoms


STRUCTURES: dict[str, Callable[[], Atoms]] = {
    "cubic": _cubic, "triclinic": _triclinic, "left_handed": _left_handed, "small_cell": _small_cell,
    "slab": _slab, "tilted_slab": _tilted_slab, "wire": _wire, "molecule": _molecule, "boxed": _boxed,
}


def rattled(atoms: Atoms, width: float, seed: int = 1) -> Atoms:
    """Return the atoms displaced by Gaussian noise of `width` A."""
    new = atoms.copy()
    new.positions += np.random.default_rng(seed).normal(0.0, width, (len(new), 3))
    return new


@pytest.fixture(params=list(STRUCTURES))
def structure(request: pytest.FixtureRequest) -> Atoms:
    """Each structure in turn: crystals, slabs, a wire, molecules."""
    return STRUCTURES[request.param]()


@pytest.fixture
def structures() -> dict[str, Atoms]:
    """All structures by name."""
    return {name: make() for name, make in STRUCTURES.items()}


@pytest.fixture(scope="session")
def heat() -> Callable[[Atoms, float], Atoms]:
    """A function that gives atoms the momenta of a temperature in K."""

    def heated(atoms: Atoms, temperature: float) -> Atoms:
        width = np.sqrt(atoms.get_masses() * kB * temperature)[:, None]
        momenta = np.random.default_rng(0).normal(size=(len(atoms), 3)) * width
        atoms.set_momenta(momenta - momenta.mean(axis=0))
        return atoms

    return heated


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with golden numbers and data sets; the test is skipped where there is none."""
    here = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("MLIP_SHARED", here.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set MLIP_SHARED to the folder that holds golden/ and data/")
    return folder
