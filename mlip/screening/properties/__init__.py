"""One file for each property.

A file `NAME.py` here is the property NAME. It has a frozen dataclass of settings; `UNITS`, the units of its results;
`compute(atoms, potential, settings)`, which returns the results, JSON, of one structure, or raises an error that says
why there are none; and `NEEDS`, the properties that must be done before, by default `("relax",)`: then the atoms are
the relaxed ones. Numbers have the precision of the potential: take one in float64 for what comes from small
differences, such as phonons.
"""
