"""The equation of state relaxes atoms and shape, and agrees with ASE's fit."""

from __future__ import annotations

import numpy as np
import pytest
from ase import eos as ase_eos
from ase.build import bulk

from mlip.errors import PropertyError, StructureError
from mlip.screening import equation_of_state
from mlip.screening.properties.eos import Settings, compute
from mlip.units import GPA_PER_EV_A3


def test_agrees_with_ase(elements, relaxed) -> None:
    found = compute(relaxed("Si"), elements, Settings())
    curve = ase_eos.EquationOfState(found["volumes"], found["energies"], "birchmurnaghan")
    v0, e0, modulus = curve.fit()
    assert found["equilibrium_volume"] == pytest.approx(v0, rel=1e-6)
    assert found["equilibrium_energy"] == pytest.approx(e0, abs=1e-8)
    assert found["bulk_modulus"] == pytest.approx(modulus * GPA_PER_EV_A3, rel=1e-4)
    assert found["bulk_modulus_derivative"] == pytest.approx(curve.eos_parameters[2], rel=1e-3)
    assert 60 < found["bulk_modulus"] < 130


def test_the_cell_in_use_does_not_matter(elements, relaxed) -> None:
    one, many = (compute(relaxed("Cu", cubic=cubic), elements, Settings()) for cubic in (False, True))
    assert one.keys() == many.keys()
    for key, value in one.items():
        assert value == pytest.approx(many[key], rel=1e-5, abs=1e-6)


def test_shape_relaxes_at_each_volume(elements, relaxed) -> None:
    """A hexagonal crystal may change c/a: its curve lies below that of the clamped shape, and touches it."""
    crystal = relaxed("Cu", "hcp", a=2.55, c=4.2)
    free, clamped = compute(crystal, elements, Settings()), equation_of_state(crystal, elements)
    below = clamped.energies / 2 - free["energies"]
    assert np.allclose(free["volumes"], clamped.volumes / 2, rtol=1e-9)
    assert below.min() > -1e-7
    assert below.max() > 1e-6
    assert abs(below[3]) < 1e-6
    assert free["bulk_modulus"] < clamped.bulk_modulus


def test_failures(elements, relaxed) -> None:
    with pytest.raises(StructureError, match="no minimum between"):
        compute(bulk("Cu", a=3.3), elements, Settings())
    with pytest.raises(PropertyError, match="the cell of"):
        compute(relaxed("Cu", "hcp", a=2.55, c=4.2), elements, Settings(steps=1, fmax=1e-6))
