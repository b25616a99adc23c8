"""The compiled kernels are compared with plain torch on the first structure: once, cheaply, and not in vain."""

from __future__ import annotations

import copy
import importlib
import math
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

import mlip
from mlip import Structure
from mlip.calculators import MLIPCalculator
from mlip.checkpoints import agreement
from mlip.errors import BackendError, NonFiniteError
from mlip.graph import AtomGraph
from mlip.graph.labelled import Labelled
from mlip.io.ase import structure_of
from mlip.ops import compiled_is_available
from mlip.training import TrainingConfig, split, train

needs_kernels = pytest.mark.skipif(not compiled_is_available(), reason="the compiled kernels are not installed")
Sabotage = Callable[[str, float], None]


@pytest.fixture
def fresh(mace: mlip.Potential) -> mlip.Potential:
    """A potential that has evaluated nothing yet."""
    return mlip.Potential(copy.deepcopy(mace.model), mace.info)


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[AtomGraph]:
    """The graphs that were evaluated in order to compare back ends or radial functions."""
    found: list[AtomGraph] = []
    evaluate = agreement.evaluate

    def counted(model: Any, graph: AtomGraph, **options: Any) -> Any:
        found.append(graph)
        return evaluate(model, graph, **options)

    monkeypatch.setattr(agreement, "evaluate", counted)
    return found


@pytest.fixture
def sabotage(monkeypatch: pytest.MonkeyPatch) -> Sabotage:
    """A function that makes a compiled op wrong by a factor; `reference` makes plain torch wrong instead."""

    places = {"messages": ["mlip.ops.edge_convolution._convolve"],
              "reference": ["mlip.ops.edge_convolution._reference"],
              "linear": ["mlip.nn.linear.degree_linear"],
              "forces": ["mlip.nn.convolution.convolve_backward"],
              "harmonics": ["mlip.models.mace.model.spherical_harmonics",
                            "mlip.models.equiformer_v3.neighbourhood.spherical_harmonics"],
              "products": ["mlip.models.equiformer_v3.feed_forward.sphere_product"],
              "contraction": ["mlip.models.mace.blocks.symmetric_contraction",  # of MACE, and of its Gaunt variants
                              "mlip.models.mace.gaunt.gaunt_polynomial"]}

    def wrong(what: str, factor: float) -> None:
        for path in places[what]:
            place, name = path.rsplit(".", 1)
            module = importlib.import_module(place)
            monkeypatch.setattr(module, name, off_by(getattr(module, name), factor))

    def off_by(right: Callable[..., Any], factor: float) -> Callable[..., Any]:
        def op(*arguments: Any, **options: Any) -> Any:
            out = right(*arguments, **options)
            if (options or {"backend": arguments[-1]})["backend"] == "reference":
                return out
            if isinstance(out, torch.Tensor):
                return out * factor
            return type(out)(None if t is None else t * factor for t in out)

        return op

    return wrong


def isolated() -> Atoms:
    return Atoms("Cu")


def tiny_cell() -> Atoms:
    """One atom with so many images that the whole cell is too much."""
    return Atoms("Cu", cell=np.eye(3) * 0.6, pbc=True)


def test_tolerances() -> None:
    """Those that the documentation promises."""
    assert {torch.float64: 1e-9, torch.float32: 5e-5} == agreement.TOLERANCE
    assert agreement.LARGEST_ERROR == 1e-6


@needs_kernels
class TestOnce:
    def test_for_each_potential(self, fresh: mlip.Potential, pieces: list[AtomGraph]) -> None:
        for _ in range(3):
            fresh.predict(molecule("CH3OH"))
            fresh.predict(bulk("Cu"))
        assert len(pieces) == 2  # both back ends, on one structure
        assert pieces[0] is pieces[1]
        single = fresh.to(dtype="float32")
        for _ in range(2):
            single.predict(molecule("CH3OH"))
        assert len(pieces) == 4
        table = fresh.to(radial="tabulated")
        for _ in range(2):
            table.predict(molecule("CH3OH"))
        assert len(pieces) == 8  # exact and tabulated functions too
        assert fresh.backend == single.backend == table.backend == "auto"

    def test_plain_torch_has_nothing_to_compare(self, fresh: mlip.Potential, pieces: list[AtomGraph]) -> None:
        plain = fresh.to(backend="reference")
        plain.predict(molecule("CH3OH"))
        assert not pieces
        plain.to(radial="tabulated").predict(molecule("CH3OH"))
        assert len(pieces) == 2

    def test_a_batch(self, fresh: mlip.Potential, pieces: list[AtomGraph]) -> None:
        fresh.predict([molecule("H2O"), molecule("CH3OH"), bulk("Cu")])
        assert [p.num_atoms for p in pieces] == [3, 3]

    def test_a_simulation(self, fresh: mlip.Potential, pieces: list[AtomGraph]) -> None:
        atoms = molecule("CH3OH")
        atoms.calc = MLIPCalculator(fresh)
        for _ in range(3):
            atoms.get_forces()
            atoms.rattle(0.01)
        assert len(pieces) == 2

    def test_again_after_structures_without_edges(self, fresh: mlip.Potential, sabotage: Sabotage) -> None:
        """Isolated atoms often come first, and say nothing."""
        sabotage("messages", 1.01)
        for _ in range(2):
            fresh.predict(isolated())
            fresh.predict(Atoms("H2", [[0, 0, 0], [0, 0, 50]]))
        with pytest.raises(BackendError):
            fresh.predict(molecule("CH3OH"))

    def test_every_time_while_they_differ(self, fresh: mlip.Potential, sabotage: Sabotage) -> None:
        sabotage("messages", 1.01)
        for _ in range(2):
            with pytest.raises(BackendError):
                fresh.predict(molecule("CH3OH"))
        assert fresh.backend == "auto"
        fresh.to(backend="reference").predict(molecule("CH3OH"))

    def test_by_one_thread(self, fresh: mlip.Potential, monkeypatch: pytest.MonkeyPatch) -> None:
        """The model works in plain torch for a while; who evaluates meanwhile has to wait."""
        inside, arrived, calls, check = threading.Event(), threading.Event(), [], agreement.evaluate
        compare = mlip.Potential.check_backend

        def noted(self: mlip.Potential, *arguments: Any) -> None:
            if inside.is_set():
                arrived.set()
            compare(self, *arguments)

        def slow(model: Any, graph: AtomGraph, **options: Any) -> Any:
            calls.append(model.backend)
            if model.backend == "reference":
                inside.set()
                assert arrived.wait(60)
                threading.Event().wait(0.3)  # enough for the other to begin, if it could
            return check(model, graph, **options)

        monkeypatch.setattr(agreement, "evaluate", slow)
        monkeypatch.setattr(mlip.Potential, "check_backend", noted)
        used, module = [], importlib.import_module("mlip.checkpoints.potential")

        def predict(model: Any, graph: AtomGraph, **options: Any) -> Any:
            used.append(model.backend)
            return check(model, graph, **options)

        monkeypatch.setattr(module, "evaluate", predict)
        energies: list[float] = []
        threads = [threading.Thread(target=lambda: energies.append(fresh.predict(molecule("CH3OH")).energy))
                   for _ in range(2)]
        threads[0].start()
        assert inside.wait(60)
        threads[1].start()
        for thread in threads:
            thread.join()
        assert calls == ["auto", "reference"]
        assert used == ["auto", "auto"]
        assert fresh.backend == "auto"
        assert energies[0] == energies[1]


@needs_kernels
class TestPiece:
    @pytest.mark.parametrize("atoms", [bulk("Cu", cubic=True) * (4, 4, 3), tiny_cell(), tiny_cell() * (2, 1, 1)],
                             ids=["many atoms", "many edges", "two atoms"])
    def test_is_small(self, fresh: mlip.Potential, pieces: list[AtomGraph], atoms: Atoms) -> None:
        atoms.rattle(0.01, seed=1)
        fresh.evaluate([structure_of(atoms)])
        for piece in pieces:
            assert 13 <= piece.num_atoms <= agreement.MOST_ATOMS
            assert 13 <= piece.edge_index.shape[1] <= fresh.model.checked_edges
            assert piece.num_structures == 1
        assert len(pieces) == 2

    def test_is_all_of_a_small_structure(self, fresh: mlip.Potential, pieces: list[AtomGraph],
                                         structure: Atoms) -> None:
        structure = structure[: agreement.MOST_ATOMS]
        fresh.predict(structure)
        (piece, _), expected = pieces, fresh.graph([structure_of(structure)])
        assert torch.equal(piece.positions, expected.positions)
        assert torch.equal(piece.edge_index, expected.edge_index)
        assert torch.equal(piece.cell, expected.cell)

    def test_is_where_the_edges_are(self, fresh: mlip.Potential, pieces: list[AtomGraph]) -> None:
        """The first atoms of a gas have no neighbours; the oxygen of its only molecule is the best coordinated."""
        apart = np.arange(40)[:, None] * [0, 0, 20.0]
        fresh.predict(Atoms("H40", apart) + Atoms("OCH", [[900, 0, 0], [903, 0, 0], [898, 0, 0]]))
        assert sorted(pieces[0].numbers.tolist()) == [1, 6, 8]
        assert pieces[0].edge_index.shape[1] == 4

    def test_keeps_the_distances(self, fresh: mlip.Potential, pieces: list[AtomGraph]) -> None:
        atoms = bulk("Cu", cubic=True) * (3, 3, 3)
        atoms.rattle(0.1, seed=2)
        fresh.predict(atoms)
        piece = pieces[0]
        r = (piece.positions[1:] - piece.positions[0]).norm(dim=1).sort().values.numpy()
        best = [np.sort(row[row < fresh.cutoff])[1:] for row in atoms.get_all_distances(mic=True)]
        most = max(len(row) for row in best)
        assert any(len(row) == most and np.allclose(row[:31], r) for row in best)

    def test_keeps_the_head(self, pieces: list[AtomGraph], sabotage: Sabotage) -> None:
        p = mlip.create("mace", ["H", "C", "O", "Cu"], heads=("a", "b"), channels=4, edge_lmax=1, cutoff=4.0,
                        radial_mlp=(8,), dtype="float64")
        for atoms in (molecule("CH3OH"), bulk("Cu", cubic=True) * (3, 3, 3)):
            atoms.info["head"] = "b"
            mlip.Potential(p.model, p.info).predict(atoms)
        assert [piece.head.tolist() for piece in pieces] == [[1]] * 4


@needs_kernels
@pytest.mark.parametrize("dtype", ["float64", "float32"])
class TestMismatch:
    @pytest.mark.parametrize("what", ["messages", "linear", "forces", "harmonics", "contraction", "reference"])
    def test_is_an_error_with_numbers(self, any_mace: mlip.Potential, sabotage: Sabotage, dtype: str,
                                      what: str) -> None:
        sabotage(what, 1 + {"float64": 1e-6, "float32": 1e-1}[dtype])
        self.expect(any_mace.to(dtype=dtype, backend="compiled"), dtype, what)

    @pytest.mark.parametrize("what", ["messages", "harmonics", "products", "reference"])
    def test_of_equiformer(self, any_equiformer: mlip.Potential, sabotage: Sabotage, dtype: str, what: str) -> None:
        sabotage(what, 1 + {"float64": 1e-6, "float32": 1e-1}[dtype])
        self.expect(any_equiformer.to(dtype=dtype, backend="compiled"), dtype, what)

    @staticmethod
    def expect(potential: mlip.Potential, dtype: str, what: str) -> None:
        kind = r"forces differ by (\S+) eV/A" if what == "forces" else r"energies of atoms differ by (\S+) eV"
        with pytest.raises(BackendError, match=r"use backend='reference', and please report this") as caught:
            potential.predict(crowd())
        found = re.match(rf"backend='compiled': {kind} from plain torch on 10 atoms of this structure \(allowed: "
                         r"(\S+)\); use", str(caught.value))
        assert found is not None, str(caught.value)
        least = {"float64": 1e-9, "float32": 5e-5}[dtype]
        assert 50 * least > float(found[2]) >= least  # the largest energy or force is below 50
        assert float(found[1]) > float(found[2])

    def test_is_not_hidden_by_isolated_atoms(self, fresh: mlip.Potential, sabotage: Sabotage, dtype: str) -> None:
        sabotage("messages", 1 + {"float64": 1e-6, "float32": 1e-1}[dtype])
        fresh.model.atomic_energies.fill_(-1e9)
        with pytest.raises(BackendError):
            fresh.to(dtype=dtype, backend="compiled").predict(crowd())

    def test_is_seen_in_a_piece_of_a_crystal(self, fresh: mlip.Potential, sabotage: Sabotage, dtype: str) -> None:
        sabotage("messages", 1 + {"float64": 1e-6, "float32": 1e-1}[dtype])
        for atoms in (bulk("Cu", cubic=True) * (3, 3, 3), bulk("Cu", a=2.9), tiny_cell()):
            with pytest.raises(BackendError):
                fresh.to(dtype=dtype, backend="compiled").evaluate([structure_of(atoms)])

    def test_to_nan(self, fresh: mlip.Potential, sabotage: Sabotage, dtype: str) -> None:
        sabotage("messages", math.nan)
        with pytest.raises(BackendError, match="energies of atoms differ by inf eV"):
            fresh.to(dtype=dtype, backend="compiled").predict(molecule("CH3OH"))

    def test_training_does_not_begin(self, fresh: mlip.Potential, sabotage: Sabotage, dtype: str,
                                     tmp_path: Path) -> None:
        sabotage("messages", 1 + {"float64": 1e-6, "float32": 1e-1}[dtype])
        none = Labelled(structure_of(isolated()), 0.0, np.zeros((1, 3)))
        example = Labelled(structure_of(crowd()), 0.0, np.zeros((10, 3)))
        with pytest.raises(BackendError):
            train(fresh.to(dtype=dtype, backend="compiled"), [none, example], [example], tmp_path / "run")
        assert not (tmp_path / "run").exists()


def crowd() -> Atoms:
    return Atoms("H4C3O2Cu", np.random.default_rng(0).uniform(0, 5, (10, 3)), cell=np.eye(3) * 5 + 0.2, pbc=True)


@needs_kernels
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_no_false_alarm(potential: mlip.Potential, structures: dict[str, Atoms], dtype: str) -> None:
    close = Atoms("HCu", [[0, 0, 0], [0.002, 0, 0]])  # of enormous repulsion
    for atoms in (*structures.values(), isolated(), tiny_cell(), bulk("Cu"), close, bulk("Cu", cubic=True) * (3, 3, 3),
                  Atoms("H", cell=np.eye(3) * 30, pbc=True), Atoms("H2", [[0, 0, 0], [0, 0, 9]])):
        potential.to(dtype=dtype, backend="compiled").evaluate([structure_of(atoms)])
        if potential.model.config.family == "mace":
            potential.to(dtype=dtype, radial="tabulated", backend="compiled").evaluate([structure_of(atoms)])


def test_no_structures(fresh: mlip.Potential) -> None:
    assert fresh.evaluate([]) == []


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("radial", ["exact", "tabulated"])
def test_weights_that_are_nan_are_no_matter_of_back_ends(fresh: mlip.Potential, backend: str, radial: str) -> None:
    fresh.model.embedding.fill_(math.nan)
    with pytest.raises(NonFiniteError):
        fresh.to(backend=backend, radial=radial).predict(molecule("CH3OH"))


@pytest.mark.parametrize(("ours", "theirs", "agree"), [
    ([1.0, 2.0], [1.0, 2.0], True), ([1.0, 2.0], [1.0, 2.1], False), ([], [], True),
    ([math.nan, 1.0], [math.nan, 1.0], True), ([math.nan, 1.0], [math.nan, 1.1], False),
    ([math.nan, 1.0], [0.0, 1.0], False), ([0.0, 1.0], [math.nan, 1.0], False),
    ([0.0, 1.0], [math.inf, 1.0], False), ([math.inf, 1.0], [0.0, 1.0], False), ([math.inf], [math.inf], True),
    ([1e6 + 9e-4], [1e6], True), ([1e6 + 1.1e-3], [1e6], False)])
def test_what_counts_as_equal(ours: list[float], theirs: list[float], agree: bool) -> None:
    difference, allowed = agreement._compare(*(torch.tensor(x, dtype=torch.float64) for x in (ours, theirs)), 1e-9)
    assert (difference <= allowed) is agree


def test_in_the_inference_mode_of_a_caller(potential: mlip.Potential) -> None:
    expected = potential.predict(crowd())
    for radial in ("exact", "tabulated") if potential.model.config.family == "mace" else ("exact",):
        twin = potential.to(radial=radial, backend="reference")
        with torch.inference_mode():
            for each in (twin, twin.to(backend="auto"), potential.to(radial=radial, dtype="float32")):
                found = each.predict(crowd())
                np.testing.assert_allclose(found.forces, expected.forces, rtol=0, atol=1e-6 if each is twin else 1e-3)


def test_tables_that_are_too_far_off(fresh: mlip.Potential, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "LARGEST_ERROR", 1e-18)
    table = fresh.to(radial="tabulated")
    with pytest.raises(BackendError, match=r"radial='tabulated' changes the energy of 10 atoms of this structure by "
                                           r"\S+ eV/atom \(allowed: 1e-18\); use radial='exact'"):
        table.predict(crowd())


def test_training_a_tabulated_potential_trains_the_exact_one(fresh: mlip.Potential, tmp_path: Path) -> None:
    structures = [Structure.create([8, 1, 1], np.array([[0, 0, 0], [0.95, 0, 0], [-0.25, 0.9 + 0.01 * i, 0]]))
                  for i in range(4)]
    examples = [Labelled(s, -2.0, np.zeros((3, 3))) for s in structures]
    config = TrainingConfig(epochs=1, batch_size=2, learning_rate=0.01, ema_decay=0.1)
    best = mlip.load(train(fresh.to(radial="tabulated"), *split(examples, 0.1, 0), tmp_path / "run", config))
    exact = mlip.load(train(fresh, *split(examples, 0.1, 0), tmp_path / "other", config))
    assert best.radial == "exact"
    assert best.predict(molecule("H2O")).energy == exact.predict(molecule("H2O")).energy
    weights = [p.model.state_dict()["interactions.0.radial.weights.0"] for p in (best, fresh)]
    assert not torch.equal(*weights)
