"""The compiled kernels against plain torch, on a piece of the user's own structure."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from mlip.errors import BackendError
from mlip.graph import AtomGraph, Structure, build_graph
from mlip.models.base import EnergyModel
from mlip.nn.derivatives import evaluate

TOLERANCE = {torch.float64: 1e-9, torch.float32: 5e-5}  # eV and eV/A where the largest energy or force is below 1
LARGEST_ERROR = 1e-6  # eV/atom, of tabulated radial functions
MOST_ATOMS = 32


def check_agreement(model: EnergyModel, piece: AtomGraph) -> None:
    """Raise `BackendError` if the model's back end and plain torch differ on a structure.

    Args:
        model: its back end is compared with `reference`.
        piece: a small structure.
    """
    found = evaluate(model, piece)
    with model.using("reference"):
        expected = evaluate(model, piece)
    for name, unit, ours, theirs in (("energies of atoms", "eV", found.interaction, expected.interaction),
                                     ("forces", "eV/A", found.forces, expected.forces)):
        if ours is None or theirs is None:
            raise AssertionError("forces were asked for")
        difference, allowed = _compare(ours, theirs, TOLERANCE[model.dtype] * _amplification(piece))
        if not difference <= allowed:
            raise BackendError(f"backend={model.backend!r}: {name} differ by {difference:.1e} {unit} from plain torch "
                               f"on {piece.num_atoms} atoms of this structure (allowed: {allowed:.1e}); use "
                               "backend='reference', and please report this")


def _amplification(piece: AtomGraph) -> float:
    """Return how much rounding grows where two atoms nearly coincide: directions turn by as much as 1/r."""
    if not piece.edge_index.shape[1]:
        return 1.0
    return max(1.0, 0.1 / float(torch.linalg.vector_norm(piece.vectors(), dim=1).min()))


def tabulation_error(exact: EnergyModel, piece: AtomGraph) -> float:
    """Return how much tabulated radial functions change the energy of a structure, eV/atom, both in float64.

    It is infinite where the exact energy is no number, which is reported elsewhere.

    Raises:
        BackendError: more than `LARGEST_ERROR`.
    """
    with torch.inference_mode(False):  # tables are made by differentiation, also in a caller's inference mode
        double = copy.deepcopy(exact).to(dtype=torch.float64)
        expected = evaluate(double, piece, forces=False).interaction.sum()
        if not torch.isfinite(expected):
            return math.inf
        found = evaluate(double.tabulated(), piece, forces=False).interaction.sum()
    error = float((found - expected).abs()) / max(piece.num_atoms, 1)
    if not error <= LARGEST_ERROR:
        raise BackendError(f"radial='tabulated' changes the energy of {piece.num_atoms} atoms of this structure by "
                           f"{error:.1e} eV/atom (allowed: {LARGEST_ERROR:.0e}); use radial='exact'")
    return error


def piece_of(structure: Structure, graph: AtomGraph, model: EnergyModel) -> AtomGraph:
    """Return a small piece of a structure, the first of its graph: all of it, or a cluster around one atom."""
    piece = _piece(structure, graph, model.checked_edges)
    return build_graph([piece], model.config.cutoff, heads=model.config.heads, device=model.device)


def _compare(ours: Tensor, theirs: Tensor, tolerance: float) -> tuple[float, float]:
    """Return the largest difference and the allowed one; what is no number on both sides is reported elsewhere."""
    finite = torch.isfinite(theirs)
    if not torch.equal(torch.isfinite(ours), finite):
        return math.inf, tolerance
    ours, theirs = ours[finite].double(), theirs[finite].double()
    if not len(ours):
        return 0.0, tolerance
    return float((ours - theirs).abs().max()), tolerance * max(1.0, float(theirs.abs().max()))


def _piece(structure: Structure, graph: AtomGraph, most_edges: int) -> Structure:
    """Return the structure if it is small, else a cluster: its best coordinated atom with the nearest neighbours."""
    n = len(structure)
    sender, receiver = (row[: int((graph.edge_index[1] < n).sum())].cpu().numpy() for row in graph.edge_index)
    if n <= MOST_ATOMS and len(sender) <= most_edges:
        return structure
    centre = int(np.bincount(receiver, minlength=n).argmax())
    edges = np.flatnonzero(receiver == centre)
    vectors = graph.vectors().detach().cpu().numpy()[edges]
    others = min(MOST_ATOMS - 1, math.isqrt(most_edges))
    nearest = np.argsort(np.einsum("ed,ed->e", vectors, vectors), kind="stable")[:others]
    atoms = np.concatenate([[centre], sender[edges[nearest]]])
    return dataclasses.replace(structure, numbers=structure.numbers[atoms],
                               positions=np.concatenate([np.zeros((1, 3)), vectors[nearest]]),
                               cell=np.zeros((3, 3)), pbc=np.zeros(3, dtype=bool))
