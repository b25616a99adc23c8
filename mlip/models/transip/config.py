"""`TransIPConfig`: everything that defines a TransIP model apart from its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mlip.errors import ConfigError, StructureError
from mlip.graph import Structure
from mlip.models.base import ModelConfig

MODES = ("md", "paper")
FORCES = ("conservative", "direct")
SIZES = {"XS": {"channels": 128, "num_layers": 4, "num_heads": 4},
         "S": {"channels": 256, "num_layers": 6, "num_heads": 8},
         "M": {"channels": 512, "num_layers": 10, "num_heads": 8},
         "L": {"channels": 640, "num_layers": 10, "num_heads": 10}}
"""Our sizes; those of the paper are not known to us, and these are not them."""


@dataclass(frozen=True)
class TransIPConfig(ModelConfig):
    """Configuration of a TransIP model (arXiv 2510.00027); the defaults are the size S.

    The published architecture is known in outline only. What is ours: attention within a smooth cutoff, so that there
    are periodic systems and dynamics; phases of the edge vectors; the readout atom by atom; all sizes.

    Attributes:
        mode: `"md"`, attention to the neighbours within the cutoff, which a smooth switch fades out; periodic systems
            and dynamics. `"paper"`, attention of all atoms of one molecule to each other, without switch or radial
            functions; the cutoff is then the largest distance of two atoms that is allowed.
        channels: of an atom.
        num_layers: blocks of attention and feed-forward network.
        num_heads: of the attention; each has an even number of channels.
        feed_forward: channels of the feed-forward network over those of an atom.
        num_gaussians: radial functions of the attention's bias in mode `"md"`.
        switch_width: A, below the cutoff, over which neighbours fade out.
        avg_num_neighbors: its root divides the sums over neighbours that atoms begin with.
        frequency: 1/A, standard deviation of the components of the frequencies of the phases before training.
        forces: `"conservative"`, derivatives of the energy, or, in mode `"paper"`, `"direct"`: predicted by a head of
            their own. Those are the gradient of no energy, and dynamics with them do not conserve it.
        charges: total charges the model is made for, e, ascending.
        spins: multiplicities 2S+1 the model is made for, ascending.
    """

    family: ClassVar[str] = "transip"
    mode: str = "md"
    channels: int = 256
    num_layers: int = 6
    num_heads: int = 8
    feed_forward: int = 2
    num_gaussians: int = 16
    switch_width: float = 1.0
    avg_num_neighbors: float = 16.0
    frequency: float = 0.5
    forces: str = "conservative"
    charges: tuple[int, ...] = (0,)
    spins: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("mode", MODES)
        self._check_choice("forces", FORCES)
        for name, low, high in (("channels", 2, 8192), ("num_layers", 1, 128), ("num_heads", 1, 256),
                                ("feed_forward", 1, 16), ("num_gaussians", 2, 4096)):
            self._check_whole(name, low, high)
        for name in ("switch_width", "frequency", "avg_num_neighbors"):
            self._check_positive(name)
        if self.channels % (2 * self.num_heads):
            raise ConfigError(f"transip: channels must be a multiple of twice num_heads, {2 * self.num_heads}; "
                              f"{self.channels} were given")
        if self.switch_width > self.cutoff:
            raise ConfigError(f"transip: switch_width must not exceed the cutoff, {self.cutoff:g} A; "
                              f"{self.switch_width:g} A was given")
        for name, low, high in (("charges", -100, 100), ("spins", 1, 101)):
            self._check_states(name, low, high)
        if len(self.heads) != 1:
            raise ConfigError(f"transip: one head is supported; {self.heads!r} was given")
        if self.forces == "direct" and self.mode != "paper":
            raise ConfigError("transip: forces='direct' needs mode='paper'; dynamics need derivatives of the energy")

    @property
    def known_charges(self) -> tuple[int, ...]:
        """Total charges the model was made for, e."""
        return self.charges

    @property
    def known_spins(self) -> tuple[int, ...]:
        """Multiplicities 2S+1 the model was made for."""
        return self.spins

    def check_structure(self, structure: Structure) -> None:
        """Raise `StructureError`, in mode `"paper"`, for periodic structures and molecules wider than the cutoff."""
        if self.mode != "paper":
            return
        if structure.pbc.any():
            raise StructureError("the model has the mode 'paper', in which all atoms of one molecule attend to each "
                                 "other: it cannot take periodic structures; set pbc=False (OpenMM: "
                                 "periodic=False), or use a model with mode='md'")
        r = structure.positions
        if not len(r) or np.linalg.norm(np.ptp(r, axis=0)) < self.cutoff:
            return
        width = max(float(np.linalg.norm(r - centre, axis=1).max()) for centre in r)
        if width >= self.cutoff:
            raise StructureError(f"the model has the mode 'paper' and takes molecules below {self.cutoff:g} A in width;"
                                 f" two atoms are {width:.1f} A apart; make it with a larger cutoff, or use mode='md'")

    def _check_states(self, name: str, low: int, high: int) -> None:
        values = getattr(self, name)
        whole = isinstance(values, tuple) and all(type(v) is int and low <= v <= high for v in values)
        if not whole or not values or list(values) != sorted(set(values)):
            raise ConfigError(f"transip: {name} must be a tuple of ascending, distinct whole numbers from {low} to "
                              f"{high}, at least one; {values!r} was given")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TransIPConfig:
        """Make a configuration from JSON values, of which `size`, one of `SIZES`, stands for several.

        Raises:
            ConfigError: unknown fields or an unknown size.
        """
        rest = dict(values)
        size = rest.pop("size", None)
        if size is not None and (not isinstance(size, str) or size not in SIZES):
            raise ConfigError(f"transip: size must be one of {', '.join(SIZES)}; {size!r} was given")
        found = super().from_dict({**(SIZES[size] if size else {}), **rest})
        assert isinstance(found, TransIPConfig)
        return found
