"""EquiformerV3: directions without poles, cutoffs, lone atoms, frames, limits on neighbours."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor

import mlip
from mlip import Potential
from mlip.graph import AtomGraph
from mlip.io.ase import structure_of
from mlip.models.equiformer_v3 import neighbourhood as edges_of
from mlip.models.equiformer_v3.neighbourhood import falling, nearest
from mlip.nn.derivatives import evaluate
from mlip.ops.wigner import from_polar_axis
from mlip.so3.rotation_groups import random_rotations
from mlip.verify import checks

SMALL: dict[str, Any] = {"lmax": 2, "mmax": 2, "channels": 8, "num_layers": 1, "num_heads": 2, "attention_hidden": 4,
                         "attention_alpha": 4, "attention_value": 4, "feed_forward_hidden": 8, "edge_channels": 8,
                         "num_gaussians": 6, "avg_num_neighbors": 2.0, "cutoff": 4.0}
ANGLES = (0.0, 1e-4, 1e-3, 2e-3)  # rad; the published code turns bonds within 1.4e-3 of the axis y into the axis


def small(elements: str = "H O Na Cl Cu", dtype: str = "float64", **options: Any) -> Potential:
    return mlip.create("equiformer_v3", elements.split(), dtype=dtype, **{**SMALL, **options})


def turned(atoms: Atoms, sign: int, angle: float) -> Atoms:
    """Return water with its first O-H bond at an angle to +y or -y."""
    new = atoms.copy()
    direction = np.array([np.sin(angle) * 0.8, sign * np.cos(angle), np.sin(angle) * 0.6])
    bond = new.positions[1] - new.positions[0]
    axis = np.cross(bond, direction)
    new.rotate(np.degrees(np.arctan2(np.linalg.norm(axis), bond @ direction)), axis, center=new.positions[0])
    found = (new.positions[1] - new.positions[0]) / np.linalg.norm(bond)
    np.testing.assert_allclose(found, direction, rtol=0, atol=1e-12)
    if angle == 0:  # exactly
        new.positions[1] = new.positions[0] + np.linalg.norm(bond) * direction
    return new


@pytest.fixture(scope="module")
def ours(water: Any) -> Potential:
    """The published weights of water."""
    found: Potential = water.potential()
    return found


@pytest.fixture(scope="module")
def h2o(water: Any) -> Atoms:
    s = water.structure
    order = np.argsort(-s.numbers, kind="stable")
    return Atoms(s.numbers[order], s.positions[order])


class TestPoles:
    @pytest.mark.parametrize("sign", [1, -1])
    @pytest.mark.parametrize("angle", ANGLES)
    def test_bond_along_the_polar_axis(self, ours: Potential, h2o: Atoms, sign: int, angle: float) -> None:
        atoms = turned(h2o, sign, angle)
        found, general = ours.predict(atoms), ours.predict(h2o)
        assert found.energy == pytest.approx(general.energy, rel=0, abs=1e-13)
        assert checks.finite_difference_forces(ours, atoms) <= 1e-9
        assert np.abs(found.forces.sum(axis=0)).max() <= 1e-14
        assert np.abs(np.cross(atoms.positions, found.forces).sum(axis=0)).max() <= 1e-14
        np.testing.assert_allclose(np.linalg.norm(found.forces, axis=1), np.linalg.norm(general.forces, axis=1),
                                   rtol=0, atol=1e-13)

    def test_float32_is_as_good_there_as_elsewhere(self, ours: Potential, h2o: Atoms) -> None:
        single, generator = ours.to(dtype="float32"), np.random.default_rng(0)

        def error(atoms: Atoms) -> float:
            return float(np.abs(single.predict(atoms).forces - ours.predict(atoms).forces).max())

        elsewhere = max(error(checks.transformed(h2o, turn)) for turn in random_rotations(12, generator))
        assert 0 < elsewhere < 1e-7
        for angle in (*ANGLES, 1.5e-3, 5e-3, 2e-2, 0.1):
            assert max(error(turned(h2o, sign, angle)) for sign in (1, -1)) <= 3 * elsewhere

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_same_input_same_bits(self, ours: Potential, h2o: Atoms, dtype: str) -> None:
        potential = ours.to(dtype=dtype)
        first, second = potential.predict(h2o), potential.predict(h2o)
        assert first.energy == second.energy
        np.testing.assert_array_equal(first.forces, second.forces)

    @pytest.mark.parametrize("atoms", [
        bulk("NaCl", "rocksalt", 5.64, cubic=True), bulk("Cu", cubic=True), Atoms("Cu", cell=[2.6, 2.6, 2.6], pbc=True),
    ], ids=["NaCl", "Cu", "one atom"])
    def test_crystals_along_the_axes(self, atoms: Atoms) -> None:
        potential, atoms = small(lmax=3), atoms.copy()
        assert np.abs(potential.predict(atoms).forces).max() < 1e-12  # by symmetry
        atoms.positions[0] += [0.0, 0.03, 0.0] if len(atoms) > 1 else 0.0
        assert checks.finite_difference_forces(potential, atoms) <= 1e-8
        assert checks.finite_difference_stress(potential, atoms) <= 1e-9
        assert checks.rotation(potential, atoms) <= 1e-12

    def test_any_frame_with_the_edge_as_its_axis(self, monkeypatch: pytest.MonkeyPatch) -> None:
        potential, atoms = small(lmax=3), checks.transformed(bulk("NaCl", "rocksalt", 5.0), np.eye(3))
        atoms.positions[0] += [0.1, 0.05, -0.2]
        expected = potential.predict(atoms)

        def another(vectors: Tensor) -> Tensor:
            angle = torch.rand(len(vectors), dtype=vectors.dtype) * 6.3
            c, s, o, i = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
            return from_polar_axis(vectors) @ torch.stack([c, o, s, o, i, o, -s, o, c], dim=1).view(-1, 3, 3)

        monkeypatch.setattr(edges_of, "from_polar_axis", another)
        found = potential.predict(atoms)
        assert found.energy == pytest.approx(expected.energy, rel=0, abs=1e-12)
        np.testing.assert_allclose(found.forces, expected.forces, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.stress, expected.stress, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("lmax", "mmax"), [(0, 0), (1, 0), (1, 1), (2, 1), (3, 3), (4, 2), (6, 2)])
def test_degrees_and_orders(lmax: int, mmax: int) -> None:
    potential, atoms = small(lmax=lmax, mmax=mmax, channels=4), molecule("H2O2")
    assert checks.rotation(potential, atoms) <= 1e-12
    assert checks.finite_difference_forces(potential, atoms) <= 1e-8
    assert np.abs(potential.predict(atoms).forces).max() > 1e-4


def test_mirror_images() -> None:
    """Rotations only: the two forms of a chiral molecule have different energies, those of a plane one the same."""
    potential, chiral = small(num_layers=2), molecule("H2O2")
    assert checks.inversion(potential, chiral) > 1e-7
    assert checks.inversion(potential, molecule("H2O")) <= 1e-12


class TestLoneAtoms:
    def test_nothing_within_the_cutoff(self) -> None:
        potential = small()
        alone = {s: potential.predict(Atoms(s)).energy for s in "HO"}
        assert alone["H"] != alone["O"]
        pair = potential.predict(Atoms("HO", [[0, 0, 0], [4.001, 0, 0]]))
        wide = potential.predict(Atoms("O", cell=[5, 5, 5], pbc=True))
        assert pair.energy == pytest.approx(alone["H"] + alone["O"], rel=0, abs=1e-13)
        assert wide.energy == pytest.approx(alone["O"], rel=0, abs=1e-13)
        assert (pair.forces == 0).all()
        assert (wide.stress == 0).all()
        assert pair.stress is None

    def test_an_atom_far_from_the_others(self) -> None:
        potential, near = small(), molecule("H2O")
        far = near + Atoms("O", [[0, 30, 0]])
        found, expected = potential.predict(far), potential.predict(near)
        np.testing.assert_allclose(found.forces[:3], expected.forces, rtol=0, atol=1e-13)
        np.testing.assert_allclose(found.energies, [*expected.energies, potential.predict(Atoms("O")).energy], rtol=0,
                                   atol=1e-13)
        assert (found.forces[3] == 0).all()

    def test_batch(self, structures: dict[str, Atoms]) -> None:
        """Molecules, slabs, crystals, nothing: what the published code cannot batch."""
        potential = small("H C O Cu")
        batch = [Atoms("H"), structures["molecule"], Atoms(), structures["slab"], structures["wire"], Atoms("O")]
        assert checks.batching(potential, batch) <= 1e-12
        for atoms, found in zip(batch, potential.predict(batch), strict=True):
            assert (found.stress is None) == (not atoms.pbc.any())
            assert found.energy == pytest.approx(found.energies.sum(), rel=0, abs=1e-12)


class TestCutoff:
    def test_envelope(self) -> None:
        u = torch.linspace(0, 1, 101, dtype=torch.float64)
        expected = 1 - 21 * u**5 + 35 * u**6 - 15 * u**7
        torch.testing.assert_close(falling(4 * u, 4.0), expected, rtol=0, atol=1e-14)
        assert (falling(torch.tensor([4.0, 4.1, 50.0]), 4.0) == 0).all()

    @pytest.mark.parametrize("eps", [1e-16, 1e-8])
    def test_the_energy_of_a_pair_falls_with_the_third_power(self, eps: float) -> None:
        potential = small(attention_eps=eps)
        alone = potential.predict(Atoms("H")).energy + potential.predict(Atoms("O")).energy
        left = [potential.predict(Atoms("HO", [[0, 0, 0], [0, 4 - d, 0]])).energy - alone for d in (0.04, 0.02, 0.01)]
        assert abs(left[0]) > 1e-9
        assert left[0] / left[1] == pytest.approx(8, rel=0.05)
        assert left[1] / left[2] == pytest.approx(8, rel=0.025)

    def test_neighbours_just_inside_in_float32(self) -> None:
        """Attention divides by the sum of envelopes: their signs must not be noise where they are small."""
        single = small(dtype="float32")
        alone = np.array([single.predict(Atoms(s)).energy for s in "OHH"])
        for gap in np.random.default_rng(0).uniform(0, 5e-3, (40, 2)):
            found = single.predict(Atoms("OHH", [[0, 0, 0], [4 - gap[0], 0, 0], [0, gap[1] - 4, 0]]))
            assert np.abs(found.energies - alone).max() < 1e-6
            assert np.abs(found.forces).max() < 1e-5


class TestNearestNeighbours:
    def test_against_sorting(self) -> None:
        generator = torch.Generator().manual_seed(0)
        receiver = torch.randint(0, 9, (60,), generator=generator).sort().values
        receiver[receiver == 4] = 5  # one atom has none
        vectors = torch.randn(60, 3, generator=generator, dtype=torch.float64)
        for count in (1, 3, 100):
            expected = []
            for i in range(9):
                mine = [e for e in range(60) if receiver[e] == i]
                expected += sorted(sorted(mine, key=lambda e: float(vectors[e].norm()))[:count])
            assert nearest(vectors, receiver.sort().values, count).tolist() == expected

    @pytest.mark.parametrize("count", [1, 3, 7])
    def test_as_a_model_that_sees_no_others(self, structures: dict[str, Atoms], count: int) -> None:
        whole, limited = small("C O Cu"), small("C O Cu", nonsmooth_max_neighbors=count)
        graph = whole.graph([structure_of(structures["triclinic"])])
        pruned = self._pruned(graph, count)
        a, b = (evaluate(p.model, g, stress=True) for p, g in ((limited, graph), (whole, pruned)))
        torch.testing.assert_close(a.energies, b.energies, rtol=0, atol=1e-13)
        torch.testing.assert_close(a.forces, b.forces, rtol=0, atol=1e-13)
        torch.testing.assert_close(a.stress, b.stress, rtol=0, atol=1e-13)
        assert float((a.energies - evaluate(whole.model, graph).energies).abs().max()) > 1e-6

    @staticmethod
    def _pruned(graph: AtomGraph, count: int) -> AtomGraph:
        length = graph.vectors().norm(dim=1).tolist()
        receivers = graph.edge_index[1].tolist()
        mine = [[e for e, r in enumerate(receivers) if r == i] for i in range(graph.num_atoms)]
        kept = torch.tensor(sorted(e for row in mine for e in sorted(row, key=length.__getitem__)[:count]))
        every = torch.arange(len(kept))
        return graph.replace(edge_index=graph.edge_index[:, kept], shifts=graph.shifts[kept], pair=every,
                             pair_edge=every)

    def test_without_a_limit_or_with_a_large_one(self, structures: dict[str, Atoms]) -> None:
        a, b = (small("C O Cu", nonsmooth_max_neighbors=n).predict(structures["triclinic"]) for n in (None, 1000))
        assert a.energy == pytest.approx(b.energy, rel=0, abs=1e-13)
        np.testing.assert_allclose(a.forces, b.forces, rtol=0, atol=1e-13)


def test_derivatives_of_forces_by_weights() -> None:
    """The gradient of a loss on forces and stress, against differences."""
    potential = small("Na Cl")
    atoms = bulk("NaCl", "rocksalt", 5.2)
    atoms.positions[0] += [0.1, 0.2, -0.1]
    graph = potential.graph([structure_of(atoms)])
    model = potential.to(backend="reference").model.requires_grad_(True)

    def loss() -> Tensor:
        result = evaluate(model, graph, stress=True, training=True)
        assert result.forces is not None
        assert result.stress is not None
        return result.forces.square().sum() + result.stress[0, 0, 1] + result.energy.sum()

    parameters = dict(model.named_parameters())
    gradients = dict(zip(parameters, torch.autograd.grad(loss(), list(parameters.values())), strict=True))
    for name, parameter in parameters.items():
        direction = torch.randn_like(parameter)
        values = []
        for step in (1e-4, -1e-4):
            with torch.no_grad():
                parameter.add_(direction, alpha=step)
            values.append(loss().item())
            with torch.no_grad():
                parameter.add_(direction, alpha=-step)
        numeric = (values[0] - values[1]) / 2e-4
        assert numeric == pytest.approx(float((gradients[name] * direction).sum()), rel=1e-4, abs=1e-7), name


def test_file_precision_and_configuration(structures: dict[str, Atoms], tmp_path: Any) -> None:
    for options in ({}, {"forces": "direct", "denoising": True}, {"nonsmooth_max_neighbors": 3, "lmax": 3, "mmax": 1}):
        potential = small("H C O", **options)
        again = mlip.load(potential.save(tmp_path / "model.mlip"))
        assert again.model.config == potential.model.config
        assert type(again.model) is type(potential.model)
        a, b = (p.predict(structures["molecule"]) for p in (potential, again))
        assert a.energy == b.energy
        np.testing.assert_array_equal(a.forces, b.forces)
        single = again.to(dtype="float32")
        assert {p.dtype for p in single.model.parameters()} == {torch.float32}
        assert single.predict(structures["molecule"]).energy == pytest.approx(a.energy, rel=0, abs=1e-5)
        assert again.predict(structures["molecule"]).energy == b.energy  # left as it was
        kind = type(potential.model.config)
        assert kind.from_dict(potential.model.config.to_dict()) == potential.model.config
        assert dataclasses.replace(potential.model.config, channels=9) != potential.model.config


def test_one_graph_of_torch_compile(structures: dict[str, Atoms]) -> None:
    torch._dynamo.reset()
    potential = small("H C O Cu")
    compiled = torch.compile(potential.model, backend="eager", fullgraph=True)
    graph = potential.graph([structure_of(structures["triclinic"])])
    with torch.no_grad():
        torch.testing.assert_close(compiled(graph), potential.model(graph), rtol=0, atol=1e-13)


class Compiled:
    """A captured model with what `evaluate` asks for."""

    def __init__(self, model: Any) -> None:
        self.isolated_energies = model.isolated_energies
        self.energies = torch.compile(model, backend="eager", fullgraph=True, dynamic=True)

    def __call__(self, graph: AtomGraph) -> Tensor:
        found: Tensor = self.energies(graph)
        return found


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # of torch's compiler
@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_no_recompilation_while_the_cell_breathes(backend: str, structures: dict[str, Atoms]) -> None:
    """One graph serves every number of edges, forces and stress included."""
    torch._dynamo.reset()
    potential, rng = small("H C O Cu").to(backend=backend), np.random.default_rng(0)
    model, compiled, edges = potential.model, Compiled(potential.model), set()
    for step in range(12):
        atoms = structures["triclinic"] * (2, 1, 1)
        atoms.set_cell(atoms.cell.array * rng.uniform(0.7, 1.1) + rng.normal(0, 0.1, (3, 3)), scale_atoms=True)
        graph = potential.graph([structure_of(atoms)])
        edges.add(graph.edge_index.shape[1])
        with torch._dynamo.config.patch(error_on_recompile=step > 1):
            found = evaluate(compiled, graph, stress=True)
        expected = evaluate(model, graph, stress=True)
        for name in ("energies", "forces", "stress"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-12)
    assert len(edges) > 4
