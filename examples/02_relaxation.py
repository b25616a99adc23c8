"""Relax a molecule, and see how far its bonds moved.

    python examples/02_relaxation.py [output folder]

Writes relaxed.xyz into the folder, by default a new temporary one.
"""

import sys
import tempfile
from pathlib import Path

import mlip
from mlip.io.files import write_structures
from mlip.simulation import relax
from mlip.simulation.quickstart import acetylacetone

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="mlip-"))
folder.mkdir(parents=True, exist_ok=True)
potential = mlip.load("mace-acac")

# Start away from the minimum: every coordinate moved by about 0.05 A.
start = acetylacetone()
start.rattle(0.05, seed=1)

# `relax` works on a copy and tells whether it converged: always look.
# A crystal would also relax its cell with cell=True.
result = relax(start, potential, fmax=0.01, steps=300)
print(f"converged: {result.converged} after {result.steps} steps")
print(f"energy:    {potential.predict(start).energy:.6f} -> {result.energy:.6f} eV")
print(f"force:     {result.max_force:.4f} eV/A at most\n")

# The enol is held by a hydrogen bond: O-H ... O=C. Indices: O5 of the ketone, O6 and H11 of the enol.
print("bond       start (A)   relaxed (A)")
for name, i, j in (("O6-H11", 6, 11), ("H11...O5", 11, 5), ("C0-O6", 0, 6), ("C2=O5", 2, 5), ("C0=C1", 0, 1)):
    print(f"{name:10} {start.get_distance(i, j):9.3f} {result.atoms.get_distance(i, j):13.3f}")

# The file holds energy and forces too, for ASE and everything that reads extended XYZ.
print(f"\nwritten: {write_structures(folder / 'relaxed.xyz', [result.atoms])}")
