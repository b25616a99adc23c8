"""Screen a folder of crystals: relax them, fit equations of state and elastic tensors, and write a report.

    python examples/12_screening_folder.py [output folder] [--model NAME] [--structures FOLDER] [--references FILE]
                                           [--properties relax,eos,elastic] [--parsl FILE]

Without --structures 24 crystals of six elements are made: strained, with atoms out of place, with a vacancy, and two
that cannot be right; they are compared with all-electron calculations. Writes the store (rows/), table.csv and
report.html, which any browser shows, into the output folder, by default a new temporary one. Run it again with the same
folder, and what is there is not computed again. --parsl shares the work out, see examples/parsl_local.py.
"""

import argparse
import contextlib
import tempfile
from pathlib import Path

from ase import Atoms
from ase.build import bulk
from ase.collections import dcdft

from mlip.screening import screen
from mlip.screening.parsl import parsl_workers
from mlip.screening.report import write_report

LATTICES = {"Ni": ("fcc", 3.52), "Cu": ("fcc", 3.63), "Li": ("bcc", 3.44), "Mo": ("bcc", 3.16), "Si": ("diamond", 5.47),
            "Ge": ("diamond", 5.76)}
# PBE of WIEN2k (Lejaeghere et al., Science 351, aad3000 (2016), as ASE has it): GPa and A^3/atom.
REFERENCES = [{"id": f"{symbol}{kind}.cif", "bulk_modulus": dcdft.data[symbol]["wien2k_B"],
               "equilibrium_volume": dcdft.data[symbol]["wien2k_volume"]}
              for symbol in LATTICES for kind in ("", "-stretched", "-rattled")]


def make_structures(folder: Path) -> Path:
    """Write three crystals of each element, vacancies of four, an unknown element and two atoms in one place."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (symbol, (lattice, a)) in enumerate(LATTICES.items()):
        crystal = bulk(symbol, lattice, a=a)
        crystal.write(folder / f"{symbol}.cif")
        stretched = bulk(symbol, lattice, a=1.02 * a)
        stretched.write(folder / f"{symbol}-stretched.cif")
        rattled = bulk(symbol, lattice, a=a, cubic=True)
        rattled.rattle(0.03, seed=seed)
        rattled.write(folder / f"{symbol}-rattled.cif")
        if lattice != "diamond":
            vacancy = bulk(symbol, lattice, a=a, cubic=True).repeat(2 if lattice == "bcc" else (2, 1, 1))
            del vacancy[0]
            vacancy.write(folder / f"{symbol}-vacancy.cif")
    bulk("Au").write(folder / "unknown-element.cif")
    Atoms("Cu2", [[0, 0, 0], [0.1, 0, 0]], cell=[4, 4, 4], pbc=True).write(folder / "two-in-one-place.cif")
    return folder


arguments = argparse.ArgumentParser()
arguments.add_argument("output", nargs="?", type=Path, help="folder to write into")
arguments.add_argument("--model", default="gaunt-mace-elements", help="any name of `mlip models list`, or a path")
arguments.add_argument("--structures", type=Path, help="your own folder of structures")
arguments.add_argument("--references", type=Path, help="CSV or JSON: id or formula, results to compare with")
arguments.add_argument("--properties", default="relax,eos,elastic", help="names with commas between them")
arguments.add_argument("--parsl", type=Path, help="configuration of workers")
options = arguments.parse_args()
output = options.output or Path(tempfile.mkdtemp(prefix="mlip-"))

structures = options.structures or make_structures(output / "structures")
references = options.references or (None if options.structures else REFERENCES)
with contextlib.nullcontext() if options.parsl is None else parsl_workers(options.parsl, output) as workers:
    table = screen(structures, options.model, options.properties.split(","), output, executor=workers)

for row in {row.id: row for row in reversed(table.failures)}.values():  # the first that failed
    print(f"{Path(row.id).name}: no {row.property}: {row.reason}")
report = write_report(table.rows, output / "report.html", references)
print(f"{len(table.rows) - len(table.failures)} of {len(table.rows)} results went well; see {report}")
