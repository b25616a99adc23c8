"""Neighbour lists: one function for every cell, and a list with a skin for dynamics."""

from mlip.neighbors.celllist import neighbor_list
from mlip.neighbors.contacts import closest_contact
from mlip.neighbors.edges import NeighborList
from mlip.neighbors.pairing import number_pairs
from mlip.neighbors.skin import VerletSkin

__all__ = ["NeighborList", "VerletSkin", "closest_contact", "neighbor_list", "number_pairs"]
