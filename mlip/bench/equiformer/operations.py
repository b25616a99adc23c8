"""How many multiplications EquiformerV3 cannot do without, and at which rate this processor does them at best.

Counted are products of matrices, after what algebra can take away: the linear maps of the feed-forward network merged,
the fewest points for products on the sphere. Element-wise work and what is done once for a call is left out: it is
little.
"""

from __future__ import annotations

from mlip.models.equiformer_v3 import EquiformerV3Config
from mlip.so3.degrees import size
from mlip.so3.edge_frame import EdgeFrame
from mlip.so3.quadrature import sphere_quadrature

PASSES = 2  # the energy, and its derivative by the inputs, which takes the same products again
FLOP = 2  # operations of a multiplication and an addition


def edge_operations(c: EquiformerV3Config) -> dict[str, int]:
    """Return the multiply-adds of the energy for one edge and layer, by part."""
    hidden, values, both = c.attention_hidden, c.num_heads * c.attention_value, 2 * c.channels
    extra = c.num_heads * c.attention_alpha + 3 * hidden
    frame, degrees = EdgeFrame(c.lmax, c.mmax), c.lmax + 1
    points = (3 * c.lmax // 2 + 1) * (3 * c.mmax + 1)  # Gauss-Legendre along the edge, uniform around it
    width = c.edge_channels
    return {
        "SO(2) linear 1": _so2(c, both, 2 * hidden, extra),
        "SO(2) linear 2": _so2(c, hidden, values, 0),
        "radial network": width * (c.num_gaussians + 2 * width + width + degrees * both),
        "rotations": frame.entries * (both + values),
        "product on the sphere": points * frame.components * 3 * hidden,
    }


def _so2(c: EquiformerV3Config, inputs: int, outputs: int, extra: int) -> int:
    """Return those of a linear map around the edge: one real matrix for m = 0, four for each order beyond."""
    counts = [c.lmax + 1 - m for m in range(c.mmax + 1)]
    zero = counts[0] * inputs * (extra + counts[0] * outputs)
    return zero + sum(4 * n * inputs * n * outputs for n in counts[1:])


def atom_operations(c: EquiformerV3Config) -> dict[str, int]:
    """Return the multiply-adds of the energy for one atom and layer, by part."""
    width, components = c.feed_forward_hidden, size(c.lmax)
    points = len(sphere_quadrature(3 * c.lmax)[1])
    values = c.num_heads * c.attention_value
    return {
        "projection of the attention": components * values * c.channels,
        "feed-forward, linear maps": components * c.channels * 3 * width,
        "feed-forward, scalars": c.channels * 4 * width,
        "feed-forward, product on the sphere": points * components * 3 * width,
    }


def feed_forward_flop(c: EquiformerV3Config, atoms: int) -> int:
    """Return the operations of one feed-forward network forward."""
    return FLOP * atoms * sum(n for part, n in atom_operations(c).items() if part.startswith("feed-forward"))


def flop(c: EquiformerV3Config, atoms: int, edges: int) -> int:
    """Return the operations of energy and forces."""
    layer = edges * sum(edge_operations(c).values()) + atoms * sum(atom_operations(c).values())
    return PASSES * FLOP * c.num_layers * layer


def gemm_shapes(c: EquiformerV3Config, rows: tuple[int, ...] = (512, 2048)) -> list[tuple[int, int, int]]:
    """Return shapes (n, k, m) of products [n, k] x [k, m] as the first SO(2) linear map takes them."""
    both, twice = 2 * c.channels, 2 * c.attention_hidden
    extra = c.num_heads * c.attention_alpha + 3 * c.attention_hidden
    counts = [c.lmax + 1 - m for m in range(c.mmax + 1)]
    widths = [(counts[0] * both, extra + counts[0] * twice), *((n * both, 2 * n * twice) for n in counts[1:])]
    return [(n, *width) for n in rows for width in widths]
