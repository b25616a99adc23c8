"""Which model is timed: one small class for each family, and one for a model that exists already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from mlip.checkpoints import Potential, create, load
from mlip.errors import OptionError
from mlip.models.transip import TransIPConfig

CUTOFF, EDGE_LMAX, CORRELATION = 5.0, 3, 3
NEIGHBORS = 54.1  # edges of an atom of water within the cutoff
WATER = (1, 8)
RADIALS = ("exact", "tabulated")
EXACT = "clebsch_gordan"


class Choice(Protocol):
    """A model that knows hydrogen and oxygen."""

    @property
    def title(self) -> str:
        """What to say of it in one line."""

    @property
    def radials(self) -> tuple[str, ...]:
        """The radial functions it can have, among `RADIALS`."""

    @property
    def beside(self) -> MACEChoice | None:
        """What mace-torch computes beside it: the same model, or another, of which only times are compared."""

    def create(self) -> Potential:
        """Return the model."""


@dataclass(frozen=True)
class MACEChoice:
    """A MACE with random weights, float32.

    Attributes:
        channels: feature channels of each degree.
        hidden_lmax: largest degree of the features between layers.
        seed: of the weights.
        elements: atomic numbers it knows.
        neighbors: mean number of neighbours of an atom, which divides the messages.
    """

    radials: ClassVar[tuple[str, ...]] = RADIALS
    channels: int = 128
    hidden_lmax: int = 1
    seed: int = 0
    elements: tuple[int, ...] = WATER
    neighbors: float = NEIGHBORS

    @property
    def irreps(self) -> str:
        """The features between layers, as e3nn writes them."""
        return "+".join(f"{self.channels}x{l}{'eo'[l % 2]}" for l in range(self.hidden_lmax + 1))

    @property
    def title(self) -> str:
        """What to say of it in one line."""
        return (f"mace {self.irreps} with random weights, float32, 2 layers, cutoff {CUTOFF:g} A, harmonics to degree "
                f"{EDGE_LMAX}, correlation {CORRELATION}")

    @property
    def beside(self) -> MACEChoice:
        """What mace-torch computes beside it: the same model."""
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """What mace-torch and ours must know to build it, but for elements and seed."""
        return {"cutoff": CUTOFF, "channels": self.channels, "hidden_lmax": self.hidden_lmax, "edge_lmax": EDGE_LMAX,
                "correlation": CORRELATION, "avg_num_neighbors": self.neighbors}

    def create(self, tensor_product: str = EXACT) -> Potential:
        """Return the model, or a variant of it with another tensor product, with random weights of our own."""
        other: dict[str, Any] = {} if tensor_product == EXACT else {"tensor_product": tensor_product}
        return create("mace", self.elements, self.seed, **self.settings, **other)


@dataclass(frozen=True)
class TrainedMACE(MACEChoice):
    """A trained MACE, whose weights mace-torch is given; make it with `of`.

    Attributes:
        file: name or path.
    """

    file: str = ""

    @classmethod
    def of(cls, file: str) -> TrainedMACE:
        """Return the choice of a model.

        Raises:
            OptionError: it differs from MACE with random weights in more than widths; further those of `mlip.load`.
        """
        config: Any = load(file).model.config
        if config.family != "mace":
            raise OptionError(f"{file} is of the family {config.family}; it takes MACE to compare with mace-torch")
        found = cls(config.channels, config.hidden_lmax, 0, config.atomic_numbers, config.avg_num_neighbors, file)
        expected: Any = create("mace", found.elements, **found.settings).model.config
        fields = [k for k, v in expected.to_dict().items() if config.to_dict()[k] != v]
        if fields:
            raise OptionError(f"{file}: mace-torch is compared with models that have "
                              + ", ".join(f"{k}={expected.to_dict()[k]!r}" for k in fields))
        return found

    @property
    def title(self) -> str:
        """What to say of it in one line."""
        return f"{self.file} ({self.irreps}, float32)"

    def create(self, tensor_product: str = EXACT) -> Potential:
        """Return the model; a variant of it has random weights."""
        return load(self.file, dtype="float32") if tensor_product == EXACT else super().create(tensor_product)


@dataclass(frozen=True)
class TransIPChoice:
    """A TransIP with random weights, float32.

    Attributes:
        size: among `mlip.models.transip.SIZES`.
        seed: of the weights.
    """

    radials: ClassVar[tuple[str, ...]] = ("exact",)
    beside: ClassVar[MACEChoice] = MACEChoice(64, 1)  # another model
    size: str = "S"
    seed: int = 0

    @property
    def title(self) -> str:
        """What to say of it in one line; errors are those of `create`."""
        c = TransIPConfig.from_dict({"atomic_numbers": WATER, "cutoff": CUTOFF, "size": self.size})
        return (f"transip {self.size} with random weights, float32, {c.num_layers} layers, {c.channels} channels, "
                f"{c.num_heads} heads, cutoff {CUTOFF:g} A")

    def create(self) -> Potential:
        """Return the model.

        Raises:
            ConfigError: there is no such size.
        """
        return create("transip", WATER, self.seed, cutoff=CUTOFF, size=self.size)


@dataclass(frozen=True)
class LoadedChoice:
    """A model of a file or of the catalogue.

    Attributes:
        file: name or path.
    """

    radials: ClassVar[tuple[str, ...]] = RADIALS
    beside: ClassVar[None] = None
    file: str

    @property
    def title(self) -> str:
        """What to say of it in one line."""
        return self.file

    def create(self) -> Potential:
        """Return the model; errors are those of `mlip.load`."""
        return load(self.file)
