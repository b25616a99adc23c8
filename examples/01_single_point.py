"""Energy, forces and stress of structures: with ASE, and in one batch.

    python examples/01_single_point.py

Nothing is written.
"""

import numpy as np

import mlip
from mlip.calculators import MLIPCalculator
from mlip.simulation.quickstart import acetylacetone

# A model is loaded by its name (`mlip models list` shows them all) or by the path of its file.
# "mace-acac" is bundled with the package; it was trained on one molecule, acetylacetone.
potential = mlip.load("mace-acac")
print(potential)
print(f"trained on: {potential.info.training_data or 'not recorded'}\n")

# 1. The ASE way: a calculator on an Atoms object. Everything that ASE does with calculators works.
atoms = acetylacetone()
atoms.calc = MLIPCalculator(potential)  # MLIPCalculator("mace-acac") would load the model itself
forces = atoms.get_forces()
print(f"energy         {atoms.get_potential_energy():.6f} eV")
print(f"largest force  {np.linalg.norm(forces, axis=1).max():.4f} eV/A")

# 2. Without a calculator: one Atoms object gives one Prediction.
prediction = potential.predict(atoms)
print(f"the same       {prediction.energy:.6f} eV, the sum of {len(prediction.energies)} atomic energies\n")

# 3. Many structures at once: one batch for the model, much faster than one after the other.
#    Here the O-H bond of the enol is stretched step by step. Indices: hydrogen 11, oxygen 6.
lengths = np.linspace(0.9, 1.3, 9)
stretched = []
for length in lengths:
    copy = acetylacetone()
    copy.set_distance(6, 11, length, fix=0)  # oxygen stays, hydrogen moves
    stretched.append(copy)
curve = potential.predict(stretched, stress=False)
lowest = min(p.energy for p in curve)
print("O-H length (A)   energy above the lowest (eV)")
for length, p in zip(lengths, curve, strict=True):
    print(f"{length:14.2f}   {p.energy - lowest:10.4f}")
