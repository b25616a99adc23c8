"""`mlip analyze` reads what `mlip md` writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("mdtraj")


@pytest.mark.parametrize("structure", ["copper.cif", "methanol.xyz"])
def test_after_md(run, model, structure) -> None:
    code, _, err = run("md", structure, "-m", model, "--steps", 6, "--every", 2, "-o", "run.xyz")
    assert (code, err) == (0, "")
    code, out, err = run("analyze", "run.xyz", "--temperature", 300)
    assert (code, err) == (0, "")
    assert "run.xyz: 4 frames of" in out
    assert "drift of the total energy" in out
    assert "written   run.report.png" in out
    code, out, err = run("analyze", "run.xyz", "--json", "-o", "other.png")
    assert (code, err) == (0, "")
    numbers = json.loads(out)
    assert numbers["frames"] == 4
    assert numbers["length_ps"] == pytest.approx(0.003)
    assert numbers["energies"]["target_temperature_k"] is None
    assert (numbers["box"] is None) == (structure == "methanol.xyz")
    assert Path("other.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_but_json(place, capfd) -> None:
    """mdtraj's reader of DCD prints to standard output, below Python."""
    import mdtraj

    from mlip.cli.main import main

    run = mdtraj.Trajectory([[[0.0, 0.0, 0.0], [0.0, 0.0, 0.2]]] * 3, _two())
    run.save("a.dcd")
    run[0].save("a.topology.pdb")
    capfd.readouterr()
    assert main(["analyze", "a.dcd", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["elements"] == {"Ar": 2}


def _two():
    import mdtraj

    topology = mdtraj.Topology()
    residue = topology.add_residue("MOL", topology.add_chain())
    for _ in range(2):
        topology.add_atom("Ar", mdtraj.element.argon, residue)
    return topology


def test_mistakes(run) -> None:
    for arguments, words in ((("no.xyz",), "there is no trajectory"), (("methanol.xyz", "-o", "a.jpg"), ".png"),
                             (("methanol.xyz", "--temperature", "-3"), "temperature"), (("broken.xyz",), "DataError"),
                             (("methanol.xyz", "--topology", "no.pdb"), "TopologyError")):
        code, out, err = run("analyze", *arguments)
        assert code == 2
        assert words in err
        assert out == ""
