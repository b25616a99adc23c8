"""What `mlip bench tensor-products` times: settings, inputs in the layout of each implementation, expected results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlip.errors import OptionError
from mlip.so3.degrees import block, size
from mlip.so3.gaunt import gaunt_entries
from mlip.verify.expressivity import coefficients

Array = NDArray[np.float64]
Index = NDArray[np.int64]

SETTINGS = ("SISO", "SIMO", "MIMO", "MIMO truncated")


@dataclass(frozen=True)
class Case:
    """A setting and a degree L.

    SISO: one degree L in for both factors, one out. SIMO: one in, all up to 2 L out. MIMO: all up to L in, all up to
    2 L out; truncated: up to L out.
    """

    setting: str
    lmax: int

    def __post_init__(self) -> None:
        if self.setting not in SETTINGS:
            raise OptionError(f"setting {self.setting!r} is unknown; allowed: {', '.join(SETTINGS)}")

    @property
    def inputs(self) -> tuple[int, ...]:
        """Degrees of both factors."""
        return (self.lmax,) if self.setting in ("SISO", "SIMO") else tuple(range(self.lmax + 1))

    @property
    def outputs(self) -> tuple[int, ...]:
        """Degrees of the product."""
        if self.setting == "SISO":
            return (self.lmax,)
        return tuple(range((self.lmax if self.setting == "MIMO truncated" else 2 * self.lmax) + 1))

    @property
    def l_in(self) -> int:
        """Largest degree of both factors."""
        return self.lmax

    @property
    def l_out(self) -> int:
        """Largest degree of the product."""
        return self.outputs[-1]

    @property
    def components_in(self) -> Index:
        """Components of both factors among those of all degrees."""
        return components(self.inputs)

    @property
    def components_out(self) -> Index:
        """Components of the product among those of all degrees."""
        return components(self.outputs)


def components(degrees: tuple[int, ...]) -> Index:
    """Return the components of some degrees among those of all degrees."""
    return np.concatenate([np.arange(block(l).start, block(l).stop) for l in degrees])


@lru_cache(maxsize=8)
def tensor(product: str, case: Case) -> Array:
    """Return the coefficients of a product in a case, [M1, M1, M3], float64; those of "gaunt" without any of our ops.

    Args:
        product: one of `mlip.verify.expressivity.OPERATIONS`.
        case: setting and degree.
    """
    if product == "gaunt":
        index, values = gaunt_entries(case.l_in, case.l_in, case.l_out)
        full = np.zeros((size(case.l_in), size(case.l_in), size(case.l_out)))
        full[index[:, 1], index[:, 2], index[:, 0]] = values
    else:
        full = coefficients(product, case.l_in, case.l_out)
    out: Array = full[np.ix_(case.components_in, case.components_in, case.components_out)]
    return out


class Signals(NamedTuple):
    """Both factors and a gradient of their product, [batch, components, channels], float32."""

    x: Tensor
    y: Tensor
    g: Tensor

    @classmethod
    def random(cls, case: Case, batch: int, channels: int, seed: int = 0) -> Signals:
        """Return normally distributed components of the degrees of a case."""
        random = np.random.default_rng(seed)
        rows = len(case.components_in), len(case.components_in), len(case.components_out)
        return cls(*(torch.from_numpy(random.standard_normal((batch, m, channels), np.float32)) for m in rows))

    def first(self, batch: int) -> Signals:
        """Return those of the first few of the batch."""
        return Signals(*(t[:batch] for t in self))


def expected(product: str, case: Case, signals: Signals) -> list[Tensor]:
    """Return the product and the derivatives of its scalar product with g by x and y, from all coefficients in float64.

    Args:
        product: one of `mlip.verify.expressivity.OPERATIONS`.
        case: setting and degree.
        signals: a few, since all pairs of components are multiplied.
    """
    table = torch.from_numpy(tensor(product, case))
    x, y = (t.double().requires_grad_() for t in (signals.x, signals.y))
    out = torch.einsum("nic,njc,ijk->nkc", x, y, table)
    return [out.detach(), *torch.autograd.grad(out, (x, y), signals.g.double())]


Degrees = tuple[int, ...]


def _split(x: Tensor, degrees: Degrees) -> list[Tensor]:
    return list(torch.split(x, [2 * l + 1 for l in degrees], dim=1))


def _into_e3nn(x: Tensor, degrees: Degrees) -> Tensor:
    return torch.cat([part.mT.flatten(1) for part in _split(x, degrees)], dim=1)


def _from_e3nn(x: Tensor, degrees: Degrees, batch: int) -> Tensor:
    channels = x.shape[1] // sum(2 * l + 1 for l in degrees)
    parts = torch.split(x, [channels * (2 * l + 1) for l in degrees], dim=1)
    return torch.cat([p.reshape(batch, channels, -1).mT for p in parts], dim=1)


Into = Callable[[Tensor, Degrees], Tensor]
From = Callable[[Tensor, Degrees, int], Tensor]

# From [batch, components, channels] and back: each implementation gets what suits it, outside the time.
LAYOUTS: dict[str, tuple[Into, From]] = {
    "view": (lambda x, _: x.contiguous().mT, lambda x, _, batch: x.mT),
    "last": (lambda x, _: x.mT.flatten(0, 1), lambda x, _, batch: x.reshape(batch, -1, x.shape[1]).mT),
    "first": (lambda x, _: x.transpose(0, 1).flatten(1),
              lambda x, _, batch: x.reshape(len(x), batch, -1).transpose(0, 1)),
    "e3nn": (_into_e3nn, _from_e3nn),
}
