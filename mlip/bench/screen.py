"""`mlip bench screen`: structures an hour beside a plain loop of ASE, and memory beside its forecast."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlip.bench.group import start_ours
from mlip.bench.rows import Row, check_counts, lines_of, machine
from mlip.errors import OptionError

OURS = "screen"  # as in `screen_side`, which needs ASE
SMALL, LARGE = 16, 200  # most atoms of small crystals and of mixed ones
STEPS = 3  # of the optimiser, of mixed crystals


def bench_screen(model: str | Path = "gaunt-mace-elements", *, structures: int = 200, fmax: float = 0.01,
                 mixed: int = 1000, memory: float = 4.0) -> list[Row]:
    """Relax small crystals side by side with ASE, then take a few steps of many crystals of all sizes.

    The crystals are those of the elements of the model, rattled by 0.05 A and strained by 3 %. Small ones have 1 to
    16 atoms. `screen` relaxes them, cells included; whenever it has one, loops of ASE relax one, with the same model,
    L-BFGS and criterion: as a script would, with ASE's filter of the cell, and with ours. Mixed ones have 2 to 200
    atoms, and a process of their own, whose memory is forecast before. All work on one thread, as `mlip screen` does.

    Args:
        model: name or path.
        structures: how many small crystals.
        fmax: eV/A, to which they relax.
        mixed: how many crystals of all sizes.
        memory: GB that their process may have.

    Returns:
        Rows of two kinds. With `side`: structures, converged, seconds, processor (seconds), per_hour (by wall time),
        ratio and processor_ratio (how many times as long as ours), difference (largest of energies from ours,
        eV/atom). With `forecast`: structures, atoms (most), load (of the largest call), refused, memory (allowed),
        forecast and peak (bytes), ratio (of these two).

    Raises:
        OptionError: bad numbers, or a model of no crystal that ASE can make.
        WorkerError: a process that cannot be started, or died.
    """
    check_counts(structures=[structures], mixed=[mixed])
    if not fmax > 0 or not memory > 0:
        raise OptionError(f"fmax and memory must be positive; {fmax!r} and {memory!r} were given")
    return [*_beside_ase(str(model), structures, fmax), _memory(str(model), mixed, memory)]


def _beside_ase(model: str, structures: int, fmax: float) -> list[Row]:
    with start_ours() as worker:
        worker.call("threads", count=1)
        worker.call("load", path=model)
        found: dict[str, Any] = worker.call("relaxations", count=structures, atoms=SMALL, fmax=fmax)
        about = {"structures": structures, "fmax": fmax, "model": model,
                 "machine": {**machine(("ase", "numpy")), "versions": worker.call("versions")}}
    ours = found[OURS]
    return [{"side": side, **about, **each, "per_hour": 3600 * structures / each["seconds"],
             "ratio": each["seconds"] / ours["seconds"], "processor_ratio": each["processor"] / ours["processor"]}
            for side, each in found.items()]


def _memory(model: str, mixed: int, memory: float) -> Row:
    with start_ours() as worker:
        worker.call("threads", count=1)
        worker.call("load", path=model)
        worker.call("mixed", count=mixed, atoms=LARGE, memory=1e9 * memory)
        peak = worker.peak("run_mixed", steps=STEPS).peak
        told: Row = worker.call("mixed_told")
    return {**told, "memory": 1e9 * memory, "peak": peak, "ratio": peak / told["forecast"],
            "model": model}


def table(rows: Sequence[Row]) -> str:
    """Return the rows of `bench_screen` as two tables in Markdown."""
    sides = [[r["side"], f"{r['per_hour']:,.0f}", f"{r['ratio']:.2f}x", f"{r['processor']:.1f}",
              f"{r['processor_ratio']:.2f}x", f"{r['converged']}", f"{r['difference']:.0e}"]
             for r in rows if "side" in r]
    memory = [[f"{r['structures']:,}", str(r["atoms"]), f"{r['memory'] / 1e9:.2f}",
               f"{r['forecast'] / 1e9:.3f}", f"{r['peak'] / 1e9:.3f}", f"{r['ratio']:.3f}", str(r["refused"])]
              for r in rows if "forecast" in r]
    first = rows[0]
    return "\n".join([
        *lines_of(["relaxed by", "structures/hour", "time", "processor s", "processor time", "converged",
                   "difference eV/atom"], sides, left=1), "",
        f"{first['model']}: {first['structures']} crystals of 1 to {SMALL} atoms, positions and cell, L-BFGS to "
        f"{first['fmax']:g} eV/A. Times of the loops of ASE over those of `screen`; energies beside its.", "",
        *lines_of(["structures", "most atoms", "allowed GB", "forecast GB", "peak GB", "peak/forecast", "refused"],
                  memory), "",
        f"The process while it takes {STEPS} steps of crystals of 2 to {LARGE} atoms. "
        + "; ".join(f"{k} {v}" for k, v in first["machine"]["versions"].items()) + "."])
