"""Properties of one relaxed structure, one file each.

Every file has a frozen dataclass `Settings` with sound defaults, a function `compute(atoms, potential, settings)` that
returns JSON-compatible values, and `UNITS`, the unit of each of them. Numbers have the precision of the potential: take
one in float64 (`potential.to(dtype="float64")`) for what comes from small differences, such as phonons.
"""
