"""`mlip bench neighbors`: our neighbour list beside vesin, matscipy and ASE on this machine."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mlip.bench.rows import Row, check_counts, machine, milliseconds
from mlip.neighbors import neighbor_list

Search = Callable[[], int]

LATTICE_CONSTANT = 3.61  # Angstrom, fcc copper
CUTOFF = 5.0  # Angstrom
MOST_ASE = 10_000  # atoms; beyond, ASE takes minutes
SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)
PEERS = ("vesin", "matscipy", "ase")


def copper(atoms: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return positions [N, 3] and cell [3, 3] in A of fcc copper, displaced by 0.05 A at random.

    Args:
        atoms: about how many; the nearest block of cubic cells (4 atoms each) of nearly equal edges.
        seed: of the displacements.
    """
    edge = (atoms / 4.0) ** (1.0 / 3.0)
    candidates = [(a, b, c) for a in range(1, int(edge) + 3) for b in (a, a + 1) for c in (b, b + 1)]
    return copper_block(min(candidates, key=lambda n: abs(4 * n[0] * n[1] * n[2] - atoms)), seed)


def copper_block(repeats: tuple[int, int, int], seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return `copper` as a block of so many cubic cells along each edge."""
    corners = np.stack(np.meshgrid(*map(np.arange, repeats), indexing="ij"), axis=-1).reshape(-1, 1, 3)
    basis = np.array([[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
    r = ((corners + basis) * LATTICE_CONSTANT).reshape(-1, 3)
    r += np.random.default_rng(seed).normal(scale=0.05, size=r.shape)
    return r, np.diag(np.array(repeats) * LATTICE_CONSTANT)


def ours(r: NDArray[np.float64], cell: NDArray[np.float64], threads: int) -> Search:
    """Return a search with our list; a search returns the number of edges."""
    return lambda: len(neighbor_list(r, CUTOFF, cell, True, threads=threads).senders)


def peer(name: str, r: NDArray[np.float64], cell: NDArray[np.float64], threads: int = 1) -> Search | None:
    """Return a search "ijS" for all edges with another package; None where it cannot do so or is too slow.

    vesin has threads since 0.6; the others have none.
    """
    try:
        if name == "vesin":
            vesin = importlib.import_module("vesin")
            try:
                calculator = vesin.NeighborList(cutoff=CUTOFF, full_list=True, n_threads=threads)
            except TypeError:  # an older one, without threads
                if threads > 1:
                    return None
                calculator = vesin.NeighborList(cutoff=CUTOFF, full_list=True)
            return lambda: len(calculator.compute(points=r, box=cell, periodic=True, quantities="ijS")[0])
        if threads > 1:
            return None
        if name == "matscipy":
            matscipy = importlib.import_module("matscipy.neighbours")
            pbc = np.ones(3, dtype=bool)
            return lambda: len(matscipy.neighbour_list("ijS", cutoff=CUTOFF, positions=r, cell=cell, pbc=pbc)[0])
        ase = importlib.import_module("ase.neighborlist")
    except ImportError:
        return None
    if len(r) > MOST_ASE * 1.1:
        return None
    return lambda: len(ase.primitive_neighbor_list("ijS", [True] * 3, cell, r, CUTOFF)[0])


def time_all(searches: dict[str, Search], repeats: int) -> tuple[dict[str, float], dict[str, int]]:
    """Time searches in turn, `repeats` rounds of them; return the least seconds and the edges of each.

    Each runs twice at its turn, so that it finds caches and memory once as the others left them and
    once as it did itself.
    """
    edges = {name: search() for name, search in searches.items()}
    seconds = dict.fromkeys(searches, float("inf"))
    spent = dict.fromkeys(searches, 0.0)
    for turn in range(repeats):
        for name, search in searches.items():
            if turn >= 3 and spent[name] > 20.0:  # the slow peers: three rounds will do
                continue
            for _ in range(2):
                start = time.perf_counter()
                search()
                duration = time.perf_counter() - start
                spent[name] += duration
                seconds[name] = min(seconds[name], duration)
    return seconds, edges


def bench_neighbors(sizes: Sequence[int] = SIZES, threads: Sequence[int] = (1, 2),
                    repeats: int | None = None) -> list[Row]:
    """Time full neighbour lists ("ijS", both directions, 5 A) of displaced copper crystals.

    All packages run in turn in this process; the least time of several rounds counts. vesin (since
    0.6) uses as many threads as our list does, matscipy and ASE always one.

    Args:
        sizes: numbers of atoms.
        threads: numbers of threads.
        repeats: rounds; chosen by size if not given (300 for 100 atoms to 5 for a million).

    Returns:
        One row for each size and number of threads: atoms, edges, threads, seconds (ours and each
        peer's, None where absent or too slow), ratio (peer's time over ours), machine, versions.

    Raises:
        OptionError: no sizes or threads, or any below 1.
    """
    check_counts(sizes=sizes, threads=threads)
    rows: list[Row] = []
    for size in sizes:
        r, cell = copper(size)
        searches = {f"mlip {n}": ours(r, cell, n) for n in threads}
        for name in PEERS:
            for n in sorted({1, *threads}):
                search = peer(name, r, cell, n)
                if search is not None:
                    searches[f"{name} {n}"] = search
        rounds = repeats or max(5, min(300, 3_000_000 // (len(r) * 10)))
        seconds, edges = time_all(searches, rounds)
        for n in threads:
            mine = seconds[f"mlip {n}"]
            others = {name: seconds.get(f"{name} {n}", seconds.get(f"{name} 1")) for name in PEERS}
            rows.append({"atoms": len(r), "edges": edges[f"mlip {n}"], "threads": n, "cutoff": CUTOFF,
                         "seconds": {"mlip": mine, **others},
                         "ratio": {name: None if t is None else t / mine for name, t in others.items()},
                         "agree": len(set(edges.values())) == 1, "rounds": rounds,
                         "machine": machine(("numpy", "numba", *PEERS))})
    return rows


def table(rows: Sequence[Row]) -> str:
    """Return the rows of `bench_neighbors` as a table in Markdown, with what to know about it."""
    lines = ["| atoms | edges | threads | mlip ms | " + " | ".join(f"{p} ms (x)" for p in PEERS) + " |",
             "|" + "---:|" * (4 + len(PEERS))]
    for row in rows:
        cells = [f"{row['atoms']:,}", f"{row['edges']:,}", str(row["threads"]), milliseconds(row["seconds"]["mlip"])]
        for name in PEERS:
            t = row["seconds"][name]
            cells.append("-" if t is None else f"{milliseconds(t)} ({row['ratio'][name]:.1f}x)")
        lines.append("| " + " | ".join(cells) + " |")
    versions = rows[0]["machine"]["versions"] if rows else {}
    absent = [p for p in PEERS if versions.get(p) == "absent"]
    lines += ["", f"Full lists (i, j, S) of fcc copper displaced by 0.05 A, cutoff {CUTOFF:g} A; the least time of "
              "several interleaved rounds, two runs in each. In brackets the peer's time over ours. "
              "vesin (from 0.6 on) uses as many threads as mlip; matscipy and ASE have one thread only. "
              f"ASE is left out beyond {MOST_ASE:,} atoms. "
              + "; ".join(f"{p} {v}" for p, v in versions.items() if v != "absent") + "."
              + "".join(f" {p} is not installed." for p in absent)]
    if not all(row["agree"] for row in rows):
        lines.append("WARNING: the packages do not find the same number of edges.")
    return "\n".join(lines)
