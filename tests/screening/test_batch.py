"""Company does not change a bit; what cannot be evaluated harms nobody else."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.filters import FrechetCellFilter
from ase.optimize import LBFGS

import mlip
from mlip.calculators import MLIPCalculator
from mlip.checkpoints import Prediction
from mlip.errors import MemoryLimitError, RelaxationError
from mlip.graph import Structure
from mlip.neighbors import neighbor_list
from mlip.nn.derivatives import BatchPrediction
from mlip.screening.batch import BatchedModel, System
from mlip.screening.cell import CellFilter
from mlip.screening.filler import ROWS, filler
from mlip.screening.memory import forecast_of
from mlip.screening.properties import relax


def crystals(count: int) -> list[Atoms]:
    """Rattled crystals of the elements of `gaunt-mace-elements`, 1 to 32 atoms, strained by some percent."""
    kinds = [("Ni", "fcc", 3.5), ("Cu", "fcc", 3.6), ("Li", "bcc", 3.4), ("Mo", "bcc", 3.15), ("Si", "diamond", 5.4),
             ("Ge", "diamond", 5.7)]
    out = []
    for i in range(count):
        symbol, lattice, a = kinds[i % 6]
        atoms = bulk(symbol, lattice, a=a * (1 + 0.03 * np.sin(i)), cubic=bool(i % 2)) * (1 + i % 2, 1, 1)
        atoms.rattle(0.04, seed=i)
        if i % 4 == 1:
            atoms.symbols[0] = "Cu"
        out.append(atoms)
    return out


@pytest.fixture(scope="module", params=["float32", "float64"])
def elements(request: pytest.FixtureRequest) -> mlip.Potential:
    """The bundled model of six elements."""
    return mlip.load("gaunt-mace-elements", dtype=request.param)


def same(a: Prediction | Exception, b: Prediction | Exception) -> bool:
    assert isinstance(a, Prediction)
    assert isinstance(b, Prediction)
    assert a.forces is not None
    assert a.stress is not None
    return (a.energy == b.energy and np.array_equal(a.forces, b.forces) and np.array_equal(a.stress, b.stress))


@pytest.mark.parametrize("name", ["gaunt-mace-elements", "equiformer-v3-elements"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_do_not_depend_on_company(name: str, dtype: str) -> None:
    potential = mlip.load(name, dtype=dtype)
    model = BatchedModel(potential)
    assert model.most > 0
    found = crystals(16)

    def of(which: Sequence[int]) -> list[Prediction | Exception]:
        return model([System.of(found[i], potential) for i in which])

    alone = [of([i])[0] for i in range(16)]
    draw = np.random.default_rng(1)
    for _ in range(6):
        which = draw.permutation(16)[: draw.integers(2, 16)].tolist()
        assert all(same(one, alone[i]) for one, i in zip(of(which), which, strict=True))
    plain = potential.predict(found[3])
    assert alone[3].energy == pytest.approx(plain.energy, abs=1e-5)  # type: ignore[union-attr]


def test_a_model_that_is_not_independent_works_alone(binding: mlip.Potential, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its energies tell how many structures are in the call."""
    evaluate = mlip.Potential.evaluate_batch

    def telling(self: mlip.Potential, structures: Sequence[Structure], **options: Any) -> BatchPrediction:
        found = evaluate(self, structures, **options)
        return dataclasses.replace(found, energies=found.energies + 1e-9 * len(structures))

    monkeypatch.setattr(mlip.Potential, "evaluate_batch", telling)
    model, three = BatchedModel(binding), [bulk("Cu", a=a) for a in (3.3, 3.4, 3.5)]
    assert model.most == 0
    together = model([System.of(atoms, binding) for atoms in three])
    assert all(same(one, model([System.of(atoms, binding)])[0]) for one, atoms in zip(together, three, strict=True))
    for atoms, one in zip(three, together, strict=True):
        assert isinstance(one, Prediction)
        assert one.energies.sum() == pytest.approx(binding.predict(atoms).energy, abs=1e-7)


def test_a_model_that_takes_no_crystals_works_alone() -> None:
    potential = mlip.load("transip-acac")
    model = BatchedModel(potential)
    assert model.most == 0
    molecules = [molecule(name) for name in ("CH3OH", "H2O", "C6H6")]
    found = model([System.of(atoms, potential) for atoms in molecules])
    for atoms, one in zip(molecules, found, strict=True):
        assert isinstance(one, Prediction)
        assert one.energy == pytest.approx(potential.predict(atoms).energy, abs=1e-5)


@pytest.mark.parametrize("names", [["CH3OH"], ["H2O", "C6H6", "CH3OH"], ["H"]])
def test_filler(names: list[str], mace: mlip.Potential) -> None:
    from mlip.io.ase import structure_of

    structures = [structure_of(molecule(name)) for name in names]
    edges = [neighbor_list(s.positions, 4.0) for s in structures]
    beside, links = filler(structures, edges, 4.0)
    numbers = np.concatenate([s.numbers for s in [*structures, beside]])
    assert len(numbers) % ROWS == 0
    assert sum(len(e.senders) for e in [*edges, links]) % (2 * ROWS) == 0
    assert not (np.unique(numbers, return_counts=True)[1] % 4).any()
    assert set(beside.numbers) <= {z for s in structures for z in s.numbers.tolist()}


def test_the_memory_is_a_limit(elements: mlip.Potential) -> None:
    model = BatchedModel(elements, most=0, limit=1500)
    small, large = model([System.of(atoms, elements) for atoms in (bulk("Cu"), bulk("Cu", cubic=True) * 3)])
    assert isinstance(small, Prediction)
    assert isinstance(large, MemoryLimitError)
    forecast = forecast_of(elements)
    assert forecast.bytes(forecast.largest(8 * 10**9)) < 8e9
    with pytest.raises(MemoryLimitError):
        forecast.largest(10**6)


def test_the_gradient_of_the_cell_filter(binding: mlip.Potential) -> None:
    atoms = bulk("Cu", "fcc", a=3.4, cubic=True)
    atoms.rattle(0.1, seed=2)
    atoms.calc = MLIPCalculator(binding)
    target, draw = CellFilter(atoms), np.random.default_rng(0)
    x = target.get_positions()
    way = draw.normal(size=(3, 3))
    x[-3:] += 0.4 * (way + way.T)  # 0.1 in the logarithm of four atoms
    target.set_positions(x)
    assert target.get_positions() == pytest.approx(x, abs=1e-12)
    forces = target.get_forces()
    for _ in range(4):
        step = draw.normal(size=x.shape)
        step[-3:] = 0.5 * (step[-3:] + step[-3:].T)
        energies = []
        for sign in (1, -1):
            target.set_positions(x + sign * 1e-4 * step)
            energies.append(target.get_potential_energy())
        assert -(energies[0] - energies[1]) / 2e-4 == pytest.approx(float((forces * step).sum()), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("cell", [True, False])
def test_relaxed_as_ase_does(cell: bool) -> None:
    potential = mlip.load("gaunt-mace-elements", dtype="float64")
    settings = relax.Settings(fmax=1e-4, cell=cell)
    found = dict(relax.relax_all(crystals(6), BatchedModel(potential), settings))
    for place, start in enumerate(crystals(6)):
        one = found[place]
        assert isinstance(one, dict)
        atoms = start.copy()
        atoms.calc = MLIPCalculator(potential)
        assert LBFGS(FrechetCellFilter(atoms) if cell else atoms, logfile=None).run(fmax=1e-4, steps=500)
        assert one["energy"] == pytest.approx(atoms.get_potential_energy(), abs=2e-6)
        assert one["volume"] == pytest.approx(atoms.get_volume(), rel=2e-4)
        assert one["max_force"] < 1e-4
        assert relax.compute(start, potential, settings) == one
        final = relax.restored(one["structure"])
        assert potential.predict(final).energy == pytest.approx(one["energy"], abs=1e-10)


def test_symmetry_is_kept() -> None:
    spglib = pytest.importorskip("spglib")
    potential = mlip.load("gaunt-mace-elements", dtype="float64")
    start = bulk("Cu", "fcc", a=3.5, cubic=True)
    start.set_cell(start.cell.array @ np.diag([1.0, 1.0, 1.06]), scale_atoms=True)
    free, kept = (relax.compute(start, potential, relax.Settings(symmetry=symmetry)) for symmetry in (False, True))
    for one in (free, kept):
        final = relax.restored(one["structure"])
        assert spglib.get_spacegroup((final.cell.array, final.get_scaled_positions(), final.numbers), 1e-2)
    cell = relax.restored(kept["structure"]).cell.array
    assert np.abs(cell - np.diag(np.diag(cell))).max() < 1e-12
    assert cell[0, 0] == pytest.approx(cell[1, 1], abs=1e-12)


def test_no_minimum() -> None:
    potential = mlip.load("gaunt-mace-elements")
    with pytest.raises(RelaxationError, match="no minimum within 2 steps"):
        relax.compute(crystals(2)[1], potential, relax.Settings(steps=2))
    with pytest.raises(RelaxationError, match="volume"):
        relax.compute(bulk("Li", "bcc", a=2.2), potential, relax.Settings())


def test_numbers_that_are_none_stay_where_they_arise() -> None:
    potential = mlip.load("gaunt-mace-elements", dtype="float64")
    potential.predict(bulk("Cu"))
    model = BatchedModel(potential, most=32_768)
    clean = model([System.of(atoms, potential) for atoms in (bulk("Cu"), bulk("Ni"), bulk("Si"))])
    with_nan = potential.elements.index("Ge")
    potential.model.get_parameter("embedding").data[with_nan] = np.nan
    found = model([System.of(bulk(symbol), potential) for symbol in ("Ge", "Cu", "Ni", "Ge", "Si")])
    assert [type(found[i]).__name__ for i in (0, 3)] == ["NonFiniteError"] * 2
    assert all(same(found[i], one) for i, one in zip((1, 2, 4), clean, strict=True))
