"""Heads of EquiformerV3: the energy, and for models with direct prediction forces and stress."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from mlip.models.equiformer_v3.blocks import DegreeMap, gated
from mlip.models.equiformer_v3.config import EquiformerV3Config
from mlip.ops.sphere_tables import component_degrees


class EnergyHead(nn.Module):
    """A perceptron on the scalars of each atom."""

    def __init__(self, config: EquiformerV3Config) -> None:
        super().__init__()
        self.hidden = nn.Linear(config.channels, config.feed_forward_hidden, dtype=torch.float32)
        self.output = nn.Linear(config.feed_forward_hidden, 1, dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N] for x [N, (lmax+1)^2, C]."""
        out: Tensor = self.output(silu(self.hidden(x[:, 0]))).squeeze(1)
        return out


class StressHead(nn.Module):
    """A gated feed-forward network whose result of degrees 0 and 2, averaged over the atoms, is the stress."""

    def __init__(self, config: EquiformerV3Config) -> None:
        super().__init__()
        self.lmax, width = config.lmax, config.feed_forward_hidden
        self.expand = DegreeMap(config.lmax, config.channels, width)
        self.gate = nn.Linear(config.channels, config.lmax * width, dtype=torch.float32)
        self.contract = DegreeMap(config.lmax, width, 1)

    def forward(self, x: Tensor, batch: Tensor, atoms: Tensor) -> Tensor:
        """Return [B, 9], components of degree 0, 1 (which is 0) and 2.

        Args:
            x: [N, (lmax+1)^2, C].
            batch: [N] int64, the structure of each atom.
            atoms: [B], number of atoms of each structure.
        """
        hidden = gated(self.expand(x), self.gate(x[:, 0]), component_degrees(self.lmax, x)[1:])
        found = self.contract(hidden)[:, :9, 0]
        mean = found.new_zeros(len(atoms), 9).index_add(0, batch, found) / atoms.clamp(min=1)[:, None]
        return torch.cat([mean[:, :1], torch.zeros_like(mean[:, 1:4]), mean[:, 4:]], dim=1)


def symmetric_matrix(f: Tensor) -> Tensor:
    """Return the symmetric matrices [B, 3, 3] of components of degrees 0, 1 and 2, [B, 9]; degree 1 does not enter."""
    d, xz, xy, yy, yz, zz = (f[:, i] for i in (0, 4, 5, 6, 7, 8))
    third, half, sixth = d / sqrt(3), 1 / sqrt(2), yy / sqrt(6)
    rows = [[third - sixth - zz * half, xy * half, xz * half],
            [xy * half, third + 2 * sixth, yz * half],
            [xz * half, yz * half, third - sixth + zz * half]]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
