"""Structures as arrays, and batches of them as tensors with their neighbour lists."""

from mlip.graph.atomgraph import AtomGraph
from mlip.graph.build import build_graph, check_elements, check_state, naming
from mlip.graph.structure import Structure
from mlip.graph.turned import turned, turned_each

__all__ = ["AtomGraph", "Structure", "build_graph", "check_elements", "check_state",
           "naming", "turned", "turned_each"]
