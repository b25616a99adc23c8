"""Properties of many structures: one file per property, a table that survives interruptions."""

from mlip.screening.eos import EquationOfState, equation_of_state
from mlip.screening.folder import Row, screen_folder, table

__all__ = ["EquationOfState", "Row", "equation_of_state", "screen_folder", "table"]
