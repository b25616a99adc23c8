"""Properties of many structures: one file per property, batches, and a store that survives interruptions."""

from mlip.screening.eos import EquationOfState, equation_of_state
from mlip.screening.inputs import Entry, read_inputs
from mlip.screening.report import compared, write_report
from mlip.screening.screen import screen
from mlip.screening.shard import Shard, run_shard
from mlip.screening.store import Row, Store
from mlip.screening.table import Table, explain

__all__ = ["Entry", "EquationOfState", "Row", "Shard", "Store", "Table", "compared", "equation_of_state", "explain",
           "read_inputs", "run_shard", "screen", "write_report"]
