"""Ziegler-Biersack-Littmark repulsion of close pairs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mlip.nn.radial import polynomial_cutoff

COULOMB = 14.3996  # e^2/(4 pi eps0) in eV A, the rounded value public weights were trained with


class ZBLRepulsion(nn.Module):
    """Screened nuclear repulsion, cut off at the sum of the covalent radii (Ziegler et al., 1985)."""

    radii: Tensor
    numbers: Tensor
    coefficients: Tensor
    exponents: Tensor
    screening_exponent: Tensor
    screening_length: Tensor

    def __init__(self, atomic_numbers: Sequence[int], radii: Sequence[float], power: int) -> None:
        super().__init__()
        self.power = power
        self.register_buffer("radii", torch.tensor(radii, dtype=torch.float64))
        self.register_buffer("numbers", torch.tensor(atomic_numbers, dtype=torch.float64), persistent=False)
        self.register_buffer("coefficients", torch.tensor([0.1818, 0.5099, 0.2802, 0.02817], dtype=torch.float64))
        self.register_buffer("exponents", torch.tensor([3.2, 0.9423, 0.4028, 0.2016], dtype=torch.float64),
                             persistent=False)
        self.register_buffer("screening_exponent", torch.tensor(0.300, dtype=torch.float64))
        self.register_buffer("screening_length", torch.tensor(0.4543, dtype=torch.float64))

    def forward(self, r: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        """Return half the energy of each pair, [K] eV: what either of its atoms takes.

        Args:
            r: [K, 1], A.
            senders: [K], element index of one atom.
            receivers: [K], element index of the other.
        """
        r = r.squeeze(-1)
        z_s, z_r = self.numbers[senders], self.numbers[receivers]
        length = (self.screening_length * 0.529
                  / (z_s**self.screening_exponent + z_r**self.screening_exponent))
        screening = torch.exp(-self.exponents * (r / length).unsqueeze(-1)) @ self.coefficients
        envelope = polynomial_cutoff(r, self.radii[senders] + self.radii[receivers], self.power)
        return 0.5 * COULOMB * z_s * z_r / r * screening * envelope
