"""`MACEConfig`: everything that defines a MACE model apart from its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlip.errors import ConfigError
from mlip.models.base import ModelConfig

INTERACTIONS = ("residual", "plain", "density_residual", "density")
DISTANCE_TRANSFORMS = ("none", "agnesi")
TENSOR_PRODUCTS = ("clebsch_gordan", "gaunt", "gaunt_grid", "gaunt_full", "gaunt_antisymmetric")


@dataclass(frozen=True)
class MACEConfig(ModelConfig):
    """Configuration of a MACE model (Batatia et al., NeurIPS 2022).

    Attributes:
        channels: feature channels, the same for each degree.
        hidden_lmax: largest degree of the features between layers (0: invariant messages).
        edge_lmax: largest degree of the harmonics and of the messages.
        correlation: body order of the product, 1 to 4.
        num_layers: interaction layers; the last one keeps scalars only.
        num_bessel: radial basis functions.
        cutoff_power: p of the polynomial cutoff.
        radial_mlp: widths of the hidden layers of the radial network.
        readout_width: hidden width of the last readout, for each head.
        avg_num_neighbors: divides the messages of blocks without density.
        interaction_first: block of the first layer, one of `INTERACTIONS`.
        interaction: block of the other layers.
        distance_transform: one of `DISTANCE_TRANSFORMS`.
        pair_repulsion: whether to add the ZBL repulsion.
        tensor_product: one of `TENSOR_PRODUCTS`. `"clebsch_gordan"` is MACE; the Gaunt variants take the many-body
            product point by point on the sphere (Luo et al., ICLR 2024): `"gaunt"` as published, `"gaunt_grid"` in
            the normalisation of e3nn's grids (Xie et al., arXiv 2506.13523), `"gaunt_full"` with a Gaunt convolution
            as well, which has one radial weight for each degree of the harmonics instead of one for each path, and
            `"gaunt_antisymmetric"` with the couplings through odd intermediate degrees that Gaunt leaves out.
        scale_shift: True for ScaleShiftMACE, which scales and shifts the interaction energy.
    """

    family: ClassVar[str] = "mace"
    channels: int = 64
    hidden_lmax: int = 1
    edge_lmax: int = 3
    correlation: int = 3
    num_layers: int = 2
    num_bessel: int = 8
    cutoff_power: int = 5
    radial_mlp: tuple[int, ...] = (64, 64, 64)
    readout_width: int = 16
    avg_num_neighbors: float = 1.0
    interaction_first: str = "residual"
    interaction: str = "residual"
    distance_transform: str = "none"
    pair_repulsion: bool = False
    scale_shift: bool = True
    tensor_product: str = "clebsch_gordan"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low, high in (("channels", 1, 4096), ("edge_lmax", 0, 6), ("correlation", 1, 4),
                                ("num_layers", 1, 16), ("num_bessel", 1, 256), ("cutoff_power", 2, 20),
                                ("readout_width", 1, 4096)):
            self._check_whole(name, low, high)
        self._check_whole("hidden_lmax", 0, self.edge_lmax)
        self._check_choice("interaction_first", INTERACTIONS)
        self._check_choice("interaction", INTERACTIONS)
        self._check_choice("distance_transform", DISTANCE_TRANSFORMS)
        self._check_choice("pair_repulsion", (False, True))
        self._check_choice("scale_shift", (False, True))
        self._check_choice("tensor_product", TENSOR_PRODUCTS)
        if self.tensor_product == "gaunt_antisymmetric" and (self.edge_lmax == 0
                                                             or self.correlation + (self.layer_lmax(0) > 0) < 4):
            raise ConfigError("mace: tensor_product='gaunt_antisymmetric' needs edge_lmax=1 or more and correlation=4, "
                              f"or 3 with hidden_lmax=1 or more and two layers: with edge_lmax={self.edge_lmax}, "
                              f"correlation={self.correlation}, hidden_lmax={self.hidden_lmax} and num_layers="
                              f"{self.num_layers} there is no coupling that 'gaunt_full' leaves out")
        self._check_positive("avg_num_neighbors")
        if not isinstance(self.radial_mlp, tuple) or not all(type(w) is int and w > 0 for w in self.radial_mlp):
            raise ConfigError(f"mace: radial_mlp must be a tuple of positive widths; {self.radial_mlp!r} was given")

    @property
    def gaunt_convolution(self) -> bool:
        """Whether the edge convolution is a product on the sphere."""
        return self.tensor_product in ("gaunt_full", "gaunt_antisymmetric")

    def layer_lmax(self, layer: int) -> int:
        """Return the largest degree of the features that leave a layer."""
        return 0 if layer == self.num_layers - 1 else self.hidden_lmax

    def layer_interaction(self, layer: int) -> str:
        """Return the interaction block of a layer."""
        return self.interaction_first if layer == 0 else self.interaction
