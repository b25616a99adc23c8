"""--model given several times: predict and md with a committee."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from ase.io import read

from mlip.checkpoints import Committee


def test_predict(run, model, second) -> None:
    code, out, err = run("predict", "methanol.xyz", "copper.cif", "-m", model, "-m", second, "-o", "results.xyz")
    assert (code, err) == (0, "")
    header, *rows, written = out.strip().split("\n")
    assert header.endswith("energy std (eV)   max force std")
    assert written.split() == ["written", "results.xyz"]
    committee = Committee([model, second])
    for row, source, result in zip(rows, ("methanol.xyz", "copper.cif"), read("results.xyz", ":"), strict=True):
        p = committee.predict(read(source))
        numbers = row.split()
        assert float(numbers[2]) == pytest.approx(p.energy, abs=1e-5)
        assert float(numbers[-2]) == pytest.approx(p.energy_std, abs=1e-5)
        assert float(numbers[-1]) == pytest.approx(p.forces_std_max, abs=1e-5)
        assert result.get_potential_energy() == pytest.approx(p.energy, abs=1e-6)
        np.testing.assert_allclose(result.arrays["forces_std"], p.forces_std, atol=1e-6)


@pytest.mark.parametrize("engine", ["ase", "openmm"])
def test_md(run, model, second, engine) -> None:
    pytest.importorskip("openmm")
    common = ("md", "methanol.xyz", "-m", model, "--engine", engine, "--steps", 6, "--every", 2, "-m", second)
    code, out, err = run(*common)
    assert (code, err) == (0, "")
    largest = float(re.search(r"forces of 2 models spread by (\S+) eV/A at most", out)[1])
    spreads = [frame.info["forces_std_max"] for frame in read("trajectory.xyz", ":")]
    assert largest == pytest.approx(max(spreads), abs=1e-4)
    assert not Path("trajectory.selected.xyz").exists()

    selecting = (*common, "-o", "more.xyz", "--select-above", 1e-6, "--stop-above", 100)
    for _ in range(2):  # the second time it is finished
        code, out, err = run(*selecting)
        assert (code, err) == (0, "")
        kept = len(read("more.selected.xyz", ":"))
        assert f"frames kept for labelling: {kept}, in more.selected.xyz\n" in out

    stopping = ("--stop-above", largest / 1e3)
    code, out, err = run(*common, "-o", "less.xyz", *stopping)
    assert (code, out) == (2, "")
    assert err.startswith("mlip md: UncertaintyError: stopped at step 0: ")
    assert len(read("less.selected.xyz", ":")) == 1

    before = Path("more.selected.xyz").read_bytes()
    code, out, err = run(*common, "-o", "more.xyz", *stopping)
    assert code == 2
    assert "CheckpointError: more.checkpoint.npz belongs to another run; different: stop rule" in err
    assert Path("more.selected.xyz").read_bytes() == before


def test_a_rule_needs_a_committee(run, model) -> None:
    code, _, err = run("md", "methanol.xyz", "-m", model, "--stop-above", 0.5)
    assert code == 2
    assert "OptionError" in err
    assert "give --model several times" in err


def test_the_same_model_twice(run, model) -> None:
    code, _, err = run("predict", "methanol.xyz", "-m", model, "-m", model)
    assert code == 2
    assert "the same model" in err
