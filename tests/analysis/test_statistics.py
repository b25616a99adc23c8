"""Errors of means and slopes are what repetitions show."""

from __future__ import annotations

import numpy as np
import pytest

from mlip.analysis.statistics import Mean, Slope, inefficiency


def autoregressive(phi: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return x(t) = phi x(t-1) + noise, of variance 1: its inefficiency is (1 + phi) / (1 - phi)."""
    noise = rng.normal(0.0, np.sqrt(1 - phi**2), count)
    x = np.empty(count)
    x[0] = rng.normal()
    for k in range(1, count):
        x[k] = phi * x[k - 1] + noise[k]
    return x


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_inefficiency_of_correlated_numbers(phi: float) -> None:
    found = inefficiency(autoregressive(phi, 200_000, np.random.default_rng(0)))
    assert found == pytest.approx((1 + phi) / (1 - phi), rel=0.06)


def test_errors_are_those_of_repetitions() -> None:
    rng = np.random.default_rng(1)
    series = [autoregressive(0.8, 2000, rng) for _ in range(200)]
    means, errors = np.array([(m.mean, m.error) for m in map(Mean.of, series)]).T
    assert errors.mean() == pytest.approx(means.std(), rel=0.15)
    time = np.linspace(0, 10, 2000)
    slopes, errors = np.array([(s.slope, s.error) for s in (Slope.of(time, 3.0 * time + x) for x in series)]).T
    assert slopes.mean() == pytest.approx(3.0, abs=4 * slopes.std() / np.sqrt(200))
    assert errors.mean() == pytest.approx(slopes.std(), rel=0.15)


def test_a_slow_change_under_a_fast_oscillation_counts() -> None:
    """The energy of an integrator: vibrations at every step, and an exchange between them of a tenth of their size."""
    rng = np.random.default_rng(2)
    time = np.linspace(0, 10, 8000)
    series = [np.cos(1.9 * np.arange(8000)) + 0.1 * autoregressive(0.98, 8000, rng) for _ in range(100)]
    means, errors = np.array([(m.mean, m.error) for m in map(Mean.of, series)]).T
    assert errors.mean() == pytest.approx(means.std(), rel=0.25)
    slopes, errors = np.array([(s.slope, s.error) for s in (Slope.of(time, x) for x in series)]).T
    assert errors.mean() == pytest.approx(slopes.std(), rel=0.25)


def test_a_line_is_found_exactly() -> None:
    x = np.array([2.0, 3.0, 5.0, 9.0])
    line = Slope.of(x, 4.0 - 0.5 * x)
    assert line.slope == pytest.approx(-0.5)
    assert line.start == pytest.approx(3.0)
    assert line.error == pytest.approx(0.0, abs=1e-12)
    assert Slope.of(x[:2], x[:2]).error is None


def test_numbers_that_do_not_vary() -> None:
    one = Mean.of(np.array([5.0]))
    assert (one.mean, one.error, one.deviation) == (5.0, None, 0.0)
    same = Mean.of(np.full(100, 1e5 / 3))
    assert same.error == pytest.approx(0.0, abs=1e-9)
    assert same.samples == pytest.approx(100)
    for count in (1000, 10_007):  # whose blocks differ by rounding, if at all
        assert Mean.of(np.full(count, -9391.26978)).samples == pytest.approx(count)
