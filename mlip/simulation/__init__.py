"""The main jobs on one structure: relax it, and move it in ASE or OpenMM."""

from mlip.simulation.ase_engine import run_ase, with_velocities
from mlip.simulation.openmm_engine import run_openmm
from mlip.simulation.record import Plan, Record
from mlip.simulation.relax import Relaxation, relax
from mlip.simulation.spread_reporter import SpreadReporter
from mlip.simulation.stop_rule import StopRule

__all__ = ["Plan", "Record", "Relaxation", "SpreadReporter", "StopRule", "relax", "run_ase", "run_openmm",
           "with_velocities"]
