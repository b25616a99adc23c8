"""`TorchSimModel`: torch-sim's own checks, its runners, and errors that name the system."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import chemical_symbols

import mlip
from mlip.calculators import MLIPCalculator
from mlip.errors import DefaultedWarning, MissingDependencyError, NonFiniteError, OptionError, StructureError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the libraries it is built on
    ts = pytest.importorskip("torch_sim", minversion="0.6",
                             reason="torch-sim is not installed: pip install \"mlip-md[batch]\", Python 3.12 or newer")
    from torch_sim.models.interface import validate_model_outputs
    from torch_sim.testing import CONSISTENCY_SIMSTATES, SIMSTATE_GENERATORS, assert_model_calculator_consistency

    from mlip.calculators.torchsim import TorchSimModel

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="session")
def anything(of_elements: Callable[[Sequence[str]], mlip.Potential]) -> mlip.Potential:
    """Each small potential, for nearly all elements."""
    return of_elements(chemical_symbols[1:84])


def rattled(atoms: Atoms, width: float, seed: int) -> Atoms:
    atoms = atoms.copy()
    atoms.rattle(width, seed=seed)
    return atoms


def state_of(systems: list[Atoms], dtype: torch.dtype = torch.float64) -> object:
    return ts.io.atoms_to_state(systems, CPU, dtype)


class TestTheirChecks:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_validate_model_outputs(self, anything: mlip.Potential, dtype: torch.dtype) -> None:
        validate_model_outputs(TorchSimModel(anything, dtype=dtype), CPU, dtype)

    @pytest.mark.parametrize("name", CONSISTENCY_SIMSTATES)
    def test_consistent_with_the_calculator(self, anything: mlip.Potential, name: str) -> None:
        state = SIMSTATE_GENERATORS[name](CPU, torch.float64)
        model = TorchSimModel(anything, compute_stress=bool(state.pbc.any()))
        assert_model_calculator_consistency(
            model, MLIPCalculator(anything), state, energy_rtol=1e-12, energy_atol=1e-9, force_rtol=0.0,
            force_atol=1e-9, stress_rtol=0.0, stress_atol=1e-10)


class TestModel:
    def test_batches_of_crystals(self, mace: mlip.Potential, structures: dict[str, Atoms]) -> None:
        systems = [structures[name] for name in ("cubic", "triclinic", "left_handed", "small_cell")]
        found = TorchSimModel(mace)(state_of(systems))
        expected = mace.predict(systems)
        np.testing.assert_allclose(found["energy"].numpy(), [p.energy for p in expected], rtol=1e-13)
        np.testing.assert_allclose(found["forces"].numpy(), np.concatenate([p.forces for p in expected]), atol=1e-10)
        np.testing.assert_allclose(found["stress"].numpy(), np.stack([p.stress for p in expected]), atol=1e-11)

    def test_lists_follow_the_systems(self, mace: mlip.Potential, structures: dict[str, Atoms]) -> None:
        """Systems move, leave, and come in other places: numbers are those of fresh lists."""
        model = TorchSimModel(mace, skin=1.0)
        names = [["cubic", "triclinic"], ["triclinic", "cubic"], ["triclinic"], ["small_cell", "cubic", "triclinic"]]
        for step, chosen in enumerate(names):
            for width in (0.0, 0.02, 0.3):
                systems = [rattled(structures[name], width, seed=step) for name in chosen]
                found = model(state_of(systems))
                fresh = TorchSimModel(mace, skin=0.0)(state_of(systems))
                for key, value in fresh.items():
                    np.testing.assert_allclose(found[key].numpy(), value.numpy(), rtol=1e-12, atol=1e-10)

    def test_what_is_not_asked_for(self, mace: mlip.Potential, structures: dict[str, Atoms]) -> None:
        model = TorchSimModel(mace, compute_forces=False, compute_stress=False)
        assert set(model(state_of([structures["cubic"]]))) == {"energy"}
        model.compute_stress = True
        assert set(model(state_of([structures["cubic"]]))) == {"energy", "stress"}

    def test_molecules_have_no_stress(self, mace: mlip.Potential, structures: dict[str, Atoms]) -> None:
        assert torch.isnan(TorchSimModel(mace)(state_of([structures["molecule"]]))["stress"]).all()

    def test_precision_of_states(self, mace: mlip.Potential, structures: dict[str, Atoms]) -> None:
        model = TorchSimModel(mace, dtype="float32")
        assert (model.dtype, model.potential.dtype) == (torch.float64, torch.float32)
        assert model(state_of([structures["cubic"]], torch.float32))["energy"].dtype == torch.float32

    def test_charge_and_spin(self, structures: dict[str, Atoms]) -> None:
        charged = mlip.create("transip", ["H", "C", "O"], seed=0, dtype="float64", channels=16, num_layers=2,
                              num_heads=2, num_gaussians=6, cutoff=4.0, charges=(-1, 0, 1), spins=(1, 2))
        for value in charged.model.parameters():
            value.add_(0.1 * torch.randn(value.shape, dtype=value.dtype))  # untrained, it treats all charges alike
        systems = [structures["molecule"], structures["molecule"].copy()]
        for atoms, charge, spin in zip(systems, (0, 1), (1, 2), strict=True):
            atoms.info |= {"charge": charge, "spin": spin}
        extras = {"charge": "charge", "spin": "spin"}
        state = ts.io.atoms_to_state(systems, CPU, torch.float64, system_extras_map=extras)
        found = TorchSimModel(charged, compute_stress=False)(state)["energy"]
        expected = [p.energy for p in charged.predict(systems)]
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-10)
        assert abs(expected[0] - expected[1]) > 1e-6
        with pytest.warns(DefaultedWarning):
            TorchSimModel(charged, compute_stress=False)(state_of([structures["molecule"]]))


class TestMistakes:
    def test_the_bad_system_is_named(self, mace: mlip.Potential, structures: dict[str, Atoms]) -> None:
        state = state_of([structures["cubic"], structures["triclinic"], structures["cubic"]])
        state.positions[5] = float("nan")
        with pytest.raises((StructureError, NonFiniteError), match="structure 1: NaN"):
            TorchSimModel(mace)(state)

    def test_unknown_element(self, mace: mlip.Potential, structures: dict[str, Atoms]) -> None:
        with pytest.raises(StructureError, match=r"structure 1: .*Fe"):
            TorchSimModel(mace)(state_of([structures["cubic"], bulk("Fe")]))

    def test_options(self, mace: mlip.Potential) -> None:
        with pytest.raises(OptionError, match="int"):
            TorchSimModel(3)  # type: ignore[arg-type]
        with pytest.raises(OptionError, match="skin"):
            TorchSimModel(mace, skin=-1.0)


class TestRunners:
    def test_static(self, mace: mlip.Potential, structures: dict[str, Atoms]) -> None:
        systems = [structures["cubic"], structures["triclinic"]]
        found = ts.static(system=systems, model=TorchSimModel(mace))
        for result, expected in zip(found, mace.predict(systems), strict=True):
            assert float(result["potential_energy"]) == pytest.approx(expected.energy, rel=1e-12)

    @pytest.mark.filterwarnings("ignore:All systems have reached the maximum")
    def test_relaxation_of_cells_in_batches(self, mace: mlip.Potential) -> None:
        systems = [rattled(bulk("Cu", cubic=True), 0.05, seed=i) for i in range(4)]
        model = TorchSimModel(mace)
        batcher = ts.InFlightAutoBatcher(model, memory_scales_with="n_atoms", max_memory_scaler=8)
        before = ts.static(system=systems, model=model)
        final = ts.optimize(system=systems, model=model, optimizer=ts.Optimizer.fire, max_steps=10,
                            autobatcher=batcher, init_kwargs={"cell_filter": ts.CellFilter.frechet})
        assert final.n_systems == 4
        for energy, start in zip(final.energy, before, strict=True):
            assert float(energy) < float(start["potential_energy"])

    def test_dynamics_conserve_the_energy(self, mace: mlip.Potential) -> None:
        systems = [rattled(bulk("Cu", cubic=True), 0.02, seed=i) for i in range(2)]
        model = TorchSimModel(mace, compute_stress=False)
        kept: list[torch.Tensor] = []
        state = ts.nve_init(ts.initialize_state(systems, CPU, model.dtype), model, kT=torch.tensor(300 * 8.617e-5))
        step = torch.tensor(0.5e-3 * ts.units.MetalUnits.time)
        for _ in range(40):
            state = ts.nve_step(state, model, dt=step)
            kinetic = ts.calc_kinetic_energy(masses=state.masses, momenta=state.momenta, system_idx=state.system_idx)
            kept.append(torch.stack([state.energy + kinetic, kinetic]))
        total, moving = torch.stack(kept).unbind(dim=1)
        assert float(np.ptp(moving.numpy(), axis=0).min()) > 1e-3
        assert float(np.ptp(total.numpy(), axis=0).max()) < 0.01 * float(np.ptp(moving.numpy(), axis=0).min())


def test_the_error_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import sys

    monkeypatch.setitem(sys.modules, "torch_sim.models.interface", None)
    monkeypatch.delitem(sys.modules, "mlip.calculators.torchsim")
    with pytest.raises(MissingDependencyError, match=r"mlip-md\[batch\]"):
        importlib.import_module("mlip.calculators.torchsim")
