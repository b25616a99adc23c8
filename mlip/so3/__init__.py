"""Group theory: coupling coefficients and bookkeeping of degrees. No torch modules, no learning."""

from mlip.so3.wigner3j import wigner_3j

__all__ = ["wigner_3j"]
