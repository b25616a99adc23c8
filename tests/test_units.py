"""Unit factors against the exact constants and against other packages."""

from __future__ import annotations

import pickle

import ase.units
import numpy as np
import pytest

from mlip import errors, units


def test_exact_constants() -> None:
    assert pytest.approx(96.48533212331002, rel=1e-15) == units.KJ_PER_MOL_PER_EV
    assert pytest.approx(964.8533212331002, rel=1e-15) == units.KJ_PER_MOL_NM_PER_EV_A
    assert pytest.approx(160.2176634, rel=1e-15) == units.GPA_PER_EV_A3
    assert pytest.approx(8.617333262145179e-05, rel=1e-14) == units.KB_EV
    assert units.NM_PER_ANGSTROM == 0.1


def test_ase_has_older_constants() -> None:
    assert ase.units.mol / ase.units.kJ == pytest.approx(units.KJ_PER_MOL_PER_EV, rel=2e-8)
    assert pytest.approx(ase.units.kB, rel=1e-6) == units.KB_EV
    assert 1 / ase.units.GPa == pytest.approx(units.GPA_PER_EV_A3, rel=2e-8)


def test_voigt() -> None:
    stress = np.array([[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]])
    assert units.to_voigt(stress).tolist() == [1, 2, 3, 4, 5, 6]
    assert units.to_voigt(stress.astype(np.float32)).dtype == np.float64
    from ase.stress import full_3x3_to_voigt_6_stress

    rough = stress + np.random.default_rng(0).normal(size=(3, 3))
    np.testing.assert_allclose(units.to_voigt(rough), full_3x3_to_voigt_6_stress(rough), atol=1e-15)
    batch = np.stack([stress, 2 * stress, rough])
    assert units.to_voigt(batch).shape == (3, 6)
    np.testing.assert_array_equal(units.to_voigt(batch)[1], 2 * units.to_voigt(stress))


def test_errors_are_typed() -> None:
    found = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert len(found) > 10
    assert all(issubclass(e, UserWarning if e.__name__.endswith("Warning") else errors.MLIPError) for e in found)
    for error, base in ((errors.StructureError, ValueError), (errors.OptionError, ValueError),
                        (errors.ModelNotFoundError, FileNotFoundError), (errors.ModelFileError, ValueError),
                        (errors.MissingDependencyError, ImportError), (errors.NonFiniteError, ArithmeticError),
                        (errors.InstallationError, ImportError)):
        assert issubclass(error, base)
    text = str(errors.MissingDependencyError.of("openmm", "openmm"))
    assert 'pip install "mlip-md[openmm]"' in text


def test_non_finite_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(errors.NonFiniteError("bad", np.array([3, 5]))))
    assert (str(error), error.atoms) == ("bad", (3, 5))
