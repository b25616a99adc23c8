"""One case of `mlip bench tensor-products` in the process that runs it: all implementations on the same signals."""

from __future__ import annotations

import torch
from torch import Tensor

from mlip.bench.tensor_products.cases import LAYOUTS, SETTINGS, Case, Degrees, Signals, components, expected
from mlip.bench.tensor_products.implementations import IMPLEMENTATIONS, Function, Implementation
from mlip.errors import EngineMismatchError, OptionError
from mlip.so3.degrees import size

CHECKED = 2  # signals of the batch that are compared with the expected result
TOLERANCE = 5e-5  # of the largest number; two implementations then agree to twice that
PARTS = ("product", "derivative by x", "derivative by y")


class Contest:
    """Implementations that are ready to run on the same random signals.

    Attributes:
        case: setting and degree.
        signals: [batch, components, channels], float32.
    """

    def __init__(self, setting: str, lmax: int, batch: int, channels: int) -> None:
        """Draw the signals.

        Args:
            setting: one of `mlip.bench.tensor_products.cases.SETTINGS`.
            lmax: the degree L, at least 1.
            batch: number of pairs of signals of so many channels.
            channels: of each.

        Raises:
            OptionError: an unknown setting, a number below 1.
        """
        if min(lmax, batch, channels) < 1 or setting not in SETTINGS:
            raise OptionError(f"setting {setting!r}, L={lmax}, batch {batch} and {channels} channels were given; "
                              f"allowed are {', '.join(SETTINGS)} and numbers from 1")
        self.case, self.signals = Case(setting, lmax), Signals.random(Case(setting, lmax), batch, channels)
        self._functions: dict[str, Function] = {}
        self._inputs: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    def load(self, name: str, batch: int) -> None:
        """Put the first `batch` signals into the layout of an implementation, and keep them.

        Args:
            name: one of `mlip.bench.tensor_products.implementations.IMPLEMENTATIONS`.
            batch: how many, at most those drawn.
        """
        way, case, signals = IMPLEMENTATIONS[name], self.case, self.signals.first(batch)
        if name not in self._functions:
            self._functions[name] = way.make(case, signals.x.shape[2])
        x, y = (_native(way, t, case.inputs).requires_grad_() for t in (signals.x, signals.y))
        self._inputs[name] = x, y, _native(way, signals.g, case.outputs)

    def forward(self, name: str) -> None:
        """Compute the product of what was loaded, without derivatives."""
        x, y, _ = self._inputs[name]
        with torch.no_grad():
            self._functions[name](x, y)

    def backward(self, name: str) -> None:
        """Compute the product of what was loaded, and the derivatives by both factors."""
        self._derive(name)

    def differences(self, name: str) -> dict[str, float]:
        """Return how far an implementation is from the expected result of a few signals.

        Args:
            name: one of `mlip.bench.tensor_products.implementations.IMPLEMENTATIONS`.

        Returns:
            The largest difference by part, product and derivatives by x and y, over the largest number expected.
        """
        way, case, few = IMPLEMENTATIONS[name], self.case, self.signals.first(CHECKED)
        batch = len(few.x)
        self.load(name, batch)
        degrees = case.outputs, case.inputs, case.inputs
        found = [_plain(way, t.detach(), d, batch) for t, d in zip(self._derive(name), degrees, strict=True)]
        return {part: float((f - e).abs().max() / e.abs().max())
                for part, f, e in zip(PARTS, found, expected(way.product, case, few), strict=True)}

    def _derive(self, name: str) -> tuple[Tensor, ...]:
        x, y, g = self._inputs[name]
        out = self._functions[name](x, y)
        return out, *torch.autograd.grad(out, (x, y), g)


def agree(name: str, case: Case, differences: dict[str, float]) -> None:
    """Check what `Contest.differences` found.

    Raises:
        EngineMismatchError: a difference above `TOLERANCE`.
    """
    for part, found in differences.items():
        if not found <= TOLERANCE:
            raise EngineMismatchError(f"{name} is off by {found:.1e} of the largest number in the {part} "
                                      f"({case.setting}, L={case.lmax}), more than {TOLERANCE:g}; its times cannot be "
                                      "compared")


def _native(way: Implementation, t: Tensor, degrees: Degrees) -> Tensor:
    """Return [batch, components, channels] in the layout of an implementation."""
    if way.whole:
        full = t.new_zeros(len(t), size(degrees[-1]), t.shape[2])
        full[:, components(degrees)] = t
        t, degrees = full, tuple(range(degrees[-1] + 1))
    return LAYOUTS[way.layout][0](t, degrees)


def _plain(way: Implementation, t: Tensor, degrees: Degrees, batch: int) -> Tensor:
    """Undo `_native`."""
    every = tuple(range(degrees[-1] + 1)) if way.whole else degrees
    plain = LAYOUTS[way.layout][1](t, every, batch)
    return plain[:, components(degrees)] if way.whole else plain
