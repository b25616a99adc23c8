"""Placeholder."""

from mlip.neighbors.brute import brute_force as neighbor_list

__all__ = ["neighbor_list"]
