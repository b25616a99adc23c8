"""TransIP with a smooth cutoff: derivatives, what moving changes, the edge, rotations, charge and spin."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor

import mlip
from mlip import Potential
from mlip.errors import DefaultedWarning, StructureError
from mlip.io.ase import structure_of
from mlip.models.transip.neighbourhood import log_switch
from mlip.nn.derivatives import evaluate
from mlip.ops import Backend, compiled_is_available
from mlip.simulation import Plan, run_ase
from mlip.so3.rotation_groups import rotation_group
from mlip.verify import checks
from mlip.verify.symmetry import symmetry_report

TINY: dict[str, Any] = {"channels": 16, "num_layers": 2, "num_heads": 2, "num_gaussians": 6, "cutoff": 4.0}
BACKENDS: list[Any] = [pytest.param("compiled", marks=pytest.mark.skipif(
    not compiled_is_available(), reason="the compiled kernels are not installed")), "reference"]


def small(elements: str = "H C O Cu", **options: Any) -> Potential:
    return mlip.create("transip", elements.split(), **{**TINY, "seed": 0, "dtype": "float64", **options})


def rattled(atoms: Atoms, width: float = 0.05) -> Atoms:
    new = atoms.copy()
    new.positions += np.random.default_rng(1).normal(0.0, width, (len(new), 3))
    return new


def cluster(atoms: int = 10) -> Atoms:
    """Return atoms that are nowhere closer than 1.1 A in a box of 5 A, without any order."""
    generator = np.random.default_rng(0)
    positions = [np.zeros(3)]
    while len(positions) < atoms:
        new = generator.uniform(-2.5, 2.5, 3)
        if min(np.linalg.norm(new - old) for old in positions) > 1.1:
            positions.append(new)
    return Atoms(generator.choice(["H", "C", "O", "Cu"], atoms), positions)


@pytest.fixture(scope="module")
def md() -> Potential:
    """A model with random weights, in float64; lone atoms have no energy but that of the network."""
    return small()


@pytest.fixture(params=["molecule", "crystal"])
def atoms(request: pytest.FixtureRequest) -> Atoms:
    return rattled(molecule("CH3OH")) if request.param == "molecule" else rattled(bulk("Cu", cubic=True), 0.1)


class TestDerivatives:
    @pytest.mark.parametrize("backend", BACKENDS)
    def test_forces_and_stress(self, md: Potential, backend: Backend, atoms: Atoms) -> None:
        potential = md.to(backend=backend)
        assert checks.finite_difference_forces(potential, atoms) <= 1e-8
        assert np.abs(potential.predict(atoms).forces).max() > 1e-2
        if atoms.pbc.any():
            assert checks.finite_difference_stress(potential, atoms) <= 1e-9

    @pytest.mark.skipif(not compiled_is_available(), reason="the compiled kernels are not installed")
    @pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-5)])
    def test_compiled_kernels_and_plain_torch(self, md: Potential, atoms: Atoms, dtype: str, tolerance: float) -> None:
        ours, plain = (md.to(dtype=dtype, backend=b).predict(atoms) for b in ("compiled", "reference"))
        np.testing.assert_allclose(ours.energies, plain.energies, rtol=0, atol=tolerance)
        np.testing.assert_allclose(ours.forces, plain.forces, rtol=0, atol=tolerance)
        if atoms.pbc.any():
            np.testing.assert_allclose(ours.stress, plain.stress, rtol=0, atol=tolerance)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_weights_by_a_loss_of_forces_and_torques(self, backend: Backend, atoms: Atoms) -> None:
        """Of every weight, along a random direction."""
        potential = small(charges=(0, 1), spins=(1, 2)).to(backend=backend)
        atoms.info.update(charge=1, spin=2)
        model = potential.model.requires_grad_(True)
        with torch.no_grad():
            model.state.output.normal_()
        graph = potential.graph([structure_of(atoms)])

        def loss() -> Tensor:
            p = evaluate(model, graph, torque=True, training=True)
            return p.forces.square().sum() + p.energy.sum() + torch.linalg.vector_norm(p.torque)

        weights = dict(model.named_parameters())
        gradients = torch.autograd.grad(loss(), list(weights.values()))
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            direction, values = torch.randn_like(weight), []
            for step in (1e-4, -2e-4):
                with torch.no_grad():
                    weight.add_(direction, alpha=step)
                values.append(loss().item())
            with torch.no_grad():
                weight.add_(direction, alpha=1e-4)
            expected = float((gradient * direction).sum())
            assert (values[0] - values[1]) / 2e-4 == pytest.approx(expected, rel=1e-4, abs=1e-6), name
            assert gradient.abs().max() > 1e-6, name

    def test_hessian_at_any_distance(self) -> None:
        """Also in the middle of the switch, where a tangent has a pole."""
        potential = small("H")
        graph = potential.graph([structure_of(Atoms("H2", [[0, 0, 0], [0, 0, 3.5]]))])
        away = torch.tensor([[0, 0, 0], [0, 0, 1]])

        def energy(r: Tensor) -> Tensor:
            return potential.model(graph.replace(positions=r * away)).sum()  # type: ignore[no-any-return]

        for distance in (3.3, 3.5, 3.7):
            r = torch.tensor(distance, dtype=torch.float64)
            curvature = float(torch.autograd.functional.hessian(energy, r))
            h = 1e-3
            numeric = float(energy(r + h) - 2 * energy(r) + energy(r - h)) / h**2
            assert curvature == pytest.approx(numeric, rel=1e-4, abs=1e-7)
            assert abs(curvature) > 1e-4

    def test_one_graph_of_torch_compile(self, md: Potential, atoms: Atoms) -> None:
        torch._dynamo.reset()
        graph = md.graph([structure_of(atoms)])
        with torch.no_grad():
            found = torch.compile(md.model, backend="eager", fullgraph=True)(graph)
            torch.testing.assert_close(found, md.model(graph), rtol=0, atol=1e-13)

    def test_energy_is_conserved(self, md: Potential, heat: Any) -> None:
        plan = Plan(steps=100, timestep=0.25, temperature=300.0, every=5)
        record = run_ase(heat(molecule("CH3OH"), 300.0), md, plan)
        assert np.ptp(record.potential + record.kinetic) < 0.02 * np.ptp(record.potential)


class TestMoving:
    def test_translation_permutation_images(self, md: Potential, atoms: Atoms) -> None:
        assert checks.translation(md, atoms) <= 1e-10
        assert checks.permutation(md, atoms) <= 1e-10
        assert checks.image_shift(md, atoms) <= 1e-10
        assert checks.supercell(md, atoms, (2, 2, 2)) <= 1e-10
        assert np.abs(md.predict(atoms).forces.sum(axis=0)).max() <= 1e-13

    def test_reach(self, md: Potential) -> None:
        """The density and each layer carry what happens by one cutoff; beyond nothing changes at all."""
        chain = Atoms("C6", [[3.0 * i, 0.1 * i**2, 0] for i in range(6)])
        moved = chain.copy()
        moved.positions[0] += [0.1, 0.2, -0.1]
        change = np.abs(md.predict(chain).energies - md.predict(moved).energies)
        assert (change[:4] > 1e-9).all()
        assert not change[4:].any()

    def test_alone(self, md: Potential) -> None:
        for backend, dtype in itertools.product(("auto", "reference"), ("float64", "float32")):
            potential = md.to(backend=backend, dtype=dtype)
            lone = [potential.predict(a) for a in (Atoms("C"), Atoms("C", cell=[9] * 3, pbc=True),
                                                   Atoms("C", [[7, 8, 9]]))]
            assert all(p.energy == pytest.approx(lone[0].energy, rel=0, abs=1e-6) for p in lone)
            assert all(math.isfinite(p.energy) and not p.forces.any() for p in lone)
            assert not lone[1].stress.any()
        assert checks.isolated(md) <= 1e-12

    def test_dissociation(self, md: Potential) -> None:
        apart = md.predict(Atoms("C")).energy + md.predict(Atoms("O")).energy
        distances = np.concatenate([np.linspace(0.1, 4.2, 83), 4 - np.logspace(-1, -15, 15)])
        dimers = [Atoms("CO", [[0, 0, 0], [r / 3, 2 * r / 3, 2 * r / 3]]) for r in distances]
        for backend, dtype in itertools.product(("auto", "reference"), ("float64", "float32")):
            found = md.to(backend=backend, dtype=dtype).predict(dimers)  # raises where a number is none
            assert max(np.abs(p.forces).max() for p in found) < 1e3
            assert found[-1].energy == pytest.approx(apart, rel=0, abs=1e-5)
            assert found[82].energy == pytest.approx(apart, rel=0, abs=1e-5)
            assert abs(found[40].energy - apart) > 0.01


class TestCutoff:
    def energy(self, potential: Potential, r: float, pair: str = "CO") -> float:
        return float(potential.predict(Atoms(pair, [[0, 0, 0], [r / 3, -2 * r / 3, 2 * r / 3]])).energy)

    @pytest.mark.parametrize("pair", ["CO", "H2", "CuH"])
    def test_no_jump(self, md: Potential, pair: str) -> None:
        inside, outside = (self.energy(md, 4.0 + step, pair) for step in (-1e-9, 1e-9))
        apart = sum(md.predict(Atoms(s)).energy for s in Atoms(pair).symbols)
        assert abs(inside - outside) <= 1e-12
        assert abs(outside - apart) <= 1e-12
        assert abs(self.energy(md, 3.6, pair) - apart) > 1e-4

    def test_curvature_vanishes(self, md: Potential) -> None:
        """Second differences just inside; the curvature of the switch is 4e6 times the switch there."""
        def curvature(r: float, h: float) -> float:
            return abs(self.energy(md, r + h) - 2 * self.energy(md, r) + self.energy(md, r - h)) / h**2

        inside = [curvature(4.0 - step, 1e-3) for step in (0.3, 0.05, 0.03, 0.02, 0.015)]
        assert inside[0] > 1e-2
        assert inside[1:4] == sorted(inside[1:4], reverse=True)
        assert inside[3] < 1e-5
        assert inside[4] < 1e-9
        assert curvature(4.0, 0.01) < 1e-10

    def test_an_atom_that_leaves_a_cluster(self, md: Potential) -> None:
        for position in (3.99, 4.0, 4.01):
            atoms = cluster() + Atoms("H", [[2.6 + position, 0, 0]])
            assert checks.finite_difference_forces(md, atoms, eps=1e-3) <= 1e-8

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)], ids=str)
    def test_switch(self, dtype: torch.dtype, tolerance: float) -> None:
        r = torch.cat([torch.linspace(3.0, 4.5, 1501, dtype=torch.float64),
                       torch.tensor([0.0, 1e-3, 3.0, 3.5, 4.0, 100.0])]).to(dtype).requires_grad_()
        value = log_switch(r, 4.0, 1.0)
        (first,) = torch.autograd.grad(value.sum(), r, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), r)
        assert all(t.isfinite().all() for t in (value, first, second))
        assert (value[r <= 3.01].abs() < 1e-12).all()
        assert (value[r >= 4.0] < -120).all()
        x = (r.detach().double() - 3).numpy()
        inside = (x > 0.02) & (x < 0.9)
        cot = 1 / np.tan(np.pi * x[inside])
        expected = np.log(0.5 * (1 + np.tanh(cot)))
        np.testing.assert_allclose(value.detach().numpy()[inside], expected, rtol=tolerance, atol=1e-15)
        # d/dx log(1 + tanh c) = (1 - tanh c) c', with c' = -pi (1 + c^2) and c'' = 2 pi^2 c (1 + c^2)
        rest, slope = 2 / (1 + np.exp(2 * cot)), -np.pi * (1 + cot**2)
        bend = rest * (2 * np.pi**2 * cot * (1 + cot**2) - (1 + np.tanh(cot)) * slope**2)
        for found, exact in ((first, rest * slope), (second, bend)):
            np.testing.assert_allclose(found.detach().numpy()[inside], exact, rtol=tolerance, atol=1e-12)
        assert not first[(x > 1) | (x < 0)].any()


def reductions(potential: Potential, structures: list[Atoms]) -> dict[str, float]:
    """Return by how much averages reduce the rotational standard deviation of energies, in the geometric mean."""
    spread = {group: [symmetry_report(potential.to(rotational_average=group), atoms, 32).energy_rot_std
                      for atoms in structures] for group in ("none", "O", "I")}
    return {group: float(np.exp(np.mean(np.log(np.divide(spread["none"], spread[group]))))) for group in ("O", "I")}


class TestRotations:
    @pytest.mark.parametrize(("frequency", "by_cube", "by_icosahedron"), [(1.0, 5, 12), (0.5, 8, 20), (0.25, 10, 50)])
    def test_averages(self, frequency: float, by_cube: float, by_icosahedron: float) -> None:
        """Of molecules and a disordered cluster. What is left are degrees from 4 and from 6.

        The higher the frequencies of the phases, the more there is of these; 0.5/A is the default. (Four atoms of
        copper gain less with it: 2 to 7 and 3 to 15 times.)
        """
        structures = [rattled(molecule(name)) for name in ("CH3OH", "C6H6", "CH3CH2OH")] + [cluster()]
        found = reductions(small(frequency=frequency), structures)
        assert found["O"] > by_cube
        assert found["I"] > by_icosahedron

    @pytest.mark.parametrize("group", ["O", "I"])
    def test_the_average_is_invariant_and_conservative(self, md: Potential, atoms: Atoms, group: str) -> None:
        averaged = md.to(rotational_average=group)
        expected = averaged.predict(atoms)
        plain = []
        for matrix in rotation_group(group)[1::4]:
            turned = checks.transformed(atoms, matrix)
            found = averaged.predict(turned)
            plain.append(md.predict(turned).energy)
            assert found.energy == pytest.approx(expected.energy, rel=0, abs=1e-12)
            np.testing.assert_allclose(found.forces, expected.forces @ matrix, rtol=0, atol=1e-12)
        assert np.ptp(plain) > 1e-3
        assert checks.finite_difference_forces(averaged, atoms) <= 1e-8
        if atoms.pbc.any():
            assert checks.finite_difference_stress(averaged, atoms) <= 1e-9


class TestChargeAndSpin:
    @pytest.fixture
    def charged(self) -> Potential:
        return small("H O", charges=(-1, 0, 1), spins=(1, 2, 3))

    def water(self, **info: int) -> Atoms:
        return Atoms(molecule("H2O"), info=info)

    def test_they_matter_once_they_are_learned(self, charged: Potential) -> None:
        states = [{"charge": q, "spin": s} for q in (-1, 0, 1) for s in (1, 2, 3)]
        before = {p.energy for p in charged.predict([self.water(**s) for s in states])}
        assert np.ptp(list(before)) < 1e-13
        charged.model.state.output.normal_(generator=torch.Generator().manual_seed(0))
        found = charged.predict([self.water(**s) for s in states])
        energy = np.array([p.energy for p in found])
        assert np.abs(energy[:, None] - energy)[~np.eye(9, dtype=bool)].min() > 1e-4
        for state, p in zip(states, found, strict=True):
            assert charged.predict(self.water(**state)).energy == pytest.approx(p.energy, rel=0, abs=1e-13)
        assert checks.finite_difference_forces(charged, self.water(charge=1, spin=3)) <= 1e-8

    @pytest.mark.parametrize("info", [{"charge": 2, "spin": 1}, {"charge": 0, "spin": 4}, {"charge": -2}], ids=str)
    def test_unknown_ones(self, charged: Potential, info: dict[str, int]) -> None:
        with pytest.raises(StructureError, match="was made for"):
            charged.predict(self.water(**info))
        with pytest.raises(StructureError):
            small("H O").predict(self.water(**info))

    def test_one_warning(self, charged: Potential) -> None:
        with pytest.warns(DefaultedWarning) as caught:
            found = charged.predict(self.water())
        assert len(caught) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert charged.predict(self.water(charge=0, spin=1)).energy == found.energy
            assert charged.predict([self.water(), self.water()])[0].energy == pytest.approx(found.energy, abs=1e-12)
            small("H O").predict(self.water())
            small("H O", spins=(1,), charges=(-1, 0)).predict(self.water(charge=0))
