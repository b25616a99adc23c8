"""`mlip bench ops`: the operations of MACE one by one, and a step of training, ours beside mace-torch and e3nn."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlip.bench.choices import CUTOFF, EDGE_LMAX, Choice, MACEChoice
from mlip.bench.group import alternate
from mlip.bench.model import described
from mlip.bench.rows import Row, check_counts, lines_of, megabytes, milliseconds
from mlip.bench.sides import (
    PEER,
    PEER_VARIABLE,
    TINY,
    TOLERANCE,
    Sides,
    Variant,
    differences,
    peer_python,
    sides,
)
from mlip.bench.water import water_box
from mlip.bench.worker import Memory
from mlip.errors import EngineMismatchError, OptionError
from mlip.neighbors import neighbor_list
from mlip.so3.degrees import convolution_paths, size

LABEL = Variant().label
CONVOLUTION = ("convolution_forward", "convolution_backward")
NAMES = {"convolution_forward": "edge convolution, forward", "convolution_backward": "edge convolution, forward + "
         "backward", "contraction": "symmetric contraction, forward", "gaunt": "Gaunt product, forward",
         "training_step": "training step"}
MEASURED = ("contraction", "gaunt")  # whose memory is measured, too; both read the inputs of the contraction


def bench_ops(choice: Choice | None = None, atoms: int = 192, threads: Sequence[int] = (1, 2), *, rounds: int = 20,
              peer: str | os.PathLike[str] | None = None) -> list[Row]:
    """Time the operations of MACE on a box of water.

    The edge convolution with random inputs against the tensor product "uvu" of e3nn, gather and index_add, forward
    without derivatives and with those by all three inputs; the symmetric contraction of the first layer; the Gaunt
    product of MACE-Gaunt against the same contraction, which it takes the place of; and a step of training (loss on
    energy and forces, derivatives by all weights). In turn, in processes of their own, with the same inputs and
    weights; results of the same operations must agree. Memory is that of a many-body product in a fresh process
    which has made one of a few atoms.

    Args:
        choice: the model; by default MACE with 128 channels of degree 0 and 1.
        atoms: about how many.
        threads: numbers of threads of torch.
        rounds: turns of each; fewer where they take longer than a minute.
        peer: Python with mace-torch, as in `bench_model`.

    Returns:
        One row for each operation and number of threads: operation, atoms, edges, threads, seconds, peer_seconds,
        ratio, memory, peer_memory (bytes; None where not measured), difference (largest, of the results; of the loss
        relative).

    Raises:
        OptionError, WorkerError, EngineMismatchError: as `bench_model`.
    """
    check_counts(atoms=[atoms], threads=threads, rounds=[rounds])
    choice = choice or MACEChoice()
    if not isinstance(choice, MACEChoice):
        raise OptionError(f"{choice.title}: its operations are not timed one by one, only those of mace; see "
                          "`mlip bench profile`")
    rows: list[Row] = []
    with sides(choice, [Variant()], peer_python(peer)) as both:
        counts = {label: w.call("structure", path=str(both.box(atoms))) for label, w in both.workers.items()}[LABEL]
        inputs, few = (_write(both, n, choice) for n in (atoms, TINY))
        memory = {action: _memory(both, LABEL, action, few, inputs).call for action in MEASURED}
        peers = _memory(both, PEER, "contraction", few, inputs).call if PEER in both.workers else None
        for worker in both.workers.values():
            worker.call("prepare_training")
            for name, file in inputs.items():
                worker.call(f"prepare_{name}", path=str(file))
        for n in threads:
            both.threads(n)
            seconds = {action: alternate(both.workers, action, rounds) for action in NAMES}
            apart = _apart(both)
            for action, name in NAMES.items():
                mine, other = seconds[action][LABEL], seconds[action].get(PEER)
                rows.append({"operation": name, **counts, "threads": n, "seconds": mine, "peer_seconds": other,
                             "ratio": None if other is None else other / mine, "difference": apart.get(action),
                             "memory": memory.get(action), "peer_memory": peers if action in MEASURED else None,
                             **described(both)})
    return rows


def _write(both: Sides, atoms: int, choice: MACEChoice) -> dict[str, Path]:
    """Write the inputs of operations for a box of water, and return their files."""
    files = {name: both.folder / f"{name} {atoms}.npz" for name in ("convolution", "contraction")}
    np.savez(files["convolution"], **convolution_inputs(atoms, choice))
    np.savez(files["contraction"], **contraction_inputs(atoms, choice))
    return files


def _memory(both: Sides, label: str, action: str, *inputs: dict[str, Path]) -> Memory:
    """Return the memory of a contraction of the last inputs, in a fresh process that did it with those before."""
    with both.start(label) as worker:
        worker.call("threads", count=1)
        for files in inputs:
            worker.call("prepare_contraction", path=str(files["contraction"]))
            memory = worker.peak(action)
        return memory


def convolution_inputs(atoms: int, choice: MACEChoice, seed: int = 0) -> dict[str, Any]:
    """Return random inputs of an edge convolution over the edges of a box of water.

    Returns:
        features [N, (l m), C], harmonics [E, (l m)], weights [E, P, C], paths [P, 3], edge_index [2, E], and
        gradient0, gradient1, ... [N, 2l+1, P(l), C] of the messages of each degree.
    """
    box, random = water_box(atoms), np.random.default_rng(seed)
    edges = neighbor_list(box.positions, CUTOFF, box.cell, box.pbc)
    paths = np.array(convolution_paths(choice.hidden_lmax, EDGE_LMAX, EDGE_LMAX))

    def normal(*shape: int) -> NDArray[np.float32]:
        return random.standard_normal(shape, dtype=np.float32)

    number, count = len(box), choice.channels
    return {"features": normal(number, size(choice.hidden_lmax), count),
            "harmonics": normal(len(edges.senders), size(EDGE_LMAX)), "paths": paths,
            "weights": normal(len(edges.senders), len(paths), count),
            "edge_index": np.stack([edges.senders, edges.receivers]),
            **{f"gradient{l}": normal(number, 2 * l + 1, int((paths[:, 2] == l).sum()), count)
               for l in range(EDGE_LMAX + 1)}}


def contraction_inputs(atoms: int, choice: MACEChoice, seed: int = 1) -> dict[str, Any]:
    """Return random messages [N, (l m), C] and the elements [N] of a box of water."""
    box = water_box(atoms)
    messages = np.random.default_rng(seed).standard_normal((len(box), size(EDGE_LMAX), choice.channels), np.float32)
    return {"messages": messages, "elements": np.searchsorted([1, 8], box.numbers)}


def _apart(both: Sides) -> dict[str, float]:
    """Return how far the results of both sides are apart, by action."""
    if PEER not in both.workers:
        return {}
    files: dict[str, dict[str, Path]] = {
        name: {label: both.folder / f"{name} {label}.npz" for label in both.workers} for name in ("convolution",
                                                                                               "contraction")}
    for name, by_label in files.items():
        for label, file in by_label.items():
            both.workers[label].call(f"write_{name}", path=str(file))
    convolved = differences(files["convolution"])[LABEL]
    derived = ("features", "harmonics", "weights")
    loss = {label: worker.call("training_step") for label, worker in both.workers.items()}
    apart = abs(loss[LABEL] - loss[PEER]) / loss[PEER]
    if not apart <= TOLERANCE:
        raise EngineMismatchError(f"the losses of mlip, {loss[LABEL]}, and {PEER}, {loss[PEER]}, differ")
    return {"convolution_forward": max(v for k, v in convolved.items() if k not in derived),
            "convolution_backward": max(convolved[k] for k in derived),
            "contraction": differences(files["contraction"])[LABEL]["features"], "training_step": apart}


def table(rows: Sequence[Row]) -> str:
    """Return the rows of `bench_ops` as a table in Markdown, with what to know about it."""
    head = ["operation", "threads", "mlip ms", "peer ms", "ratio", "mlip MB", "peer MB", "difference"]
    cells = [[r["operation"], str(r["threads"]), milliseconds(r["seconds"]), milliseconds(r["peer_seconds"]),
              "-" if r["ratio"] is None else f"{r['ratio']:.1f}x",
              megabytes(r["memory"]), megabytes(r["peer_memory"]),
              "-" if r["difference"] is None else f"{r['difference']:.0e}"] for r in rows]
    first = rows[0]
    note = (f"{first['model']}; {first['atoms']:,} atoms of water, {first['edges']:,} edges. Peers: the tensor product "
            "uvu of e3nn with gather and index_add; the symmetric contraction and the training of mace-torch; for the "
            "Gaunt product, too, its symmetric contraction. "
            + "; ".join(f"{k} {v}" for k, v in first["machine"]["versions"].items()) + ".")
    if first["peer"] is None:
        note += f"\nNo peer was timed: give --peer-python, or set {PEER_VARIABLE}, to a Python that has {PEER}."
    return "\n".join([*lines_of(head, cells, left=1), "", note])
