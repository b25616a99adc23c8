"""The edge convolution: neighbours' features times harmonics times radial weights, summed on receivers."""

from __future__ import annotations

import torch
from torch import Tensor

from mlip.ops.tables import coupling
from mlip.so3.degrees import block

Paths = tuple[tuple[int, int, int], ...]


def edge_convolution(features: Tensor, harmonics: Tensor, weights: Tensor, edge_index: Tensor,
                     num_atoms: int, paths: Paths) -> list[Tensor]:
    """Return the sum over the edges (j, i) of the tensor product "uvu" of h_j and Y_ji, weighted by R_ji.

    For the path (l1, l2, l3): A_i[m3, c] = sum_j R_ji[c] sqrt(2 l3 + 1)
    sum_{m1 m2} w3j[m1, m2, m3] h_j[m1, c] Y_ji[m2] (Batatia et al., NeurIPS 2022, eq. 8).

    Args:
        features: h, [N, M1, C], degrees 0..l of the senders.
        harmonics: Y, [E, M2].
        weights: R, [E, P, C], one for each path and channel.
        edge_index: [2, E], senders and receivers.
        num_atoms: N.
        paths: P triples, grouped by l3.

    Returns:
        For each l3 in ascending order, [N, P(l3), 2*l3+1, C].
    """
    sender, receiver = edge_index
    gathered = features.index_select(0, sender)
    messages: dict[int, list[Tensor]] = {}
    for p, (l1, l2, l3) in enumerate(paths):
        cg = coupling(l1, l2, l3, features.dtype, features.device)
        matrices = torch.einsum("abc,eb->eca", cg, harmonics[:, block(l2)])
        product = gathered[:, block(l1)] * matrices if l1 == 0 else matrices @ gathered[:, block(l1)]
        messages.setdefault(l3, []).append(product * weights[:, p, None, :])
    out = []
    for l3 in sorted(messages):
        stacked = torch.stack(messages[l3], dim=1)
        out.append(stacked.new_zeros(num_atoms, *stacked.shape[1:]).index_add(0, receiver, stacked))
    return out
