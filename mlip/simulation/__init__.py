"""The main jobs on one structure: relax it, and move it in ASE or OpenMM."""

from mlip.simulation.ase_engine import run_ase, with_velocities
from mlip.simulation.barostat import Barostat
from mlip.simulation.molecules import Molecules, molecules_of
from mlip.simulation.openmm_engine import run_openmm
from mlip.simulation.plan import Plan
from mlip.simulation.record import Record
from mlip.simulation.relax import Relaxation, relax
from mlip.simulation.spread_reporter import SpreadReporter
from mlip.simulation.stop_rule import StopRule

__all__ = ["Barostat", "Molecules", "Plan", "Record", "Relaxation", "SpreadReporter", "StopRule", "molecules_of",
           "relax", "run_ase", "run_openmm", "with_velocities"]
