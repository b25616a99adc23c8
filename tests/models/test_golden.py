"""Energies, forces and stress of mace-torch 0.3.16, to the last digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlip.checkpoints import Potential, from_reference
from mlip.neighbors import neighbor_list
from mlip.ops import compiled_is_available

CASES = ("mace_l2_c2_n1", "mace_l3_c3_n2", "mace_l3_c3_n2_L2", "mace_l3_c3_n2_inv_heads2",
         "mace_l3_c3_n2_mp0b_like", "mace_l3_c3_n2_zbl", "mace_plain_l2_c3_n2")


BACKENDS = [pytest.param("compiled", marks=pytest.mark.skipif(not compiled_is_available(),
                                                              reason="the compiled kernels are not installed")),
            "reference"]


def compare(potential: Potential, golden: Any, energy: float, forces: float) -> None:
    for i, (structure, found) in enumerate(zip(golden.structures, potential.evaluate(golden.structures), strict=True)):
        assert found.energy == pytest.approx(golden[i, "energy"].item(), rel=0, abs=energy)
        np.testing.assert_allclose(found.energies, golden[i, "node_energy"], rtol=0, atol=energy)
        np.testing.assert_allclose(found.forces, golden[i, "forces"], rtol=0, atol=forces)
        if structure.volume is None:
            assert found.stress is None
        else:
            np.testing.assert_allclose(found.stress, golden[i, "stress"][0], rtol=0, atol=forces)


def compare_to_scale(potential: Potential, golden: Any, tolerance: float) -> None:
    """Compare each structure alone; 1 stands for 1 eV, 1 eV/A and 1 eV/A^3, or the largest number where that is more.

    Of energies the part above the isolated atoms counts, which is what a model computes.
    """
    for i, structure in enumerate(golden.structures):
        (found,) = potential.evaluate([structure])
        isolated = potential.model.isolated_energies(potential.graph([structure])).numpy()
        pairs = [(found.energies - isolated, golden[i, "node_energy"] - isolated), (found.forces, golden[i, "forces"])]
        if structure.volume is not None:
            pairs.append((found.stress, golden[i, "stress"][0]))
        for ours, theirs in pairs:
            scale = max(1.0, float(np.abs(theirs).max()))
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale)
        assert abs(found.energy - golden[i, "energy"].item()) <= len(structure) * tolerance * scale_of(pairs)


def scale_of(pairs: list[tuple[Any, Any]]) -> float:
    return max(1.0, float(np.abs(pairs[0][1]).max()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_model_that_comes_with_the_sources(plain: Any, backend: str) -> None:
    potential = from_reference("mace", plain.weights(), plain.config).to(backend=backend)
    assert potential.dtype == torch.float64
    compare(potential, plain, 1e-10, 1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
def test_its_float32_weights(plain: Any, backend: str) -> None:
    potential = from_reference("mace", plain.weights(torch.float32), plain.config).to(backend=backend)
    assert potential.dtype == torch.float32
    compare(potential, plain, 1e-4, 1e-4)
    compare_to_scale(potential, plain, 1e-5)
    assert potential.model.atomic_energies.dtype == torch.float64


@pytest.mark.parametrize("name", CASES)
class TestEveryGoldenModel:
    """In both precisions, with each back end, with exact and with tabulated radial functions."""

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize(("dtype", "radial", "tolerance"), [
        ("float32", "exact", 1e-5), ("float64", "tabulated", 1e-7)])
    def test_to_scale(self, name: str, shared_dir: Path, golden_file: Any, backend: str, dtype: str, radial: str,
                      tolerance: float) -> None:
        golden = golden_file.read(shared_dir / "golden" / "gaunt_mace" / f"{name}.npz")
        weights = golden.weights(getattr(torch, dtype))
        potential = from_reference("mace", weights, golden.config).to(backend=backend, radial=radial)
        assert potential.dtype == getattr(torch, dtype)
        compare_to_scale(potential, golden, tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_every_golden_model(name: str, shared_dir: Path, golden_file: Any, backend: str) -> None:
    golden = golden_file.read(shared_dir / "golden" / "gaunt_mace" / f"{name}.npz")
    potential = from_reference("mace", golden.weights(), golden.config).to(backend=backend)
    assert (potential.dtype, potential.backend) == (torch.float64, backend)
    assert potential.heads == tuple(golden.config["heads"] or ("default",))
    compare(potential, golden, 1e-10, 1e-11)
    for i, structure in enumerate(golden.structures):
        edges = neighbor_list(structure.positions, potential.cutoff, structure.cell, structure.pbc)
        sender, receiver = golden[i, "edge_index"]
        shifts = -np.rint(golden[i, "unit_shifts"]).astype(int)  # the reference moves the receiver
        theirs = set(zip(sender.tolist(), receiver.tolist(), map(tuple, shifts.tolist()), strict=True))
        ours = set(zip(edges.senders.tolist(), edges.receivers.tolist(), map(tuple, edges.shifts.tolist()),
                       strict=True))
        assert ours == theirs
        assert len(edges.senders) == len(sender)


def test_all_golden_models_are_listed(shared_dir: Path) -> None:
    assert sorted(p.stem for p in (shared_dir / "golden" / "gaunt_mace").glob("mace_*.npz")) == sorted(CASES)


def test_heads_differ_and_batch(shared_dir: Path, golden_file: Any) -> None:
    golden = golden_file.read(shared_dir / "golden" / "gaunt_mace" / "mace_l3_c3_n2_inv_heads2.npz")
    potential = from_reference("mace", golden.weights(), golden.config)
    assert {s.head for s in golden.structures} == {"ha", "hb"}
    from dataclasses import replace

    a, b = (potential.evaluate([replace(golden.structures[0], head=head)])[0] for head in ("ha", "hb"))
    assert abs(a.energy - b.energy) > 1e-3


def test_imported_model_survives_a_file(plain: Any, tmp_path: Path) -> None:
    from mlip import load

    potential = load(from_reference("mace", plain.weights(), plain.config).save(tmp_path / "golden.mlip"))
    compare(potential, plain, 1e-10, 1e-11)
