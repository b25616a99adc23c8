"""Write the files of a Matbench Discovery submission for a sample of structures.

    python examples/13_matbench_discovery.py [output folder] [--model NAME] [--structures FILE] [--references FILE]

--structures is an extended XYZ file whose frames have a `material_id`, as in the initial structures of WBM; by default
a few crystals of six elements are made. --references is a JSON file, element -> eV/atom; by default the lowest crystal
of the sample is the reference of each element. Writes, as https://github.com/janosh/matbench-discovery describes them,

    <date>-geo-opt.jsonl.gz    material_id, relaxed structure (as of pymatgen), energy (eV), converged, n_steps
    <date>-discovery.csv.gz    material_id, e_form_per_atom (eV/atom), energy, converged, n_steps, error

A submission needs all 257 thousand structures of WBM, the references of the Materials Project, and for oxides and other
compounds of anions its corrections (MP2020), which pymatgen applies; this script leaves them out.
"""

import argparse
import csv
import datetime
import gzip
import json
import tempfile
from pathlib import Path

from ase import Atoms
from ase.build import bulk
from ase.io import read

import mlip
from mlip.errors import MLIPError
from mlip.screening.properties import formation
from mlip.simulation import relax

arguments = argparse.ArgumentParser()
arguments.add_argument("output", nargs="?", type=Path, help="folder to write into")
arguments.add_argument("--model", default="gaunt-mace-elements", help="any name of `mlip models list`, or a path")
arguments.add_argument("--structures", type=Path, help="extended XYZ with material_id")
arguments.add_argument("--references", type=Path, help="JSON, element -> eV/atom")
arguments.add_argument("--date", default=datetime.date.today().isoformat(), help="for the names of the files")
options = arguments.parse_args()
output = options.output or Path(tempfile.mkdtemp(prefix="mlip-"))
output.mkdir(parents=True, exist_ok=True)
CRYSTALS = {"fcc": {"Ni": 3.5, "Cu": 3.6, "Li": 4.3}, "bcc": {"Ni": 2.8, "Cu": 2.9, "Li": 3.5, "Mo": 3.1},
            "diamond": {"Si": 5.4, "Ge": 5.8}}


def sample() -> list[Atoms]:
    """Make crystals that are still to be relaxed, and one of an element that the model does not know."""
    made = [bulk(symbol, lattice, a=a) for lattice, of in CRYSTALS.items() for symbol, a in of.items()]
    for number, atoms in enumerate([*made, bulk("Au")], 1):
        atoms.info["material_id"] = f"sample-{number}"
    return [*made, atoms]


def structure_dict(atoms: Atoms) -> dict[str, object]:
    """Return a crystal as pymatgen's `Structure.as_dict` has it."""
    sites = [{"species": [{"element": symbol, "occu": 1}], "abc": abc.tolist(), "xyz": xyz.tolist(), "label": symbol,
              "properties": {}} for symbol, abc, xyz in zip(atoms.get_chemical_symbols(), atoms.get_scaled_positions(),
                                                            atoms.positions, strict=True)]
    lengths = dict(zip(("a", "b", "c", "alpha", "beta", "gamma"), atoms.cell.cellpar().tolist(), strict=True))
    lattice = {"matrix": atoms.cell.array.tolist(), "pbc": [True] * 3, "volume": atoms.get_volume(), **lengths}
    return {"@module": "pymatgen.core.structure", "@class": "Structure", "charge": 0, "properties": {},
            "lattice": lattice, "sites": sites}


structures = sample() if options.structures is None else read(options.structures, ":", format="extxyz")
potential = mlip.load(options.model, dtype="float64")  # double precision, as the benchmark asks

# 1. Relax positions and cell as the benchmark does: FIRE, forces below 0.05 eV/A, at most 500 steps.
relaxed, failed = {}, {}
for atoms in structures:
    name = atoms.info["material_id"]
    try:
        relaxed[name] = relax(atoms, potential, cell=True, fmax=0.05, steps=500, optimizer="fire")
    except MLIPError as error:
        failed[name] = f"{type(error).__name__}: {error}"

# 2. Formation energies from the references of the elements.
if options.references is not None:
    references = json.loads(options.references.read_text())
else:
    references = {}
    for done in relaxed.values():
        symbol, energy = done.atoms.symbols[0], done.energy / len(done.atoms)
        if len(set(done.atoms.symbols)) == 1:
            references[symbol] = min(energy, references.get(symbol, energy))
settings = formation.Settings(references)

# 3. The two files.
with gzip.open(output / f"{options.date}-geo-opt.jsonl.gz", "wt") as lines, \
        gzip.open(output / f"{options.date}-discovery.csv.gz", "wt", newline="") as table:
    rows = csv.DictWriter(table, ["material_id", "e_form_per_atom", "energy", "converged", "n_steps", "error"])
    rows.writeheader()
    for atoms in structures:
        name = atoms.info["material_id"]
        if name in failed:
            rows.writerow({"material_id": name, "converged": False, "n_steps": 0, "error": failed[name]})
            print(f"{name:12} {failed[name]}")
            continue
        done = relaxed[name]
        formed = formation.compute(done.atoms, potential, settings)["formation_energy"]
        found = {"material_id": name, "energy": done.energy, "converged": done.converged, "n_steps": done.steps}
        rows.writerow({**found, "e_form_per_atom": formed})
        lines.write(json.dumps({**found, "structure": structure_dict(done.atoms)}) + "\n")
        print(f"{name:12} {done.atoms.get_chemical_formula():8} {formed:+.4f} eV/atom, {done.steps} steps")
print(f"{len(relaxed)} of {len(structures)} structures relaxed; files in {output}")
