"""Screen a folder of structures: relax each, fit equations of state, print a table.

    python examples/06_screening.py [output folder] [--model NAME] [--structures FOLDER]

Without --structures a few small crystals and a molecule are made. Writes them and screening.jsonl into the output
folder, by default a new temporary one. Run it twice with the same folder: the second time nothing is computed.
"""

import argparse
import tempfile
from pathlib import Path

from ase import Atoms
from ase.build import bulk, molecule
from ase.io import write
from ase.spacegroup import crystal

import mlip
from mlip.screening import screen_folder, table

arguments = argparse.ArgumentParser()
arguments.add_argument("output", nargs="?", type=Path, help="folder to write into")
arguments.add_argument("--model", default="mace-acac", help="any name of `mlip models list`, or a path")
arguments.add_argument("--structures", type=Path, help="your own folder of structures")
options = arguments.parse_args()
output = options.output or Path(tempfile.mkdtemp(prefix="mlip-"))


def make_structures(folder: Path) -> Path:
    """Write crystals of C, H and O, one molecule, and a file that is broken."""
    folder.mkdir(parents=True, exist_ok=True)
    graphite = Atoms("C4", scaled_positions=[(0, 0, 0.25), (1 / 3, 2 / 3, 0.25), (0, 0, 0.75), (2 / 3, 1 / 3, 0.75)],
                     cell=[2.46, 2.46, 6.7, 90, 90, 120], pbc=True)
    dry_ice = crystal(["C", "O"], [(0, 0, 0), (0.118, 0.118, 0.118)], spacegroup=205,
                      cellpar=[5.6, 5.6, 5.6, 90, 90, 90])
    write(folder / "diamond.cif", bulk("C", "diamond", a=3.57))
    write(folder / "graphite.cif", graphite)
    write(folder / "dry-ice.cif", dry_ice)
    write(folder / "acetone.xyz", molecule("CH3COCH3"))  # no crystal: relaxed, but no equation of state
    (folder / "broken.cif").write_text("a file that got lost on its way\n")  # must not stop the others
    return folder


structures = options.structures or make_structures(output / "structures")
potential = mlip.load(options.model)
print(f"model {options.model}; elements {' '.join(potential.elements)}")
if options.model == "mace-acac":
    print("NOTE: this model knows one molecule, acetylacetone. Its numbers for crystals only demonstrate the\n"
          "workflow and mean nothing; take a model made for crystals, e.g. --model mace-mp-0b3-medium.")

# Crystals relax with their cell, then their energy is fitted at 7 volumes from 94 to 106 %.
# Each row is stored when it is done; a rerun computes only what is new, changed, or asked with other settings.
rows = screen_folder(structures, potential, output / "screening.jsonl", fmax=0.02, steps=150)
print(f"\n{table(rows)}\n")
print(f"{sum(row.status == 'ok' for row in rows)} of {len(rows)} structures went well; "
      f"rows in {output / 'screening.jsonl'}")
