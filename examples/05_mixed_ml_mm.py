"""Mixed ML/MM: acetylacetone described by the model, the water around it by TIP3P.

    python examples/05_mixed_ml_mm.py [output folder]

Needs openmm-ml, which finds mlip by its name once mlip-md is installed (pip install "mlip-md[openmm]").
Writes start.pdb and energies.csv into the folder, by default a new temporary one.
"""

import io
import sys
import tempfile
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit
from openmmml import MLPotential

from mlip.simulation.quickstart import acetylacetone
from mlip.units import KJ_PER_MOL_PER_EV

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="mlip-"))
folder.mkdir(parents=True, exist_ok=True)

# 1. The classical part. Inside the molecule the model acts; between molecule and water, and in the water, charges and
#    Lennard-Jones do ("mechanical embedding"). So the molecule needs charges and sigma/epsilon, but no bonded terms.
#    These values are ILLUSTRATIVE: typical of general force fields, fitted to nothing. For science take fitted ones.
TYPES = {  # name: element, mass, charge (e), sigma (nm), epsilon (kJ/mol)
    "cm": ("C", 12.011, -0.225, 0.340, 0.458), "hm": ("H", 1.008, 0.075, 0.265, 0.066),  # methyl
    "cc": ("C", 12.011, 0.55, 0.340, 0.360), "oc": ("O", 15.999, -0.55, 0.296, 0.879),  # C=O
    "ce": ("C", 12.011, 0.35, 0.340, 0.360), "oe": ("O", 15.999, -0.55, 0.307, 0.880),  # C-OH
    "ho": ("H", 1.008, 0.40, 0.1, 0.0), "ca": ("C", 12.011, -0.35, 0.340, 0.360), "ha": ("H", 1.008, 0.15, 0.26, 0.063)}
ATOMS = "ce ca cc cm cm oc oe ha hm hm hm ho hm hm hm".split()  # in the order of `acetylacetone()`
BONDS = [(0, 1), (1, 2), (2, 3), (0, 4), (2, 5), (0, 6), (1, 7), (3, 8), (3, 9), (3, 10), (6, 11), (4, 12), (4, 13),
         (4, 14)]


def force_field_xml() -> str:
    """Return the residue ACA in OpenMM's XML; the scale factors are those of the Amber water file."""
    kinds = "".join(f'<Type name="{k}" class="{k}" element="{e}" mass="{m}"/>' for k, (e, m, *_) in TYPES.items())
    atoms = "".join(f'<Atom name="A{i}" type="{k}"/>' for i, k in enumerate(ATOMS))
    bonds = "".join(f'<Bond atomName1="A{i}" atomName2="A{j}"/>' for i, j in BONDS)
    pairs = "".join(f'<Atom type="{k}" charge="{q}" sigma="{s}" epsilon="{e}"/>' for k, (*_, q, s, e) in TYPES.items())
    return (f'<ForceField><AtomTypes>{kinds}</AtomTypes><Residues><Residue name="ACA">{atoms}{bonds}</Residue>'
            f'</Residues><NonbondedForce coulomb14scale="0.8333333333333334" lj14scale="0.5">{pairs}</NonbondedForce>'
            "</ForceField>")


# 2. Topology of the molecule, then water around it.
molecule = acetylacetone()
topology = app.Topology()
residue = topology.addResidue("ACA", topology.addChain())
members = [topology.addAtom(f"A{i}", app.Element.getBySymbol(s), residue) for i, s in enumerate(molecule.symbols)]
for i, j in BONDS:
    topology.addBond(members[i], members[j])
force_field = app.ForceField("amber14/tip3p.xml", io.StringIO(force_field_xml()))
modeller = app.Modeller(topology, molecule.positions * 0.1 * unit.nanometer)
modeller.addSolvent(force_field, model="tip3p", boxSize=openmm.Vec3(1.9, 1.9, 1.9) * unit.nanometer)
mm_system = force_field.createSystem(modeller.topology, nonbondedMethod=app.PME, nonbondedCutoff=0.8 * unit.nanometer)
ml_atoms = list(range(len(molecule)))
print(f"{len(ml_atoms)} ML atoms, {modeller.topology.getNumAtoms() - len(ml_atoms)} atoms of water")

# 3. openmm-ml takes the interactions inside the molecule out of the classical System and puts the model in.
potential = MLPotential("mlip", model="mace-acac", dtype="float64")
system = potential.createMixedSystem(modeller.topology, mm_system, ml_atoms, forceGroup=1)

# 4. The rest is OpenMM as usual. The water is rigid, the hydrogens of the molecule move freely: 0.5 fs.
integrator = openmm.LangevinMiddleIntegrator(300 * unit.kelvin, 5 / unit.picosecond, 0.5 * unit.femtoseconds)
integrator.setRandomNumberSeed(1)
simulation = app.Simulation(modeller.topology, system, integrator)
simulation.context.setPositions(modeller.positions)
simulation.minimizeEnergy(maxIterations=30)
with (folder / "start.pdb").open("w") as file:
    app.PDBFile.writeFile(modeller.topology, simulation.context.getState(positions=True).getPositions(), file)
simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
simulation.reporters.append(app.StateDataReporter(str(folder / "energies.csv"), 10, step=True, temperature=True))
simulation.step(100)

# 5. The model has a force group of its own, so that its energy can be read apart.
ml_energy = simulation.context.getState(energy=True, groups={1}).getPotentialEnergy()
frames, temperature = np.loadtxt(folder / "energies.csv", delimiter=",", unpack=True)
print(f"energy of the molecule: {ml_energy.value_in_unit(unit.kilojoule_per_mole) / KJ_PER_MOL_PER_EV:.4f} eV")
for now, kelvin in list(zip(frames, temperature, strict=True))[::3]:
    print(f"temperature after {now:4.0f} steps: {kelvin:.0f} K")
print(f"written: {folder}/start.pdb, energies.csv")
