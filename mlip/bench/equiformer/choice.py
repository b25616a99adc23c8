"""Which EquiformerV3 is timed, and on which structures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from ase.build import molecule

from mlip.bench.neighbors import copper_block
from mlip.checkpoints import Potential, create
from mlip.errors import OptionError
from mlip.graph import Structure
from mlip.io.ase import structure_of
from mlip.models.equiformer_v3 import EquiformerV3Config
from mlip.neighbors import neighbor_list

ELEMENTS = (1, 6, 8, 29)
CUTOFF = 6.0  # A
COPPER = {"cu4": (1, 1, 1), "cu32": (2, 2, 2), "cu108": (3, 3, 3), "cu256": (4, 4, 4), "cu1000": (5, 5, 10)}
MOLECULES = {"water": "H2O", "isobutane": "isobutane"}  # name in ASE
STRUCTURES = (*MOLECULES, *COPPER)


@dataclass(frozen=True)
class EquiformerChoice:
    """The EquiformerV3 to time: random weights, float32, cutoff 6 A; the defaults are the released size.

    Attributes:
        channels: feature channels of each degree.
        lmax: largest degree.
        mmax: largest order in the frames of the edges.
        layers: blocks of attention and feed-forward network.
        seed: of the weights.
    """

    radials: ClassVar[tuple[str, ...]] = ("exact",)
    beside: ClassVar[None] = None
    channels: int = 128
    lmax: int = 4
    mmax: int = 2
    layers: int = 7
    seed: int = 0

    @property
    def config(self) -> EquiformerV3Config:
        """Configuration of the model.

        Raises:
            ConfigError: sizes that are none.
        """
        return EquiformerV3Config(ELEMENTS, CUTOFF, channels=self.channels, lmax=self.lmax, mmax=self.mmax,
                                  num_layers=self.layers)

    @property
    def title(self) -> str:
        """What to say of it in one line."""
        return (f"equiformer_v3, {self.layers} layers, {self.channels} channels, lmax {self.lmax}, mmax {self.mmax}, "
                f"cutoff {CUTOFF:g} A, random weights, float32")

    def create(self) -> Potential:
        """Return the model; errors are those of `config`."""
        settings = {k: v for k, v in self.config.to_dict().items() if k not in ("atomic_numbers", "cutoff")}
        return create("equiformer_v3", ELEMENTS, self.seed, cutoff=CUTOFF, **settings)


@cache
def structure_named(name: str) -> Structure:
    """Return a structure to time: copper as `copper_block`, or a molecule of ASE.

    Raises:
        OptionError: none of `STRUCTURES`.
    """
    if name in COPPER:
        positions, cell = copper_block(COPPER[name])
        return Structure.create([29] * len(positions), positions, cell, True)
    if name in MOLECULES:
        return structure_of(molecule(MOLECULES[name]))
    raise OptionError(f"structure {name!r} is unknown; known: {', '.join(STRUCTURES)}")


@cache
def edges_of(name: str) -> int:
    """Return the number of edges of a structure; errors are those of `structure_named`."""
    s = structure_named(name)
    return len(neighbor_list(s.positions, CUTOFF, s.cell, s.pbc).senders)


def in_order(names: Sequence[str]) -> list[str]:
    """Return names of structures, each once, few edges first; errors are those of `structure_named`."""
    if not names:
        raise OptionError(f"structures must name at least one of {', '.join(STRUCTURES)}")
    return sorted(dict.fromkeys(names), key=edges_of)
