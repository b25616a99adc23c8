"""TransIP against attention written out with absolute coordinates; whole molecules, direct forces, options, files."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from numpy.typing import NDArray

import mlip
from mlip import Potential
from mlip.calculators import MLIPCalculator
from mlip.errors import ConfigError, NonConservativeWarning, OptionError, StructureError
from mlip.io.ase import structure_of
from mlip.models.transip import SIZES, DirectTransIP, TransIP, TransIPConfig
from mlip.verify import checks
from mlip.verify.model import verify_model

Array = NDArray[np.float64]
TINY: dict[str, Any] = {"channels": 16, "num_layers": 2, "num_heads": 2, "num_gaussians": 6}
PAPER: dict[str, Any] = {**TINY, "mode": "paper", "cutoff": 20.0}


def small(elements: str = "H C O", **options: Any) -> Potential:
    return mlip.create("transip", elements.split(), **{**PAPER, "seed": 0, "dtype": "float64", **options})


def rattled(name: str) -> Atoms:
    atoms = molecule(name)
    atoms.positions += np.random.default_rng(1).normal(0.0, 0.05, (len(atoms), 3))
    return atoms


@pytest.fixture(scope="module")
def paper() -> Potential:
    return small()


@pytest.fixture(scope="module")
def direct() -> Potential:
    return small(forces="direct")


@pytest.fixture
def atoms() -> Atoms:
    return rattled("CH3CH2OH")


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def norm(x: Array, weight: Array | float) -> Array:
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * weight


def written_out(potential: Potential, atoms: Atoms, turn_values: bool = True) -> Array:
    """Return the energies of atoms by attention of all to all, with phases of coordinates from the centre of mass.

    Queries and keys are turned by w . r of their own atoms, values by w . r_j and the sum back by w . r_i. In mode
    `"md"` logits have the bias of distances, and pairs beyond the cutoff are left out.
    """
    config: Any = potential.model.config
    w = {name: tensor.numpy() for name, tensor in potential.model.state_dict().items()}
    r = atoms.positions - atoms.get_center_of_mass()
    n, heads = len(atoms), config.num_heads
    distance = np.linalg.norm(r[:, None] - r, axis=2)
    element = np.searchsorted(config.atomic_numbers, atoms.numbers)
    x = w["embedding"][element] + (around(config, w, element, atoms) if config.mode == "md" else 0.0)
    for layer in range(config.num_layers):
        part = {k.removeprefix(f"blocks.{layer}."): v for k, v in w.items() if k.startswith(f"blocks.{layer}.")}
        a = norm(x, part["attention_norm.weight"]) @ part["attention.project.weight"].T
        query, key, value = a.reshape(n, 3, heads, -1).swapaxes(0, 1)
        query = norm(query, part["attention.query_norm.weight"]) / np.sqrt(query.shape[-1])
        key = norm(key, part["attention.key_norm.weight"])
        phase = np.exp(1j * np.einsum("nd,hfd->nhf", r, part["attention.frequencies"]))
        query, key, value = (c[..., : c.shape[-1] // 2] + 1j * c[..., c.shape[-1] // 2 :] for c in (query, key, value))
        logits = np.einsum("nhf,mhf->hnm", (phase * query).conj(), phase * key).real
        if config.mode == "md":
            logits = logits + bias_of(config, w["surroundings.bias"], layer, distance)
        weights = np.exp(logits - logits.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        out = phase.conj() * np.einsum("hnm,mhf->nhf", weights, phase * value) if turn_values else \
            np.einsum("hnm,mhf->nhf", weights, value)
        out = np.concatenate([out.real, out.imag], axis=2).reshape(n, -1)
        x = x + part["attention_weight"] * (out @ part["attention.output.weight"].T)
        one, two = np.split(norm(x, part["feed_forward_norm.weight"]) @ part["feed_forward.input.weight"].T, 2, axis=1)
        x = x + part["feed_forward_weight"] * (silu(one) * two @ part["feed_forward.output.weight"].T)
    found = silu(norm(x, 1.0) @ w["energy.hidden.weight"].T) @ w["energy.output.weight"].T
    energies: Array = w["scale"] * found[:, 0] + w["shift"] + w["atomic_energies"][0, element]
    return energies


def radial_of(config: Any, distance: Array) -> tuple[Array, Array]:
    """Return the Gaussians [N, N, G] and the switch [N, N]."""
    spacing = config.cutoff / (config.num_gaussians - 1)
    basis = np.exp(-0.5 * ((distance[..., None] - spacing * np.arange(config.num_gaussians)) / (2 * spacing)) ** 2)
    x = (distance - config.cutoff + config.switch_width) / config.switch_width
    middle = np.where((x > 0.01) & (x < 0.99), x, 0.5)
    return basis, np.where(x <= 0.01, 1.0, np.where(x >= 0.99, 1e-300, 0.5 + 0.5 * np.tanh(1 / np.tan(np.pi * middle))))


def bias_of(config: Any, radial: Array, layer: int, distance: Array) -> Array:
    """Return [H, N, N]: radial functions and the logarithm of the switch; 0 of an atom with itself."""
    basis, switch = radial_of(config, distance)
    found = basis @ radial[:, layer * config.num_heads : (layer + 1) * config.num_heads] + np.log(switch)[..., None]
    return np.where(np.eye(len(distance)) > 0, 0.0, found.transpose(2, 0, 1))


def around(config: Any, w: dict[str, Array], element: Array, atoms: Atoms) -> Array:
    """Return [N, C], sums over neighbours of elements times radial functions times 1 and the square root of 3 r/|r|."""
    vectors = atoms.positions - atoms.positions[:, None]
    distance = np.linalg.norm(vectors, axis=2)
    basis, switch = radial_of(config, distance)
    own = np.eye(len(atoms)) > 0
    switch = np.where(own | (distance >= config.cutoff), 0.0, switch)
    radial = ((basis * switch[..., None]) @ w["surroundings.radial.weight"].T).reshape(len(atoms), len(atoms), 2, -1)
    unit = np.sqrt(3) * vectors / (distance + own)[..., None]
    values = w["surroundings.elements"][element]
    sums = np.concatenate([np.einsum("nmc,mc->nc", radial[:, :, 0], values),
                           np.einsum("nmd,nmc,mc->ndc", unit, radial[:, :, 1], values).reshape(len(atoms), -1)], axis=1)
    found: Array = sums / np.sqrt(config.avg_num_neighbors) @ w["surroundings.output.weight"].T
    return found


class TestAgainstAbsoluteCoordinates:
    @pytest.mark.parametrize("backend", ["auto", "reference"])
    @pytest.mark.parametrize("name", ["CH3CH2OH", "C6H6", "H2O", "CH4"])
    def test_whole_molecules(self, paper: Potential, name: str, backend: str) -> None:
        atoms = rattled(name)
        found = paper.to(backend=backend).predict(atoms).energies
        np.testing.assert_allclose(found, written_out(paper, atoms), rtol=0, atol=1e-12)
        assert np.abs(found - written_out(paper, atoms, turn_values=False)).max() > 1e-3

    def test_within_a_cutoff(self, atoms: Atoms) -> None:
        potential = small(mode="md", cutoff=3.0, avg_num_neighbors=5.0)
        assert (atoms.get_all_distances() > 3.0).any()
        np.testing.assert_allclose(potential.predict(atoms).energies, written_out(potential, atoms), rtol=0, atol=1e-12)


class TestPaper:
    def test_derivatives_and_moving(self, paper: Potential, atoms: Atoms) -> None:
        assert checks.finite_difference_forces(paper, atoms) <= 1e-8
        assert checks.translation(paper, atoms) <= 1e-11
        assert checks.permutation(paper, atoms) <= 1e-11
        assert checks.batching(paper, [atoms, Atoms(), Atoms("H"), molecule("H2O")]) <= 1e-12
        assert checks.precision(paper, atoms) <= 1e-4
        assert paper.predict(atoms).stress is None
        assert np.abs(paper.predict(atoms).forces.sum(axis=0)).max() <= 1e-13

    def test_all_atoms_attend_to_each_other(self, paper: Potential) -> None:
        """One layer is enough for any distance below the largest, which a cutoff of a third would need three for."""
        chain = Atoms("C2H", [[0, 0, 0], [1.3, 0, 0], [19.0, 0.5, 0]])
        moved = chain.copy()
        moved.positions[2] += [-0.3, 0.2, 0.1]
        potential = small(num_layers=1)
        assert (np.abs(potential.predict(chain).energies - potential.predict(moved).energies) > 1e-4).all()

    def test_periodic_structures_are_refused(self, paper: Potential, atoms: Atoms) -> None:
        atoms.set_cell([15.0] * 3)
        paper.predict(atoms)
        for pbc in ([True] * 3, [False, False, True]):
            atoms.pbc = pbc
            for energy in (paper.predict, MLIPCalculator(paper).get_potential_energy):
                with pytest.raises(StructureError, match="or use a model with mode='md'"):
                    energy(atoms)
        with pytest.raises(StructureError, match=r"structure 1: .*pbc=False"):
            paper.predict([molecule("H2O"), bulk("C")])

    @pytest.mark.parametrize("direction", [[0, 0, 1], [0.6, 0, 0.8], [2 / 7, 3 / 7, 6 / 7]])
    def test_wide_molecules_are_refused(self, paper: Potential, direction: list[float]) -> None:
        """No pair may silently be left out: the neighbour list ends before the cutoff."""
        for width in (19.9, 20 - 1e-9, 20.0, 20 + 1e-9, 20.1):
            far = width * np.array(direction)
            atoms = Atoms("CHO", [0 * far, far / 2, far])
            if width < 20:
                assert len(paper.graph([structure_of(atoms)]).pair) == 6
            else:
                with pytest.raises(StructureError, match=r"below 20 A in width; two atoms are 20\.\d A apart"):
                    paper.predict(atoms)

    def test_molecules_that_become_wide_or_periodic_in_a_run(self, paper: Potential) -> None:
        atoms = Atoms("CO", [[0, 0, 0], [0, 0, 19.5]])
        atoms.calc = MLIPCalculator(paper)
        first = atoms.get_potential_energy()
        atoms.positions[1, 2] = 19.8
        assert atoms.get_potential_energy() != first
        atoms.positions[1, 2] = 20.2
        with pytest.raises(StructureError, match="apart"):
            atoms.get_potential_energy()

    def test_openmm_refuses_them_too(self, paper: Potential) -> None:
        openmm = pytest.importorskip("openmm")
        from mlip.potentials import create_force

        with pytest.raises(StructureError, match="pbc=False"):
            create_force([6, 8], paper, periodic=True)
        system = openmm.System()
        for mass in (12.0, 16.0):
            system.addParticle(mass)
        system.addForce(create_force([6, 8], paper))
        context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
        context.setPositions([[0, 0, 0], [0, 0, 1.95]])
        assert np.isfinite(context.getState(energy=True).getPotentialEnergy()._value)
        context.setPositions([[0, 0, 0], [0, 0, 2.05]])
        with pytest.raises(Exception, match=r"two atoms are 20\.5 A apart"):
            context.getState(energy=True)

    def test_dissociation(self, paper: Potential) -> None:
        for dtype in ("float64", "float32"):
            dimers = [Atoms("CO", [[0, 0, 0], [0, 0, r]]) for r in np.linspace(0.1, 19.9, 100)]
            assert np.isfinite([p.energy for p in paper.to(dtype=dtype).predict(dimers)]).all()

    def test_it_can_be_verified(self, paper: Potential, atoms: Atoms) -> None:
        found = {check.name: check for check in verify_model(paper, atoms)}
        assert all(check.passed for check in found.values())
        short = small(mode="paper", cutoff=5.0)
        assert {check.name: check for check in verify_model(short, atoms)}["binding of two atoms"].passed
        assert "smooth with distance" not in found
        assert "smooth with distance" in {c.name for c in verify_model(small(mode="md", cutoff=3.0), atoms)}


class TestDirect:
    def test_forces(self, direct: Potential, paper: Potential, atoms: Atoms) -> None:
        assert isinstance(direct.model, DirectTransIP)
        assert not direct.model.conservative
        assert paper.model.conservative
        for name in ("CH3CH2OH", "H2O"):
            forces = direct.predict(rattled(name)).forces
            assert np.abs(forces.sum(axis=0)).max() < 1e-14
            assert np.abs(forces).max() > 1e-2
        assert checks.finite_difference_forces(direct, atoms) > 1e-2
        assert direct.predict(atoms).stress is None
        assert not direct.predict(Atoms("C")).forces.any()

    def test_moving(self, direct: Potential, atoms: Atoms) -> None:
        assert checks.translation(direct, atoms) <= 1e-11
        assert checks.permutation(direct, atoms) <= 1e-11
        assert checks.batching(direct, [atoms, Atoms(), Atoms("H"), molecule("H2O")]) <= 1e-12
        assert checks.precision(direct, atoms) <= 1e-4

    def test_average_over_rotations(self, direct: Potential, atoms: Atoms) -> None:
        averaged = direct.to(rotational_average="O")
        matrix = np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])
        for potential, tolerance in ((averaged, 1e-12), (direct, 1e-2)):
            p, turned = potential.predict(atoms), potential.predict(checks.transformed(atoms, matrix))
            difference = max(abs(p.energy - turned.energy), np.abs(p.forces @ matrix - turned.forces).max())
            assert (difference < tolerance) == (potential is averaged)
        assert np.abs(averaged.predict(atoms).forces.sum(axis=0)).max() < 1e-13


class TestConfig:
    @pytest.mark.parametrize(("options", "words"), [
        ({"channels": 18}, "multiple of twice num_heads, 4"), ({"channels": 0}, "channels must be a whole number"),
        ({"channels": 16.0}, "channels"), ({"num_heads": 0}, "num_heads"), ({"num_layers": 0}, "num_layers"),
        ({"num_layers": True}, "num_layers"), ({"feed_forward": 0}, "feed_forward"), ({"num_gaussians": 1}, "num_gaus"),
        ({"switch_width": 0.0}, "switch_width"), ({"switch_width": 30.0}, "must not exceed the cutoff, 20 A"),
        ({"switch_width": float("nan")}, "switch_width"), ({"frequency": -1.0}, "frequency"),
        ({"frequency": float("inf")}, "frequency"), ({"avg_num_neighbors": 0.0}, "avg_num_neighbors"),
        ({"mode": "nonsense"}, "mode must be one of md, paper"),
        ({"mode": None}, "mode"), ({"forces": "nonsense"}, "forces must be one of conservative, direct"),
        ({"mode": "md", "forces": "direct"}, "forces='direct' needs mode='paper'"),
        ({"charges": (1, 0)}, "charges must be a tuple of ascending"), ({"charges": (0, 0)}, "charges"),
        ({"charges": ()}, "at least one"), ({"charges": (0.5,)}, "charges"), ({"charges": (101,)}, "charges"),
        ({"charges": 0}, "charges"), ({"spins": (0,)}, "spins"), ({"spins": (2, 1)}, "spins"),
        ({"heads": ["a", "b"]}, "one head is supported"), ({"size": "XXL"}, "size must be one of XS, S, M, L; 'XXL'"),
        ({"size": ["XS"]}, "size must be one of"), ({"size": 1}, "size must be one of"),
        ({"width": 8}, r"unknown transip option\(s\) width"),
    ], ids=str)
    def test_bad_options(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            small(**options)

    def test_sizes(self, tmp_path: Path) -> None:
        for size, fields in SIZES.items():
            config = TransIPConfig.from_dict({"atomic_numbers": [1], "cutoff": 5.0, "size": size, "num_layers": 1})
            assert {**fields, "num_layers": 1} == {name: getattr(config, name) for name in fields}
        potential = mlip.create("transip", ["H", "O"], size="XS", cutoff=4.0)
        again = mlip.load(potential.save(tmp_path / "xs.mlip"))
        assert again.model.config == potential.model.config
        found = again.model.config.to_dict()
        assert {name: found[name] for name in SIZES["XS"]} == SIZES["XS"]
        assert "size" not in found
        assert b'"size"' not in (tmp_path / "xs.mlip").read_bytes()[:5000]
        default = TransIPConfig((1,), 5.0)
        assert default == dataclasses.replace(default, **SIZES["S"])

    def test_unknown_family_options_of_others(self) -> None:
        with pytest.raises((ConfigError, OptionError), match="hidden_lmax"):
            small(hidden_lmax=1)

    @pytest.mark.parametrize("options", [
        {}, {"forces": "direct"}, {"mode": "md", "cutoff": 4.0},
        {"mode": "md", "cutoff": 4.0, "charges": (-1, 0), "spins": (1, 3)}], ids=str)
    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_files(self, options: dict[str, Any], dtype: str, tmp_path: Path) -> None:
        potential = small(**options, dtype=dtype)
        model: Any = potential.model
        model.state.output.normal_(generator=torch.Generator().manual_seed(0))
        model.scale.fill_(2.5)
        model.shift.fill_(-0.7)
        atoms = rattled("CH3OH")
        if "charges" in options:
            atoms.info.update(charge=-1, spin=3)
        again = mlip.load(potential.save(tmp_path / "model.mlip"))
        assert type(again.model) is type(model)
        assert type(model) is (DirectTransIP if options.get("forces") else TransIP)
        assert again.model.config == model.config
        assert again.dtype == getattr(torch, dtype)
        a, b = potential.predict(atoms), again.predict(atoms)
        assert a.energy == b.energy
        np.testing.assert_array_equal(a.forces, b.forces)
        single = again.to(dtype="float32")
        assert {p.dtype for p in single.model.parameters()} == {torch.float32}
        assert single.predict(atoms).energy == pytest.approx(a.energy, rel=0, abs=1e-4)
        assert again.predict(atoms).energy == a.energy


@pytest.mark.parametrize("forces", ["direct", "conservative"])
def test_engines_warn_of_forces_without_an_energy(forces: str, recwarn: pytest.WarningsRecorder) -> None:
    warnings.simplefilter("always")
    atoms = rattled("CH3OH")
    atoms.calc = MLIPCalculator(small(forces=forces))
    assert np.isfinite(atoms.get_forces()).all()
    assert [w.category for w in recwarn] == [NonConservativeWarning] * (forces == "direct")
