"""`mlip bench md`: nanoseconds a day in OpenMM, ours beside openmm-ml with mace-torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec

from mlip.bench.choices import Choice, MACEChoice, TrainedMACE
from mlip.bench.group import alternate
from mlip.bench.model import described
from mlip.bench.rows import Row, check_counts, lines_of, milliseconds
from mlip.bench.sides import PEER, PEER_VARIABLE, Sides, differences, peer_python, save_structure, sides, variants
from mlip.errors import MissingDependencyError
from mlip.graph import Structure
from mlip.io.ase import structure_of
from mlip.simulation.quickstart import MODEL, acetylacetone

TIMESTEP = 0.5  # fs
WATER = 192  # atoms


def bench_md(molecule: Structure | None = None, model: str = MODEL, *, water: int = WATER,
             choice: MACEChoice | None = None, threads: Sequence[int] = (1,), steps: int = 20, rounds: int = 5,
             radials: Sequence[str] = ("exact", "tabulated"), peer: str | os.PathLike[str] | None = None) -> list[Row]:
    """Time dynamics of a molecule and of a periodic box of water in OpenMM.

    Each variant of ours and openmm-ml with mace-torch live in processes of their own, on the platform CPU, with the
    same weights (float32), start, velocities (300 K) and steps of 0.5 fs; they run in turn, the others idle. A run goes
    over some steps from the start, and its neighbour lists are its own affair; the least time counts.

    Args:
        molecule: by default acetylacetone.
        model: a trained MACE for it.
        water: about how many atoms; random weights move it.
        choice: the model of the water; by default MACE with 128 channels of degree 0 and 1.
        threads: numbers of threads of torch and OpenMM.
        steps: of a run; a tenth of them for the water.
        rounds: turns of each; fewer where they take longer than a minute.
        radials: as in `mlip.load`.
        peer: Python with mace-torch, openmm and openmm-ml, as in `bench_model`.

    Returns:
        One row for each system, number of threads and variant: system, atoms, threads, variant, radial, seconds (of a
        step), rate (ns/day), peer_seconds, peer_rate, ratio, energy_difference (eV), force_difference (eV/A).

    Raises:
        OptionError: bad options, or a model that mace-torch does not have.
        MissingDependencyError: OpenMM is not installed.
        WorkerError: a process that cannot be started, or died.
        EngineMismatchError: energies or forces at the start differ.
    """
    check_counts(water=[water], threads=threads, steps=[steps], rounds=[rounds])
    if find_spec("openmm") is None:
        raise MissingDependencyError.of("openmm", "openmm")
    python, ways, rows = peer_python(peer), variants(("auto",), radials), []
    small = structure_of(acetylacetone()) if molecule is None else molecule
    cases: tuple[tuple[Choice, Structure | None, int], ...] = (
        (TrainedMACE.of(model), small, steps), (choice or MACEChoice(), None, max(2, steps // 10)))
    for which, structure, count in cases:
        with sides(which, ways, python) as both:
            file = both.box(water)
            if structure is not None:
                file = both.folder / "molecule.npz"
                save_structure(structure, file)
            for n in threads:
                rows += _rows(both, str(file), n, count, rounds)
    return rows


def _rows(both: Sides, file: str, threads: int, steps: int, rounds: int) -> list[Row]:
    """Return the rows of one system and number of threads."""
    both.threads(threads)
    files = {}
    for label, worker in both.workers.items():
        counts = worker.call("structure", path=file)
        both.versions |= worker.call("engine", path=file) or {}
        worker.call("run_engine", steps=3)
        files[label] = both.folder / f"{label}.npz"
        worker.call("write_engine", path=str(files[label]))
    apart = differences(files)
    seconds = {label: s / steps for label, s in alternate(both.workers, "run_engine", rounds, steps=steps).items()}
    other = seconds.get(PEER)
    return [{"system": "molecule" if "molecule" in file else "water", **counts, "threads": threads, "variant": label,
             "radial": way.radial, "steps": steps, "seconds": seconds[label], "rate": rate(seconds[label]),
             "peer_seconds": other, "peer_rate": None if other is None else rate(other),
             "ratio": None if other is None else other / seconds[label],
             "energy_difference": apart.get(label, {}).get("energy"),
             "force_difference": apart.get(label, {}).get("forces"), **described(both)}
            for label, way in both.ways.items()]


def rate(seconds: float) -> float:
    """Return ns/day for the seconds of a step."""
    return TIMESTEP * 1e-6 * 86_400.0 / seconds


def table(rows: Sequence[Row]) -> str:
    """Return the rows of `bench_md` as a table in Markdown, with what to know about it."""
    head = ["variant", "system", "atoms", "edges", "threads", "mlip ms", f"{PEER} ms", "mlip ns/day",
            f"{PEER} ns/day", "ratio", "dE (meV)", "dF (meV/A)"]
    cells = [[r["variant"], r["system"], f"{r['atoms']:,}", f"{r['edges']:,}", str(r["threads"]),
              milliseconds(r["seconds"]), milliseconds(r["peer_seconds"]), _number(r["rate"]), _number(r["peer_rate"]),
              _number(r["ratio"], "x"), _milli(r["energy_difference"]), _milli(r["force_difference"])] for r in rows]
    out = [f"{system}: {model}." for system, model in {r["system"]: r["model"] for r in rows}.items()]
    out.append("A step of 0.5 fs in OpenMM, platform CPU, neighbour lists included. Processes of their own that run in "
               "turn, least of several runs. "
               + "; ".join(f"{k} {v}" for k, v in rows[0]["machine"]["versions"].items()) + ".")
    if rows[0]["peer"] is None:
        out.append(f"openmm-ml with {PEER} was not timed: give --peer-python, or set {PEER_VARIABLE}, to a Python that "
                   "has both.")
    return "\n".join([*lines_of(head, cells, left=2), "", *out])


def _number(value: float | None, unit: str = "") -> str:
    return "-" if value is None else f"{value:.3g}{unit}"


def _milli(value: float | None) -> str:
    return "-" if value is None else f"{value * 1e3:.1e}"
