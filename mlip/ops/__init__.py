"""Differentiable primitives. One file for each: the plain torch form is the oracle of the compiled one."""

from mlip.ops.backend import BACKENDS, Backend, backends, check_backend, compiled_is_available, use_compiled
from mlip.ops.edge_convolution import Edges, edge_convolution
from mlip.ops.harmonics import spherical_harmonics
from mlip.ops.radial_table import radial_table
from mlip.ops.sphere_product import sphere_product
from mlip.ops.symmetric_contraction import symmetric_contraction

__all__ = ["BACKENDS", "Backend", "Edges", "backends", "check_backend", "compiled_is_available", "edge_convolution",
           "radial_table", "sphere_product", "spherical_harmonics", "symmetric_contraction", "use_compiled"]
