"""Differentiable primitives. One file for each: the plain torch form is the oracle of the compiled one."""

from mlip.ops.antisymmetric import poisson_bracket, vector_cross, vector_dot, vector_signal_product
from mlip.ops.backend import BACKENDS, Backend, backends, check_backend, compiled_is_available, use_compiled
from mlip.ops.degree_linear import Rows, degree_linear, joined
from mlip.ops.edge_attention import edge_attention
from mlip.ops.edge_convolution import Edges, edge_convolution
from mlip.ops.edge_rotation import packing_index, rotate_from_edges, rotate_to_edges
from mlip.ops.fourier_product import fourier_power, fourier_product
from mlip.ops.gaunt import gaunt_power, gaunt_product
from mlip.ops.gaunt_convolution import gaunt_convolution, gaunt_filter
from mlip.ops.gaunt_polynomial import gaunt_polynomial
from mlip.ops.harmonics import spherical_harmonics
from mlip.ops.matrix_product import matrix_product
from mlip.ops.radial_table import radial_table
from mlip.ops.sparse_product import sparse_product
from mlip.ops.sphere_powers import sphere_powers
from mlip.ops.sphere_product import sphere_product
from mlip.ops.symmetric_contraction import symmetric_contraction
from mlip.ops.wigner import wigner_matrices

__all__ = ["BACKENDS", "Backend", "Edges", "Rows", "backends", "check_backend", "compiled_is_available",
           "degree_linear", "edge_attention", "edge_convolution", "fourier_power", "fourier_product",
           "gaunt_convolution", "gaunt_filter", "gaunt_polynomial", "gaunt_power", "gaunt_product", "joined",
           "matrix_product", "packing_index", "poisson_bracket", "radial_table", "rotate_from_edges", "rotate_to_edges",
           "sparse_product", "sphere_powers", "sphere_product", "spherical_harmonics", "symmetric_contraction",
           "use_compiled", "vector_cross", "vector_dot", "vector_signal_product", "wigner_matrices"]
