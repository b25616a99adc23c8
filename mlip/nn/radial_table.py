"""Tabulated radial functions: quintic polynomials on equal intervals, twice continuously differentiable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from mlip.errors import BackendError
from mlip.nn.linear import SILU_SCALE
from mlip.nn.radial import RadialMLP
from mlip.ops import Backend, radial_table

INTERVALS = 256
NEAR_ZERO = 1e-3  # A; radial functions divide by r, so that they are evaluated here in the place of 0
LARGEST_ERROR = 1e-6  # of a table, relative to its largest value
MAKING = Lock()  # held while tables are added, in the place of one for each model, which could not be copied
Jets = list[Tensor]  # for each network [3, n, columns]: values and first two derivatives at n distances

# Coefficients of t^0..t^5 (rows) of the polynomial on [0, 1] with given f, f', f'' at 0 and at 1 (columns).
_HERMITE = ((1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
            (0.0, 1.0, 0.0, 0.0, 0.0, 0.0),
            (0.0, 0.0, 0.5, 0.0, 0.0, 0.0),
            (-10.0, -6.0, -1.5, 10.0, -4.0, 0.5),
            (15.0, 8.0, 1.5, -15.0, 7.0, -1.0),
            (-6.0, -3.0, -0.5, 6.0, -3.0, 0.5))


class TableNetwork(nn.Module):
    """Stands in the place of a radial network; its inputs are what `RadialTables.forward` returns."""

    coefficients: Tensor  # [slots * INTERVALS, 6, columns]

    def __init__(self, columns: int, cutoff: float) -> None:
        super().__init__()
        self.width = cutoff / INTERVALS
        self.backend: Backend = "auto"
        self.error = 0.0  # of the worst table, relative to its largest value
        self.register_buffer("coefficients", torch.empty(0, len(_HERMITE), columns))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [K, columns] for rows (place within the interval, from 0 to 1, and row of the interval), [K, 2]."""
        return radial_table(inputs[:, 0], inputs[:, 1].detach().long(), self.coefficients, self.backend)

    def evaluate_into(self, inputs: Tensor, out: Tensor) -> Any:
        """Write `forward(inputs)` into `out` and return what `differentiate` needs."""
        place, row = inputs[:, 0].contiguous(), inputs[:, 1].long()
        torch.ops.mlip.radial_table_into(place, row, self.coefficients, out)
        return place, row

    def differentiate(self, state: Any, g: Tensor) -> Tensor:
        """Return the derivative by the inputs of what has the derivative `g` by `forward(inputs)`."""
        slopes = g.new_zeros(len(g), 2)
        slopes[:, 0] = torch.ops.mlip.radial_table_backward(*state, self.coefficients, g)
        return slopes

    def make(self, jets: Tensor, middle: Tensor) -> tuple[Tensor, float]:
        """Return the table of one kind of pair and its error, relative to the largest value.

        Args:
            jets: values and derivatives at the knots, [3, INTERVALS + 1, columns] float64.
            middle: values halfway between them, [INTERVALS, columns] float64.

        Raises:
            BackendError: the table is off by more than `LARGEST_ERROR` between the knots.
        """
        scaled = jets * self.width ** torch.arange(3, dtype=jets.dtype, device=jets.device)[:, None, None]
        ends = torch.cat([scaled[:, :-1], scaled[:, 1:]])
        rows = torch.einsum("pd,dnf->npf", torch.tensor(_HERMITE, dtype=jets.dtype, device=jets.device), ends)
        powers = 0.5 ** torch.arange(len(_HERMITE), dtype=jets.dtype, device=jets.device)
        difference = (torch.einsum("npf,p->nf", rows, powers) - middle).abs().max()
        error = float(difference / middle.abs().max().clamp(min=1e-300))
        if not error <= LARGEST_ERROR:
            raise BackendError(f"radial='tabulated': a table of {INTERVALS} intervals is off by {error:.1e} of the "
                               f"largest value (allowed: {LARGEST_ERROR:.0e}); use radial='exact' for this model")
        return rows, error

    def add(self, rows: Tensor, error: float) -> None:
        """Append a table that `make` returned."""
        self.error = max(self.error, error)
        self.coefficients = torch.cat([self.coefficients, rows.to(self.coefficients)])


class RadialTables(nn.Module):
    """The radial functions of a model, tabulated for each kind of pair when it is first met.

    What the networks return is differentiated exactly, so that forces are those of the tabulated energy.
    """

    kinds: Tensor  # [elements, elements] int64
    slots: Tensor  # [kinds] int64, -1 for those not tabulated yet

    def __init__(self, jets: Callable[[int, Tensor], Jets], kinds: Tensor, cutoff: float,
                 networks: Sequence[TableNetwork]) -> None:
        """Keep what makes the tables.

        Args:
            jets: (kind, distances [n] float64) -> values and derivatives of the exact networks.
            kinds: the kind of each pair of elements.
            cutoff: A; tables cover 0 to the cutoff.
            networks: get the tables; they belong to the layers of the model.
        """
        super().__init__()
        self.jets, self.cutoff = jets, cutoff
        self.register_buffer("kinds", kinds)
        self.register_buffer("slots", torch.full((int(kinds.max()) + 1,), -1))
        self.networks = nn.ModuleList(networks)

    def forward(self, r: Tensor, ends: Tensor) -> Tensor:
        """Return the inputs of the networks [K, 2] for distances [K, 1] in A and the elements of both ends [2, K]."""
        kinds = self.kinds[ends[0], ends[1]]
        slots = self.slots[kinds]
        if (slots < 0).any():
            for kind in torch.unique(kinds[slots < 0]).tolist():
                with MAKING:
                    if self.slots[kind] < 0:  # no other thread has made it meanwhile
                        self._tabulate(kind)
            slots = self.slots[kinds]
        x = r * (INTERVALS / self.cutoff)
        interval = x.detach().long().clamp(0, INTERVALS - 1)
        return torch.cat([x - interval, (interval + INTERVALS * slots.unsqueeze(1)).to(r.dtype)], dim=1)

    def _tabulate(self, kind: int) -> None:
        knots = torch.linspace(0, self.cutoff, INTERVALS + 1, dtype=torch.float64, device="cpu")
        middle = 0.5 * (knots[1:] + knots[:-1])
        knots[0] = NEAR_ZERO
        slot = int(self.slots.max()) + 1
        with torch.inference_mode(False):
            made = [network.make(_from_zero(jets), values[0])  # type: ignore[operator]
                    for network, jets, values in zip(self.networks, self.jets(kind, knots), self.jets(kind, middle),
                                                     strict=True)]
            for network, (rows, error) in zip(self.networks, made, strict=True):  # all of them, or none
                network.add(rows, error)  # type: ignore[operator]
            slots = self.slots.clone()
            slots[kind] = slot
            self.slots = slots


def _from_zero(jets: Tensor) -> Tensor:
    """Return the jets with those of the first knot carried from `NEAR_ZERO` to 0 by their Taylor series."""
    value, slope, curvature = jets[:, 0]
    jets = jets.clone()
    jets[0, 0] = value - NEAR_ZERO * slope + 0.5 * NEAR_ZERO**2 * curvature
    jets[1, 0] = slope - NEAR_ZERO * curvature
    return jets


def network_jets(network: RadialMLP, basis: Tensor) -> Tensor:
    """Return values and first two derivatives by r of a radial network, [3, n, columns], given those of its input."""
    x = basis
    for i, weight in enumerate(network.weights):
        if i:
            value, slope, curvature = x
            s = torch.sigmoid(value)
            first, second = s * (1 + value * (1 - s)), s * (1 - s) * (2 + value * (1 - 2 * s))
            x = SILU_SCALE * torch.stack([value * s, first * slope, second * slope**2 + first * curvature])
        x = x @ (weight / weight.shape[0] ** 0.5)
    return x


def function_jets(function: Callable[[Tensor], Tensor], r: Tensor) -> Tensor:
    """Return values and first two derivatives, [3, n, columns], of a function [n] -> [n, columns], row by row."""
    with torch.enable_grad():
        r = r.clone().requires_grad_()
        values = function(r)
        slopes = [torch.autograd.grad(column.sum(), r, create_graph=True)[0] for column in values.unbind(1)]
        curvatures = [torch.autograd.grad(slope.sum(), r, retain_graph=True)[0] for slope in slopes]
    return torch.stack([values.detach(), torch.stack(slopes, dim=1).detach(), torch.stack(curvatures, dim=1)])
