"""Structures and a cutoff -> `AtomGraph`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlip.elements import SYMBOLS
from mlip.errors import OptionError, StructureError, UnknownElementError
from mlip.graph.atomgraph import AtomGraph
from mlip.graph.structure import MIN_DISTANCE, Structure
from mlip.neighbors import NeighborList, closest_contact, neighbor_list, number_pairs


def check_elements(numbers: NDArray[np.int64], allowed: Sequence[int]) -> None:
    """Raise `UnknownElementError` naming the elements in `numbers` that are not in `allowed`."""
    unknown = sorted(set(numbers.tolist()) - set(allowed))
    if unknown:
        names = ", ".join(SYMBOLS[z] for z in unknown)
        atoms = np.flatnonzero(np.isin(numbers, unknown))[:10].tolist()
        raise UnknownElementError(f"the model does not know the element(s) {names} (atoms {atoms}); "
                                  f"it was made for {', '.join(SYMBOLS[z] for z in allowed)}")


@contextmanager
def naming(index: int | str | None) -> Iterator[None]:
    """Say in errors which structure of several they are about, by number or in words; None leaves them as they are."""
    try:
        yield
    except (StructureError, OptionError) as error:
        if index is None:
            raise
        where = index if isinstance(index, str) else f"structure {index}"
        raise type(error)(f"{where}: {error}") from None


def check_distances(structure: Structure, edges: NeighborList) -> None:
    """Raise `StructureError` naming two atoms that sit on top of each other."""
    found = closest_contact(structure.positions, structure.cell, edges, np.full(len(structure), MIN_DISTANCE / 2))
    if found is not None:
        i, j, distance = found
        raise StructureError(f"atoms {i} and {j} are {distance:.1e} A apart"
                             f" (less than {MIN_DISTANCE} A); two atoms cannot share one place")


def build_graph(structures: Sequence[Structure], cutoff: float, *, heads: Sequence[str] = ("default",),
                device: torch.device | str = "cpu",
                edges: Sequence[NeighborList] | None = None) -> AtomGraph:
    """Return the batch graph of some structures.

    Args:
        structures: B structures.
        cutoff: A.
        heads: names of the model's heads.
        device: of all fields.
        edges: neighbour lists already known, one for each structure.

    Raises:
        StructureError: atoms on top of each other.
        OptionError: an unknown head; edges that are not sorted by receiver.
    """
    if edges is None:
        edges = [neighbor_list(s.positions, cutoff, s.cell, s.pbc) for s in structures]
    chosen = []
    for i, (structure, lists) in enumerate(zip(structures, edges, strict=True)):
        with naming(i if len(structures) > 1 else None):
            if (np.diff(lists.receivers) < 0).any():
                raise OptionError("the edges of a neighbour list must be sorted by receiver; sort them, or let mlip "
                                  "make the list")
            check_distances(structure, lists)
            chosen.append(head_index(structure.head, heads))
    sizes = np.array([len(s) for s in structures], dtype=np.int64)
    first = np.concatenate([[0], np.cumsum(sizes)])[: len(structures)]

    def joined(arrays: list[NDArray[np.generic]], shape: tuple[int, ...], kind: type) -> NDArray[Any]:
        return np.concatenate([np.asarray(a, dtype=kind).reshape(-1, *shape) for a in arrays]
                              or [np.zeros((0, *shape), kind)])

    def floats(array: NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    def integers(values: NDArray[np.generic] | list[int]) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.int64)).to(device)

    senders = joined([e.senders + o for e, o in zip(edges, first, strict=True)], (), np.int64)
    receivers = joined([e.receivers + o for e, o in zip(edges, first, strict=True)], (), np.int64)
    shifts = joined([e.shifts for e in edges], (3,), np.int32)
    pair, pair_edge = number_pairs(senders, receivers, shifts, int(sizes.sum()))
    volumes = np.array([np.nan if s.volume is None else s.volume for s in structures], dtype=np.float64)
    return AtomGraph(
        positions=floats(joined([s.positions for s in structures], (3,), np.float64)),
        numbers=integers(joined([s.numbers for s in structures], (), np.int64)),
        cell=floats(joined([s.cell for s in structures], (3, 3), np.float64)),
        edge_index=integers(np.stack([senders, receivers])),
        shifts=floats(shifts.astype(np.float64)),
        pair=integers(pair),
        pair_edge=integers(pair_edge),
        batch=integers(np.repeat(np.arange(len(structures)), sizes)),
        volume=floats(volumes),
        charge=integers([s.total_charge for s in structures]),
        spin=integers([s.multiplicity for s in structures]),
        head=integers(chosen),
    )


def _check_neutral(structure: Structure) -> None:
    """Raise `StructureError` for a charge or spin that a model without them would silently ignore."""
    if structure.total_charge != 0 or structure.multiplicity != 1:
        raise StructureError(f"charge {structure.total_charge} and spin (2S+1) {structure.multiplicity} were given, "
                             "but the model reads neither: it knows the ground states of its training data only; use "
                             "a model made for them, or take them out of atoms.info (or the arguments) to evaluate it "
                             "all the same")


def check_state(structure: Structure, charges: Sequence[int], spins: Sequence[int]) -> list[str]:
    """Check charge and spin against those a model was made for; return which of them it reads and was not given.

    Args:
        structure: charges and spins that it does not give count as 0 and 1.
        charges: total charges the model knows, e.
        spins: multiplicities 2S+1 the model knows.

    Raises:
        StructureError: values the model does not know.
    """
    if tuple(charges) == (0,) and tuple(spins) == (1,):
        _check_neutral(structure)
        return []
    assumed = []
    for name, key, given, value, known in (
            ("charge", "charge", structure.charge, structure.total_charge, charges),
            ("spin (2S+1)", "spin", structure.spin, structure.multiplicity, spins)):
        if value not in known and given is None:
            raise StructureError(f"the model must be told the {name}: it was made for {_listed(known)}, not for the "
                                 f"default {value}; set atoms.info[{key!r}], or the argument {key}")
        if value not in known:
            raise StructureError(f"{name} {given} was given, but the model was made for {_listed(known)}; set "
                                 f"atoms.info[{key!r}], or the argument {key}, to one of these, or use another model")
        if given is None and len(known) > 1:
            assumed.append(name)
    return assumed


def _listed(values: Sequence[int]) -> str:
    """Return whole numbers as text; long runs by their ends."""
    ordered = sorted(values)
    run = len(ordered) > 4 and ordered == list(range(ordered[0], ordered[-1] + 1))
    return f"{ordered[0]} to {ordered[-1]}" if run else ", ".join(map(str, ordered))


def head_index(head: str | None, heads: Sequence[str]) -> int:
    """Return the index of a head by name; None stands for the only one.

    Raises:
        OptionError: unknown name, or none given where the model has several heads.
    """
    if head is None:
        if len(heads) == 1:
            return 0
        raise OptionError(f"the model has the heads {', '.join(heads)}; choose one with atoms.info['head']")
    if head not in heads:
        raise OptionError(f"the model has no head {head!r}; allowed: {', '.join(heads)}")
    return list(heads).index(head)
