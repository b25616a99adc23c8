"""Wigner matrices of rotations, and rotations that bring the directions of edges onto the polar axis."""

from __future__ import annotations

import torch
from torch import Tensor

from mlip.ops.harmonics import spherical_harmonics
from mlip.ops.sphere_tables import component_degrees, sphere_samples
from mlip.so3.degrees import size


def wigner_matrices(rotations: Tensor, lmax: int) -> Tensor:
    """Return the matrices D with Y(R r) = D Y(r) for the real harmonics of all degrees up to `lmax`.

    The integrals of Y_i(R r) Y_j(r) over the sphere, by an exact quadrature: no angles, so no singular rotation.

    Args:
        rotations: R, [E, 3, 3].
        lmax: largest degree.

    Returns:
        [E, (lmax+1)^2, (lmax+1)^2], zero between different degrees; differentiable any number of times.
    """
    points, weighted = sphere_samples(lmax, rotations)
    turned = (rotations.reshape(-1, 3) @ points.T).view(-1, 3, len(points)).mT.reshape(-1, 3)
    signals = spherical_harmonics(turned, lmax).view(-1, len(points), size(lmax)).mT
    degree = component_degrees(lmax, rotations)
    matrices = (signals.reshape(-1, len(points)) @ weighted).view(-1, size(lmax), weighted.shape[1])
    return matrices[:, :, : size(lmax)] * (degree[:, None] == degree)


def from_polar_axis(vectors: Tensor) -> Tensor:
    """Return for each vector a rotation that turns the polar axis +y into its direction.

    The shortest rotation from +y or, for directions of the other half, from -y after half a turn around x. Neither
    comes near its singular direction.

    Args:
        vectors: [E, 3], none of length zero.

    Returns:
        [E, 3, 3]; differentiable any number of times.
    """
    x, y, z = torch.nn.functional.normalize(vectors, dim=-1, eps=0.0).unbind(-1)
    down = y < 0
    s = torch.where(down, -1.0, 1.0).to(y)
    k = 1 / (1 + s * y)  # of the rotation around (s z, 0, -s x) that turns (0, s, 0) into the direction
    a, c = s * z, -s * x  # with V = [a, 0, c] x, it is (1 + V + k V V) diag(1, s, s)
    rows = [1 - k * c * c, -s * c, s * k * a * c,
            c, s - s * k * (a * a + c * c), -s * a,
            k * a * c, s * a, s - s * k * a * a]
    return torch.stack(rows, dim=-1).view(-1, 3, 3)
