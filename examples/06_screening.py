"""Screen a few structures: relax each in batches, keep every result and every reason, print a table.

    python examples/06_screening.py [output folder] [--model NAME] [--structures FOLDER] [--properties relax,...]

Without --structures they are small crystals of the elements of the bundled model, and one it does not know. Writes the
store (rows/) and table.csv into the output folder, by default a new temporary one. Run it twice with the same folder:
the second time nothing is computed. `mlip screen --explain ID --out FOLDER` tells all that produced a number.
Example 12 does the same for a folder of files, with a page.
"""

import argparse
import tempfile
from pathlib import Path

from ase.build import bulk

import mlip
from mlip.screening import screen
from mlip.screening.properties import relax

arguments = argparse.ArgumentParser()
arguments.add_argument("output", nargs="?", type=Path, help="folder to write into")
arguments.add_argument("--model", default="gaunt-mace-elements", help="any name of `mlip models list`, or a path")
arguments.add_argument("--structures", type=Path, help="your own folder of structures")
arguments.add_argument("--properties", default="relax", help="names with commas between them")
options = arguments.parse_args()
output = options.output or Path(tempfile.mkdtemp(prefix="mlip-"))

CRYSTALS = (("Ni", "fcc", 3.6), ("Cu", "fcc", 3.5), ("Li", "bcc", 3.5), ("Mo", "bcc", 3.1), ("Si", "diamond", 5.6),
            ("Ge", "diamond", 5.6), ("Cu", "bcc", 2.9), ("Ni", "sc", 2.5), ("Au", "fcc", 4.1))
structures = options.structures or [bulk(symbol, lattice, a=a, cubic=True) for symbol, lattice, a in CRYSTALS]
potential = mlip.load(options.model)
print(f"model {options.model}; elements {' '.join(potential.elements)}")
table = screen(structures, potential, options.properties.split(","), output,
               settings={"relax": relax.Settings(fmax=1e-3)})

print(f"\n{'structure':24}{'formula':>9}{'eV/atom':>12}{'A^3/atom':>10}{'steps':>7}")
for line in table.records():
    name = Path(line["id"]).name
    if line["relax.status"] == "failed":
        print(f"{name:24}{line['formula']:>9}  failed: {line['relax.reason']}")
        continue
    volume = "-" if line["relax.volume"] is None else f"{line['relax.volume'] / line['atoms']:.3f}"
    print(f"{name:24}{line['formula']:>9}{line['relax.energy_per_atom']:>12.5f}{volume:>10}{line['relax.steps']:>7}")
print(f"\n{len(table.rows) - len(table.failures)} of {len(table.rows)} results went well; see {output / 'table.csv'}")
