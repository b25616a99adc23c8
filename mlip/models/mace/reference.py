"""Weights in the layout of mace-torch -> our configuration and weights.

The reference stores every linear map as one flat vector, blocks by irrep, and the coupling tensors U of the
symmetric contraction beside its weights. Ours keeps one matrix for each degree and computes the couplings,
in a basis without linear dependences; the weights are carried over exactly (least squares with zero residual).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlip.errors import UnsupportedModelError
from mlip.models.mace.config import MACEConfig
from mlip.so3 import wigner_3j
from mlip.so3.degrees import convolution_paths
from mlip.so3.symmetric_power import fold, symmetric_basis

BLOCKS = {
    "RealAgnosticResidualInteractionBlock": "residual",
    "RealAgnosticInteractionBlock": "plain",
    "RealAgnosticDensityResidualInteractionBlock": "density_residual",
    "RealAgnosticDensityInteractionBlock": "density",
}
TRANSFORMS = {"None": "none", "Agnesi": "agnesi"}
FIXED = {"gate": ("silu",), "radial_type": ("bessel",), "apply_cutoff": (True,), "use_reduced_cg": (False, True),
         "use_so3": (False, None), "use_agnostic_product": (False, None), "use_last_readout_only": (False, None),
         "use_embedding_readout": (False, None), "embedding_specs": (None,), "edge_irreps": (None,),
         "readout_cls": (None, "NonLinearReadoutBlock")}
IGNORED = re.compile(r"(output_mask|_zeroed|conv_tp\.weight|num_interactions"
                     r"|pair_repulsion_fn\.(cutoff\.p|(cutoff\.)?r_max))$")  # the last: never evaluated


def convert(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> tuple[MACEConfig, dict[str, Tensor]]:
    """Translate a mace-torch model.

    Args:
        state_dict: tensors under the reference's own keys.
        config: the reference's constructor arguments, with the class name under `model_class`.

    Returns:
        Our configuration, and our state dict in the dtype of the reference.

    Raises:
        UnsupportedModelError: options or tensors that mlip does not implement, by name.
    """
    return convert_with(state_dict, config, "clebsch_gordan", lambda tensors, _: tensors)


def convert_with(state_dict: Mapping[str, Tensor], config: Mapping[str, Any], tensor_product: str,
                 arrange: Callable[[Mapping[str, Tensor], MACEConfig], Mapping[str, Tensor]],
                 ) -> tuple[MACEConfig, dict[str, Tensor]]:
    """Translate a model that is MACE but for its product and the arrangement of its tensors.

    Args:
        state_dict: tensors under the reference's own keys.
        config: the reference's constructor arguments.
        tensor_product: of our configuration.
        arrange: brings the tensors into the order of mace-torch.

    Returns:
        As `convert`; errors are its own too.
    """
    ours = _config(config, tensor_product)
    reader = _Reader(arrange(state_dict, ours))
    weights = dict(_tensors(reader, ours))
    reader.finish()
    return ours, weights


def _config(c: Mapping[str, Any], tensor_product: str) -> MACEConfig:
    scale_shift = _choose(c, "model_class", {"MACE": False, "ScaleShiftMACE": True})
    for name, allowed in FIXED.items():
        if c.get(name, allowed[0]) not in allowed:
            raise UnsupportedModelError(f"mace: {name}={c[name]!r} is not supported; allowed: {allowed}")
    numbers = tuple(int(z) for z in c["atomic_numbers"])
    if list(numbers) != sorted(set(numbers)):
        raise UnsupportedModelError(f"mace: atomic_numbers must be ascending; {numbers} was given")
    channels, lmax = _irreps(c["hidden_irreps"])
    readout_width, readout_lmax = _irreps(c["MLP_irreps"])
    correlation = c["correlation"]
    orders = {int(v) for v in (correlation if isinstance(correlation, (list, tuple)) else [correlation])}
    if readout_lmax != 0 or len(orders) != 1:
        raise UnsupportedModelError(f"mace: MLP_irreps={c['MLP_irreps']!r}, correlation={correlation!r}: scalars "
                                    "and one correlation for all layers are supported")
    return MACEConfig(
        atomic_numbers=numbers,
        cutoff=float(c["r_max"]),
        heads=tuple(c.get("heads") or ("default",)),
        channels=channels,
        hidden_lmax=lmax,
        edge_lmax=int(c["max_ell"]),
        correlation=orders.pop(),
        num_layers=int(c["num_interactions"]),
        num_bessel=int(c["num_bessel"]),
        cutoff_power=int(c["num_polynomial_cutoff"]),
        radial_mlp=tuple(int(w) for w in c.get("radial_MLP") or (64, 64, 64)),
        readout_width=readout_width,
        avg_num_neighbors=float(c["avg_num_neighbors"]),
        interaction_first=_choose(c, "interaction_cls_first", BLOCKS),
        interaction=_choose(c, "interaction_cls", BLOCKS),
        distance_transform=_choose({"distance_transform": c.get("distance_transform") or "None"},
                                   "distance_transform", TRANSFORMS),
        pair_repulsion=bool(c.get("pair_repulsion", False)),
        scale_shift=scale_shift,
        tensor_product=tensor_product,
    )


def _choose(c: Mapping[str, Any], key: str, table: Mapping[str, Any]) -> Any:
    value = c.get(key)
    if not isinstance(value, str) or value not in table:
        raise UnsupportedModelError(f"mace: {key} {value!r} is not supported; supported: {', '.join(table)}")
    return table[value]


def _irreps(text: str) -> tuple[int, int]:
    """Return (channels, lmax) of irreps such as '64x0e+64x1o'."""
    terms = re.findall(r"(\d+)x(\d+)([eo])", str(text).replace(" ", ""))
    degrees = [int(l) for _, l, _ in terms]
    natural = all(p == "eo"[int(l) % 2] for _, l, p in terms)
    if not terms or degrees != list(range(len(terms))) or len({m for m, _, _ in terms}) != 1 or not natural:
        raise UnsupportedModelError(f"mace: irreps {text!r} are not supported; supported are equal numbers of "
                                    "channels of consecutive degrees with natural parity, e.g. '64x0e+64x1o'")
    return int(terms[0][0]), degrees[-1]


class _Reader:
    """A state dict that knows which of its tensors were read."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.unread = set(tensors)

    def __call__(self, key: str) -> Tensor:
        if key not in self.tensors:
            raise UnsupportedModelError(f"mace: the model has no tensor {key!r}; its configuration does not fit it")
        self.unread.discard(key)
        return self.tensors[key].detach().cpu()

    def agrees(self, pattern: str, value: float) -> None:
        """Raise if a constant of the model differs from the one that follows from its configuration."""
        for key in [k for k in self.unread if re.search(pattern, k)]:
            found = self(key).double()
            if not torch.allclose(found, torch.tensor(value, dtype=torch.float64), rtol=1e-5, atol=0.0):
                raise UnsupportedModelError(f"mace: {key} is {found.tolist()} in the weights, but {value:g} follows "
                                            "from the configuration")

    def couplings_agree(self) -> None:
        """Raise if the couplings of the convolution are others than ours; e3nn keeps them with the weights."""
        for key in sorted(self.unread):
            found = re.search(r"_w3j_(\d+)_(\d+)_(\d+)$", key)
            if found:
                theirs, ours = self(key).double(), torch.tensor(wigner_3j(*map(int, found.groups())))
                if theirs.shape != ours.shape or not torch.allclose(theirs, ours, rtol=0.0, atol=1e-5):
                    raise UnsupportedModelError(f"mace: {key} is not the coupling of these degrees; the model was made "
                                                "with other Clebsch-Gordan conventions")

    def finish(self) -> None:
        """Raise if a tensor that matters was not read: the model has a part we do not know."""
        left = sorted(k for k in self.unread if self.tensors[k].numel() and not IGNORED.search(k))
        if left:
            raise UnsupportedModelError(f"mace: {len(left)} tensor(s) of the model are of a kind mlip does not "
                                        f"support: {', '.join(left[:6])}")


def _tensors(read: _Reader, c: MACEConfig) -> Iterator[tuple[str, Tensor]]:
    elements, heads, dim = len(c.atomic_numbers), len(c.heads), c.channels
    if tuple(read("atomic_numbers").tolist()) != c.atomic_numbers:
        raise UnsupportedModelError("mace: the element table of the weights differs from the configuration")
    read.agrees(r"(^|cutoff_fn\.|bessel_fn\.)r_max$", c.cutoff)
    read.agrees(r"(cutoff_fn|pair_repulsion_fn)\.p$", c.cutoff_power)
    read.agrees(r"bessel_fn\.prefactor$", (2 / c.cutoff) ** 0.5)
    read.couplings_agree()
    z = torch.tensor(c.atomic_numbers)
    yield "atomic_energies", read("atomic_energies_fn.atomic_energies").reshape(heads, elements).double()
    yield "embedding", read("node_embedding.linear.weight").reshape(elements, dim)
    yield "bessel.frequencies", read("radial_embedding.bessel_fn.bessel_weights")
    if c.distance_transform == "agnesi":
        for name in ("a", "q", "p"):
            yield f"transform.{name}", read(f"radial_embedding.distance_transform.{name}")
        yield "transform.radii", read("radial_embedding.distance_transform.covalent_radii")[z]
    if c.pair_repulsion:
        for ours, name in (("coefficients", "c"), ("screening_exponent", "a_exp"),
                           ("screening_length", "a_prefactor")):
            yield f"repulsion.{ours}", read(f"pair_repulsion_fn.{name}")
        yield "repulsion.radii", read("pair_repulsion_fn.covalent_radii")[z]
    for t in range(c.num_layers):
        yield from _interaction(read, c, t)
        yield from (_product if c.tensor_product == "clebsch_gordan" else _gaunt_product)(read, c, t)
        weight = read(f"products.{t}.linear.weight")
        yield f"products.{t}.linear.weight", weight.reshape(c.layer_lmax(t) + 1, c.channels, c.channels)
    yield from _readouts(read, c)
    like = read("node_embedding.linear.weight")
    for name, default in (("scale", 1.0), ("shift", 0.0)):
        value = read(f"scale_shift.{name}") if c.scale_shift else torch.tensor(default, dtype=like.dtype)
        yield name, value.reshape(-1).expand(heads).clone()


def _interaction(read: _Reader, c: MACEConfig, t: int) -> Iterator[tuple[str, Tensor]]:
    theirs, ours, dim = f"interactions.{t}", f"interactions.{t}", c.channels
    lmax_in = 0 if t == 0 else c.layer_lmax(t - 1)
    yield f"{ours}.linear_up.weight", read(f"{theirs}.linear_up.weight").reshape(lmax_in + 1, dim, dim)
    layers = len(c.radial_mlp) + 1
    for i in range(layers):
        yield f"{ours}.radial.weights.{i}", read(f"{theirs}.conv_tp_weights.layer{i}.weight")
    counts = [0] * (c.edge_lmax + 1)
    for _, _, l3 in convolution_paths(lmax_in, c.edge_lmax, c.edge_lmax):
        counts[l3] += 1
    blocks = torch.split(read(f"{theirs}.linear.weight"), [n * dim * dim for n in counts])
    for l, (block, count) in enumerate(zip(blocks, counts, strict=True)):
        yield f"{ours}.linear.weights.{l}", block.reshape(count * dim, dim)
    skip = read(f"{theirs}.skip_tp.weight").reshape(-1, dim, len(c.atomic_numbers), dim)
    yield f"{ours}.skip.weight", skip.permute(2, 0, 1, 3).contiguous()
    if c.layer_interaction(t).startswith("density"):
        yield f"{ours}.density.weights.0", read(f"{theirs}.density_fn.layer0.weight")


def _product(read: _Reader, c: MACEConfig, t: int) -> Iterator[tuple[str, Tensor]]:
    lmax = c.layer_lmax(t)
    for l in range(lmax + 1):
        prefix = f"products.{t}.symmetric_contractions.contractions.{l}"
        for nu in range(1, c.correlation + 1):
            name = "weights_max" if nu == c.correlation else f"weights.{c.correlation - 1 - nu}"
            weight = read(f"{prefix}.{name}")
            change = torch.from_numpy(change_of_basis(read(f"{prefix}.U_matrix_{nu}").numpy(), c.edge_lmax, nu, l))
            yield (f"products.{t}.weights.{l * c.correlation + nu - 1}",
                   torch.einsum("ab,zbc->zac", change, weight.double()).to(weight.dtype))


def _gaunt_product(read: _Reader, c: MACEConfig, t: int) -> Iterator[tuple[str, Tensor]]:
    by_order = [read(f"products.{t}.efficient_multi_tensorproduct.weights.{nu}") for nu in range(1, c.correlation + 1)]
    shape = len(c.atomic_numbers), c.channels, c.layer_lmax(t) + 1
    yield f"products.{t}.weights", torch.stack([w.reshape(shape).mT for w in by_order], dim=1)


def change_of_basis(u: NDArray[np.floating], lmax: int, nu: int, l: int) -> NDArray[np.float64]:
    """Return [K, K'] that turns weights of the couplings `u` into weights of our basis.

    Args:
        u: the reference's U, [2l+1] (absent for l = 0) + [(lmax+1)^2]*nu + [K'].
        lmax: largest degree of the factors.
        nu: number of factors.
        l: degree of the values.

    Raises:
        UnsupportedModelError: couplings that are no combination of ours.
    """
    m = (lmax + 1) ** 2
    count = u.shape[-1]
    shaped = np.moveaxis(np.asarray(u, dtype=np.float64).reshape(2 * l + 1, *(m,) * nu, count), 0, -2)
    folded = fold(shaped.reshape(*(m,) * nu, (2 * l + 1) * count), lmax, nu)
    theirs = folded.reshape(-1, 2 * l + 1, count)
    basis = symmetric_basis(lmax, nu, l)
    ours = np.zeros((len(theirs), 2 * l + 1, basis.coefficients.shape[1]))
    ours[basis.rows] = basis.coefficients.transpose(0, 2, 1)
    flat_ours, flat_theirs = ours.reshape(-1, ours.shape[-1]), theirs.reshape(-1, count)
    change = np.linalg.lstsq(flat_ours, flat_theirs, rcond=None)[0]
    residual = np.abs(flat_ours @ change - flat_theirs).max(initial=0)
    if residual > 1e-5:
        raise UnsupportedModelError(f"mace: the coupling tensor U of {nu} factors to degree {l} is not the "
                                    f"expected one (residual {residual:.1e}); the model was made with other "
                                    "Clebsch-Gordan conventions")
    return np.asarray(change, dtype=np.float64)


def _readouts(read: _Reader, c: MACEConfig) -> Iterator[tuple[str, Tensor]]:
    heads, width = len(c.heads), c.readout_width
    for t in range(c.num_layers):
        if not 0 < t == c.num_layers - 1:
            yield f"readouts.{t}.weight", read(f"readouts.{t}.linear.weight").reshape(c.channels, heads)
            continue
        hidden = read(f"readouts.{t}.linear_1.weight").reshape(c.channels, heads, width)
        yield f"readouts.{t}.hidden", hidden.transpose(0, 1).contiguous()
        output = read(f"readouts.{t}.linear_2.weight").reshape(heads, width, heads)
        yield f"readouts.{t}.output", torch.stack([output[h, :, h] for h in range(heads)])
