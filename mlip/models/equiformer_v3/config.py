"""`EquiformerV3Config`: everything that defines an EquiformerV3 model apart from its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlip.errors import ConfigError
from mlip.models.base import ModelConfig

FORCES = ("conservative", "direct")


@dataclass(frozen=True)
class EquiformerV3Config(ModelConfig):
    """Configuration of an EquiformerV3 model (arXiv 2604.09130); the defaults are the released size.

    Attributes:
        lmax: largest degree of the features.
        mmax: largest order that is kept in the frames of the edges.
        channels: feature channels of each degree.
        num_layers: blocks of attention and feed-forward network.
        num_heads: of the attention.
        attention_hidden: channels of a message between its two linear maps.
        attention_alpha: channels of the logits of each head.
        attention_value: channels of the values of each head.
        feed_forward_hidden: channels of the product in the feed-forward network, and of the heads.
        edge_channels: width of the radial networks and of their element embeddings.
        num_gaussians: radial basis functions.
        avg_num_neighbors: divides the embedding of the neighbourhood.
        attention_eps: added to the sum of the attention weights of an atom.
        forces: `"conservative"`, derivatives of the energy, or `"direct"`, predicted by heads of their own: these are
            the gradient of no energy, and dynamics with them do not conserve it.
        denoising: whether a model with direct forces can be trained to denoise (DeNS, arXiv 2403.09549).
        nonsmooth_max_neighbors: keep only the nearest neighbours of each atom, as the reference does (300); energies
            then jump where neighbours change places. None, the default, keeps all within the cutoff.
    """

    family: ClassVar[str] = "equiformer_v3"
    lmax: int = 4
    mmax: int = 2
    channels: int = 128
    num_layers: int = 7
    num_heads: int = 8
    attention_hidden: int = 32
    attention_alpha: int = 64
    attention_value: int = 16
    feed_forward_hidden: int = 512
    edge_channels: int = 128
    num_gaussians: int = 64
    avg_num_neighbors: float = 23.395238876342773
    attention_eps: float = 1e-16
    forces: str = "conservative"
    denoising: bool = False
    nonsmooth_max_neighbors: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low, high in (("lmax", 0, 11), ("channels", 1, 4096), ("num_layers", 1, 64), ("num_heads", 1, 256),
                                ("attention_hidden", 1, 4096), ("attention_alpha", 1, 4096),
                                ("attention_value", 1, 4096), ("feed_forward_hidden", 1, 16384),
                                ("edge_channels", 1, 4096), ("num_gaussians", 2, 4096)):
            self._check_whole(name, low, high)
        self._check_whole("mmax", 0, self.lmax)
        self._check_positive("avg_num_neighbors")
        self._check_positive("attention_eps")
        self._check_choice("forces", FORCES)
        self._check_choice("denoising", (False, True))
        if self.nonsmooth_max_neighbors is not None:
            self._check_whole("nonsmooth_max_neighbors", 1, 1_000_000)
        if len(self.heads) != 1:
            raise ConfigError(f"equiformer_v3: one head is supported; {self.heads!r} was given")
        if self.forces == "direct" and self.lmax < 2:
            raise ConfigError(f"equiformer_v3: direct forces and stress need lmax=2 or more; {self.lmax} was given")
        if self.denoising and self.forces != "direct":
            raise ConfigError("equiformer_v3: denoising=True needs forces='direct'")
