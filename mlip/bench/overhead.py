"""`mlip bench openmm`: what OpenMM adds to the time of a model, and what a System with a model weighs."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from mlip.bench.group import start_ours
from mlip.bench.rows import Row, check_counts, lines_of, machine, megabytes, milliseconds
from mlip.bench.sides import save_structure
from mlip.checkpoints import create
from mlip.errors import MissingDependencyError
from mlip.graph import Structure

SPACING = 2.2  # A: atoms as dense as in water
WARM_UP = 500  # steps before memory is looked at

MODEL: dict[str, Any] = {"cutoff": 3.0, "channels": 1, "hidden_lmax": 0, "edge_lmax": 0, "correlation": 1,
                         "num_layers": 1, "radial_mlp": (4,)}
"""Of a MACE that costs next to nothing."""


def bench_openmm(sizes: Sequence[int] = (1_000,), *, steps: int = 1_000, memory_steps: int = 10_000) -> list[Row]:
    """Measure what a step of OpenMM costs beside the model in it, on the platform CPU with one thread.

    The atoms are oxygen on a cubic lattice, in a periodic box, as dense as in water; they move as they would at 300 K.
    The model is as cheap as one can be, since only what is around it counts. It is started again and again, so that
    neighbour lists are made and reused as in dynamics.

    Args:
        sizes: about how many atoms.
        steps: that are timed.
        memory_steps: over which the memory of a fresh process is watched, after 500.

    Returns:
        One row for each size: atoms, steps, step, model, overhead, nothing (seconds, see `Engine.overhead`), xml (bytes
        of the System), copy (seconds of a deep copy), memory_steps, memory (bytes of the process before), growth (of
        the largest memory during the steps, relative).

    Raises:
        OptionError: bad numbers.
        MissingDependencyError: OpenMM is not installed.
        WorkerError: a process that cannot be started, or died.
    """
    check_counts(sizes=sizes, steps=[steps], memory_steps=[memory_steps])
    if find_spec("openmm") is None:
        raise MissingDependencyError.of("openmm", "openmm")
    rows = []
    with TemporaryDirectory(prefix="mlip-bench-") as name:
        folder = Path(name)
        create("mace", (8,), **MODEL).save(folder / "least.mlip")
        for size in sizes:
            atoms = lattice(size)
            save_structure(atoms, folder / "atoms.npz")
            rows.append({"atoms": len(atoms), "steps": steps, **_measured(folder, steps, memory_steps)})
    return rows


def lattice(atoms: int) -> Structure:
    """Return oxygen atoms on a cubic lattice, in a periodic box; the nearest cube to a number of atoms."""
    edge = max(2, round(atoms ** (1.0 / 3.0)))
    positions = SPACING * np.indices((edge, edge, edge)).reshape(3, -1).T
    return Structure.create(np.full(len(positions), 8), positions, SPACING * edge * np.eye(3), True)


def _measured(folder: Path, steps: int, memory_steps: int) -> Row:
    """Return what one structure takes, from two fresh processes."""
    found: Row = {}
    for part in ("time", "memory"):
        with start_ours() as worker:
            worker.call("threads", count=1)
            worker.call("load", path=str(folder / "least.mlip"))
            worker.call("engine", path=str(folder / "atoms.npz"))
            if part == "time":
                found |= worker.call("overhead", steps=steps) | worker.call("copies")
                found["machine"] = {**machine(()), "versions": worker.call("versions")}
                continue
            worker.call("run_blocks", steps=WARM_UP)
            used = worker.peak("run_blocks", steps=memory_steps)
            found |= {"memory_steps": memory_steps, "memory": used.before, "growth": used.call / used.before}
    return found


def table(rows: Sequence[Row]) -> str:
    """Return the rows of `bench_openmm` as a table in Markdown."""
    head = ["atoms", "step ms", "model ms", "overhead ms", "empty force ms", "XML kB", "copy ms", "memory MB",
            "growth %"]
    cells = [[f"{r['atoms']:,}", *(milliseconds(r[k]) for k in ("step", "model", "overhead", "nothing")),
              f"{r['xml'] / 1e3:.1f}", milliseconds(r["copy"]), megabytes(r["memory"]), f"{100 * r['growth']:.2f}"]
             for r in rows]
    first = rows[0]
    return "\n".join([
        *lines_of(head, cells), "",
        "A step of OpenMM (platform CPU, one thread), the model and its neighbour list in it, and the difference; a "
        "step with a PythonForce that does nothing: processor time, medians. The System as XML, and a deep copy of it. "
        f"Memory of a process over {first['memory_steps']:,} steps. "
        + "; ".join(f"{k} {v}" for k, v in first["machine"]["versions"].items()) + "."])
