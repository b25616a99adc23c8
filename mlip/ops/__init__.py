"""Differentiable primitives. One file for each: the plain torch form is the oracle of every faster one."""

from mlip.ops.edge_convolution import edge_convolution
from mlip.ops.harmonics import spherical_harmonics
from mlip.ops.symmetric_contraction import symmetric_contraction

__all__ = ["edge_convolution", "spherical_harmonics", "symmetric_contraction"]
