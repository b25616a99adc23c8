"""Screen a folder of crystals: relax them, fit equations of state and elastic tensors, and write a report.

    python examples/12_screening_folder.py [output folder] [--model NAME] [--structures FOLDER] [--references FILE]
                                           [--properties relax,eos,elastic] [--dtype float64] [--parsl FILE]

Without --structures 24 crystals of six elements are made: strained, with atoms out of place, with a vacancy, and two
that cannot be right; they are compared with density functional theory: equations of state of all electrons, and elastic
moduli of the calculations the default model was trained on. Prints the comparison, and writes the store (rows/),
table.csv and report.html, which any browser shows, into the output folder, by default a new temporary one. Run it again
with the same folder, and what is there is not computed again. --parsl shares the work out, see examples/parsl_local.py.
"""

import argparse
import contextlib
import tempfile
from pathlib import Path

from ase import Atoms
from ase.build import bulk
from ase.collections import dcdft

import mlip
from mlip.screening import screen
from mlip.screening.parsl import parsl_workers
from mlip.screening.report import compared, write_report

LATTICES = {"Ni": ("fcc", 3.52), "Cu": ("fcc", 3.63), "Li": ("bcc", 3.44), "Mo": ("bcc", 3.16), "Si": ("diamond", 5.47),
            "Ge": ("diamond", 5.76)}
# Moduli of Voigt, bulk and shear, GPa: slopes of the PBE stresses of the strained cells in mlearn (Zuo et al., J. Phys.
# Chem. A 124, 731 (2020)), of cubic polynomials of strains below 6 %. Sheared silicon and germanium do not relax there,
# and the labels of sheared lithium contradict each other: -0.09 GPa at a shear of 0.01, +0.04 at 0.02.
MLEARN = {"Ni": (207.0, 104.9), "Cu": (148.9, 60.5), "Li": (15.1, None), "Mo": (268.3, 128.8), "Si": (88.7, None),
          "Ge": (63.0, None)}
# The others are PBE of WIEN2k (Lejaeghere et al., Science 351, aad3000 (2016), as ASE has it): GPa and A^3/atom.
REFERENCES = [{"id": f"{symbol}{kind}.cif", "eos.bulk_modulus": dcdft.data[symbol]["wien2k_B"],
               "bulk_modulus_derivative": dcdft.data[symbol]["wien2k_Bp"],
               "equilibrium_volume": dcdft.data[symbol]["wien2k_volume"],
               "bulk_modulus_voigt": MLEARN[symbol][0], "shear_modulus_voigt": MLEARN[symbol][1]}
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
arguments.add_argument("--dtype", help="float32 or float64, which phonons should have (default: that of the file)")
arguments.add_argument("--parsl", type=Path, help="configuration of workers")
options = arguments.parse_args()
output = options.output or Path(tempfile.mkdtemp(prefix="mlip-"))

structures = options.structures or make_structures(output / "structures")
references = options.references or (None if options.structures else REFERENCES)
with contextlib.nullcontext() if options.parsl is None else parsl_workers(options.parsl, output) as workers:
    potential = mlip.load(options.model, dtype=options.dtype)
    table = screen(structures, potential, options.properties.split(","), output, executor=workers)

for row in {row.id: row for row in reversed(table.failures)}.values():  # the first that failed
    print(f"{Path(row.id).name}: no {row.property}: {row.reason}")
if references is not None:
    print(compared(table.rows, references))
report = write_report(table.rows, output / "report.html", references)
print(f"{len(table.rows) - len(table.failures)} of {len(table.rows)} results went well; see {report}")
